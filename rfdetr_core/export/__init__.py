"""Datasets in other formats."""
