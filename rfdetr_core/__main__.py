"""Starts the command line: `python -m rfdetr_core`."""

import os
import sys

try:
    if sys.pycache_prefix == os.devnull:
        import rfdetr_core.base.sources  # noqa: F401 - first: the project then loads from source
    from rfdetr_core.cli import main
except SyntaxError as error:  # only of the few modules that the command line itself needs
    sys.exit(f"error: {error.filename}:{error.lineno} does not parse ({error.msg}). Correct it.")

if __name__ == "__main__":
    main()
