"""Checkpoint files: upstream's layout and names outside, ours inside."""
