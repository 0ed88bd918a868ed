"""Detections from images."""
