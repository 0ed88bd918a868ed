"""`python -m rfdetr_core`."""

import sys

try:
    from rfdetr_core.cli import main
except SyntaxError as error:  # in one of the few modules that the command line itself consists of
    sys.exit(f"error: {error.filename}:{error.lineno} does not parse ({error.msg}). Correct it.")

if __name__ == "__main__":
    main()
