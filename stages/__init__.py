"""The stages of dvc.yaml: a script each, which reads its sections of params.yaml and calls the core.

`run` starts every script. It compares the stage's code with digests/<stage>.json, stops the stage if code or inputs
change while it runs, turns a UserError into one message, and writes the stage's journal entry and DVC's run cache.
DVC calls the scripts (`python -m stages.train`); a person can too. Start reading with stages/train.py.
"""

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

import rfdetr_core.base.sources  # noqa: F401 - first: from here on Python reads no bytecode of the project
from rfdetr_core.base import files, sources
from rfdetr_core.base.code import FOLDER, ROOT, STAGE, Code
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.imports import Guard, shadowing_files
from rfdetr_core.base.input_states import states_of
from rfdetr_core.base.memory import explaining_shortage, silence_shortages
from rfdetr_core.base.printing import message_of
from rfdetr_core.base.processes import end_with_parent
from rfdetr_core.base.run_cache import keep_lock, save_run

_LESS_MEMORY = {"evaluate": "Free some, or lower evaluate.batch_size."}  # train and validate have better messages
# DVC removes the results of a stage before it runs. Small results are in git, large ones in DVC's cache. The commands
# restore only the outs of dvc.yaml, so they do not overwrite a dataset that the user changed.
RESTORE = (
    "Earlier results, if there were any: "
    "git restore digests; git restore metadata; git restore manifest reports output; dvc checkout --force dvc.yaml"
)


def run(stage: Callable[[], None]) -> None:
    """Run a stage's function. A UserError ends in one message and exit status 1."""
    # The signal that this process gets when its parent dies. Ranks other than 0, which Lightning or torchrun started,
    # get SIGKILL, because they have nothing to finish without rank 0.
    end_with_parent(signal.SIGTERM if os.environ.get("LOCAL_RANK", "0") == "0" else signal.SIGKILL)
    name, began = Path(sys.argv[0]).stem, time.time()
    try:
        _check_code_is_of_this_project()
        keep_lock()
        with explaining_shortage(_LESS_MEMORY.get(name, "Free some, or run on a machine with more.")):
            if name == STAGE:
                stage()
            else:
                with _require_unchanged_code(name), _require_unchanged_inputs(name):
                    stage()
                # Loaded by name: the journal does not change a result, so the code digest does not include it.
                journal = importlib.import_module("rfdetr_core.lineage.journal")
                save_run(partial(journal.note, began=began))
    except UserError as error:
        silence_shortages()
        sys.exit(f"{message_of(error)}\n{RESTORE}")
    except KeyboardInterrupt:
        print(f"\ninterrupted. {RESTORE}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    finally:
        # When a loader worker dies, torch's handler raises an error at any line, even while Python exits.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def _require_unchanged_code(name: str) -> Iterator[None]:
    """Stop a stage whose code differs from digests/<name>.json.

    The code is checked when the stage starts, at each import, and when the stage ends.

    `dvc repro --single-item` and `--downstream` skip the stage code, and a module can be edited while the stage runs.
    """
    # The guard computes its digests before the comparison below. In the other order, it would allow a module that was
    # edited between the two.
    guard, file = Guard(Code(), name), FOLDER / f"{name}.json"
    if not file.exists() and "DVC_STAGE" in os.environ:
        raise UserError(f"{file} does not exist. Run: dvc repro")
    # Without DVC, a stage may have no digests file. Then its code is compared with the code at the start of the stage.
    code = Code()
    digests = files.read_json(file) if file.exists() else code.digests_of(name)
    if changed := code.changed(name, digests):
        raise UserError(f"{_first_of(changed)} changed since the stage code ran. Run: dvc repro")
    sys.meta_path.insert(0, guard)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)
    if changed := [
        *dict.fromkeys([*Code().changed(name, digests), *code.compiled_from_other_source(sources.compiled, digests)])
    ]:
        raise UserError(
            f"Edited while {name} ran: {_first_of(changed)}. DVC does not record the result. To keep the result, undo "
            "the edit. Then run: dvc repro"
        )


@contextmanager
def _require_unchanged_inputs(name: str) -> Iterator[None]:
    """Stop a stage at its end if one of its dependencies changed while it ran."""
    before = states_of(name)
    yield
    if changed := [path for path, _, _ in files.changed_digests(before, states_of(name))]:
        raise UserError(
            f"Changed while {name} ran: {listed(changed)}. The stage may have read the old or the new content, so DVC "
            "does not record the result. Run: dvc repro"
        )


def _first_of(paths: list[str]) -> str:
    return paths[0] + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")


def _check_code_is_of_this_project() -> None:
    # Otherwise an editable install elsewhere on the path would run, while dvc.lock records the code of this project.
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    if not ROOT.is_relative_to(root):
        raise UserError(
            f"rfdetr_core is imported from {ROOT}, not from {root}. Run stages as python -m stages.<name> there."
        )
    if shadowing := shadowing_files(root):
        raise UserError(
            f"{', '.join(shadowing)} would be imported instead of a module whose digest the results record. "
            "Remove or rename it."
        )
