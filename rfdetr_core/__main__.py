"""`python -m rfdetr_core`."""

from rfdetr_core.cli import main

if __name__ == "__main__":
    main()
