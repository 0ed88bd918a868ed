"""What the six stages share: how one is run, and how its errors end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import rfdetr_core
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import shadows

# DVC removes the results of a stage before it runs; small ones are kept in git, the others in its cache. Restored are
# the outs of dvc.yaml alone: what the user changed in a dataset must stay.
RESTORE = "Earlier results, if there were any: git restore manifest reports output; dvc checkout --force dvc.yaml"


def run(stage: Callable[[], None]) -> None:
    """Run a stage; what the user can mend ends in one message and exit status 1."""
    try:
        _check_code_is_of_this_project()
        stage()
    except UserError as error:
        sys.exit(f"error: {error}\n{RESTORE}")
    except KeyboardInterrupt:
        print(f"\ninterrupted. {RESTORE}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _check_code_is_of_this_project() -> None:
    # An editable install elsewhere on the path would be trained with, while dvc.lock records the code that is here.
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    code = Path(rfdetr_core.__file__).resolve()
    if not code.is_relative_to(root):
        raise UserError(
            f"rfdetr_core is imported from {code.parent}, not from {root}. Run stages as python -m stages.<name> there."
        )
    if found := shadows(root):
        raise UserError(
            f"{', '.join(found)} would be imported in place of a module that the results are recorded to come from. "
            "Remove or rename it."
        )
