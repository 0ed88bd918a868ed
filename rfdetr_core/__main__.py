"""Starts the command line: `python -m rfdetr_core`."""

import os
import sys

try:
    if sys.pycache_prefix == os.devnull:
        import rfdetr_core.base.sources  # noqa: F401 - the first import: Python then loads source files
    from rfdetr_core.cli import main
except SyntaxError as error:  # can only be in a module that cli.py imports at its top
    sys.exit(f"error: {error.filename}:{error.lineno} does not parse ({error.msg}). Correct it.")

if __name__ == "__main__":
    main()
