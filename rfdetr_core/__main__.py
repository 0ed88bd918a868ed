"""`python -m rfdetr_core`."""

import os
import sys

try:
    if sys.pycache_prefix == os.devnull:
        import rfdetr_core.base.sources  # noqa: F401 - first, for its effect
    from rfdetr_core.cli import main
except SyntaxError as error:  # in one of the few modules that the command line itself consists of
    sys.exit(f"error: {error.filename}:{error.lineno} does not parse ({error.msg}). Correct it.")

if __name__ == "__main__":
    main()
