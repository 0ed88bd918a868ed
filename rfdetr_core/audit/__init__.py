"""Answers about files, images and models, from git alone."""
