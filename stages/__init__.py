"""Run a stage: compare its code with digests/<stage>.json, and end a UserError in one message."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import rfdetr_core.base.sources  # noqa: F401 - first, for its effect
from rfdetr_core.base import files, sources
from rfdetr_core.base.code import FOLDER, ROOT, STAGE, Code
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.imports import Guard, shadowing_files
from rfdetr_core.base.input_states import states_of
from rfdetr_core.base.memory import explaining_shortage
from rfdetr_core.base.printing import message_of
from rfdetr_core.base.processes import end_with_parent
from rfdetr_core.base.run_cache import keep_lock, save_run

_LESS_MEMORY = {"evaluate": "Free some, or lower evaluate.batch_size."}  # train and validate say more themselves
# DVC removes the results of a stage before it runs; small ones are kept in git, the others in its cache. Restored are
# the outs of dvc.yaml alone: what the user changed in a dataset must stay.
RESTORE = (
    "Earlier results, if there were any: "
    "git restore digests; git restore metadata; git restore manifest reports output; dvc checkout --force dvc.yaml"
)


def run(stage: Callable[[], None]) -> None:
    """Run a stage, which imports what it needs of the core; a UserError ends in one message and exit status 1."""
    # A rank that Lightning or torchrun started has nothing to finish alone.
    end_with_parent(signal.SIGTERM if os.environ.get("LOCAL_RANK", "0") == "0" else signal.SIGKILL)
    name, began = Path(sys.argv[0]).stem, time.time()
    try:
        _check_code_is_of_this_project()
        keep_lock()
        with explaining_shortage(_LESS_MEMORY.get(name, "Free some, or run on a machine with more.")):
            if name == STAGE:
                stage()
            else:
                with _digested_code(name), _held_inputs(name):
                    stage()
                # Loaded by name: what notes a result is no dependency of it.
                journal = importlib.import_module("rfdetr_core.lineage.journal")
                save_run(partial(journal.note, began=began))
    except UserError as error:
        sys.exit(f"{message_of(error)}\n{RESTORE}")
    except KeyboardInterrupt:
        print(f"\ninterrupted. {RESTORE}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        # torch's handler raises the death of a loader worker wherever Python is, also while it exits.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def _digested_code(name: str) -> Iterator[None]:
    """Stop a stage whose code is not that of digests/<name>.json: before it runs, when it imports, and when it has run.

    `dvc repro --single-item` and `--downstream` run no stage before it, and a module may be edited while it runs.
    """
    guard, file = Guard(Code(), name), FOLDER / f"{name}.json"  # first: what it lets through is compared next
    if not file.exists() and "DVC_STAGE" in os.environ:
        raise UserError(f"{file} does not exist. Run: dvc repro")
    # Started by hand, a stage may have no digests: then an edit is one of the code at its start.
    code = Code()
    digests = files.read_json(file) if file.exists() else code.digests_of(name)
    if changed := code.changed(name, digests):
        raise UserError(f"{_few(changed)} changed since the stage code ran. Run: dvc repro")
    sys.meta_path.insert(0, guard)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)
    if changed := [
        *dict.fromkeys([*Code().changed(name, digests), *code.compiled_from_other_source(sources.compiled, digests)])
    ]:
        raise UserError(
            f"Edited while {name} ran: {_few(changed)}. DVC does not record the result. To keep the result, undo the "
            "edit; then run: dvc repro"
        )


@contextmanager
def _held_inputs(name: str) -> Iterator[None]:
    """Stop a stage when it has run, if what it depends on is not what it was when it began."""
    before = states_of(name)
    yield
    if changed := [path for path, _, _ in files.changed_digests(before, states_of(name))]:
        raise UserError(
            f"Changed while {name} ran: {listed(changed)}. What was read of it is not known, so DVC does not record "
            "the result. Run: dvc repro"
        )


def _few(paths: list[str]) -> str:
    return paths[0] + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")


def _check_code_is_of_this_project() -> None:
    # An editable install elsewhere on the path would be trained with, while dvc.lock records the code that is here.
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    if not ROOT.is_relative_to(root):
        raise UserError(
            f"rfdetr_core is imported from {ROOT}, not from {root}. Run stages as python -m stages.<name> there."
        )
    if found := shadowing_files(root):
        raise UserError(
            f"{', '.join(found)} would be imported in place of a module that the results are recorded to come from. "
            "Remove or rename it."
        )
