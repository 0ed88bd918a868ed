"""Check that a run produced every result in dvc.lock. The evidence is the lineages in git; no data is needed.

A pushed change that has not been run yet is fine: dvc.lock differs from it, so the stage will run. A mismatch is
unexplained if dvc.lock agrees with the files of this clone and a lineage does not, for example after `dvc commit -f`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ci.steps import core, step
from rfdetr_core.audit.history import EVALUATION
from rfdetr_core.base.code import FOLDER, STAGE
from rfdetr_core.base.errors import UserError
from rfdetr_core.verification.changed import changed_stages
from rfdetr_core.verification.verify import SHADOWING_MODULE

BEST = "output/checkpoint_best_"


def unexplained(mismatches: Iterable[dict[str, Any]], changed: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The mismatches that will still exist after `dvc repro`: no stage that will run accounts for them.

    Args:
        mismatches: those that `verify --lock` reports.
        changed: for each stage that will run, what differs from dvc.lock.
    """
    return [mismatch for mismatch in mismatches if not _only_in_lock(mismatch) and not _is_explained(mismatch, changed)]


def _only_in_lock(mismatch: dict[str, Any]) -> bool:
    """Whether only dvc.lock or dvc.yaml contradicts the file. DVC sees this difference too, and runs the stage."""
    return all(source.startswith(("dvc.lock", "dvc.yaml")) or " wrote it, " in source for source in mismatch["by"])


def _is_explained(mismatch: dict[str, Any], changed: dict[str, list[str]]) -> bool:
    # If `strip` has not run since a training, the run record is still that of the previous model.
    if EVALUATION not in mismatch["by"] and any(path.startswith(BEST) for path in changed.get("strip", [])):
        return True
    if mismatch["what"].endswith(" in dvc.lock"):  # the lineage contradicts dvc.lock: no run repairs that
        return False
    evaluated = EVALUATION in mismatch["by"]
    stages = {"evaluate"} if evaluated else changed.keys() - {"evaluate", "report", "export", STAGE}
    stale = {reason for name in stages for reason in changed.get(name, [])}
    # `stale` names digests/<stage>.json itself if its old content is lost. Then any module may have changed.
    if mismatch["what"].startswith("code ") and any(path.startswith(f"{FOLDER}/") for path in stale):
        return True
    words = re.sub(r"^images of (\w+)", r"manifest/\1.json", f"{mismatch['what']} {' '.join(mismatch['by'])}").split()
    return any(word == path or word.startswith(f"{path}/") for word in words for path in stale)


def main() -> None:
    """Check dvc.lock of this clone.

    Raises:
        UserError: there are unexplained mismatches; the message lists them.
    """
    core("check", "--params")
    if not Path("dvc.lock").exists():
        print("there is no dvc.lock yet: nothing to check")
        return
    done = core("verify", "--lock", "--json", check=False)
    if not done.stdout.startswith("{"):
        raise UserError(done.stderr.strip().removeprefix("error: "))
    mismatches = unexplained(json.loads(done.stdout)["mismatches"], changed_stages(Path()))
    shadowing = [
        mismatch["what"].removeprefix("code ") for mismatch in mismatches if mismatch["found"] == SHADOWING_MODULE
    ]
    if shadowing:
        raise UserError("; ".join(f"{file}: {SHADOWING_MODULE}" for file in shadowing))
    if mismatches:
        form = "{what}: expected {expected}, found {found}  ({by})"
        lines = [form.format(**mismatch | {"by": ", ".join(mismatch["by"])}) for mismatch in mismatches]
        raise UserError(
            "dvc.lock claims results of stages that did not run:\n  "
            + "\n  ".join(lines)
            + "\nRestore dvc.yaml, dvc.lock and the results from the commit before (git restore --source), or run: "
            "dvc repro --force"
        )
    print("dvc.lock agrees with every lineage")


if __name__ == "__main__":
    step(main)
