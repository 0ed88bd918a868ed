"""Models for other runtimes, each compared with its checkpoint; and datasets in other formats."""
