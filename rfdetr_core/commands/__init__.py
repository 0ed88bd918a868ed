"""What each command of `python -m rfdetr_core` does; its arguments are in cli.py."""
