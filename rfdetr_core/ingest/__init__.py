"""A dataset as its owner keeps it: read, checked, and written in one canonical form."""
