"""Is dvc.lock true? A stage that it calls up to date must have been run on what is here; the lineages in git say so.

What a push changed and nobody has run yet is no lie: dvc.lock itself differs there, and the stage will run. A lie is
where dvc.lock agrees with what is here and a lineage does not, as after `dvc commit -f`. No data is needed.
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


def lies(mismatches: Iterable[dict[str, Any]], changed: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Of what `verify --lock` found, that which no stage that is about to run explains."""
    return [one for one in mismatches if not _told_by_the_lock(one) and not _explained(one, changed)]


def _told_by_the_lock(one: dict[str, Any]) -> bool:
    return all(by.startswith(("dvc.lock", "dvc.yaml")) or " wrote it, " in by for by in one["by"])


def _explained(one: dict[str, Any], changed: dict[str, list[str]]) -> bool:
    # Trained since, and not yet stripped: the record is that of the model before.
    if EVALUATION not in one["by"] and any(path.startswith(BEST) for path in changed.get("strip", [])):
        return True
    if one["what"].endswith(" in dvc.lock"):  # what the lineage says of itself against what dvc.lock says of it
        return False
    stages = {"evaluate"} if EVALUATION in one["by"] else changed.keys() - {"evaluate", "report", "export", STAGE}
    stale = {reason for name in stages for reason in changed.get(name, [])}
    # The digests that the stage read are neither at hand nor in git, so that no module is named.
    if one["what"].startswith("code ") and any(path.startswith(f"{FOLDER}/") for path in stale):
        return True
    words = re.sub(r"^images of (\w+)", r"manifest/\1.json", f"{one['what']} {' '.join(one['by'])}").split()
    return any(word == path or word.startswith(f"{path}/") for word in words for path in stale)


def main() -> None:
    """Raise UserError with the contradictions, if there are any."""
    core("check", "--params")
    if not Path("dvc.lock").exists():
        print("there is no dvc.lock yet: nothing to check")
        return
    done = core("verify", "--lock", "--json", check=False)
    if not done.stdout.startswith("{"):
        raise UserError(done.stderr.strip().removeprefix("error: "))
    found = lies(json.loads(done.stdout)["mismatches"], changed_stages(Path()))
    in_the_way = [one for one in found if one["found"] == SHADOWING_MODULE]
    if in_the_way:
        raise UserError("; ".join(f"{one['what'].removeprefix('code ')}: {SHADOWING_MODULE}" for one in in_the_way))
    if found:
        said = "{what}: expected {expected}, found {found}  ({by})"
        told = [said.format(**one | {"by": ", ".join(one["by"])}) for one in found]
        raise UserError(
            "dvc.lock names as done what was not run:\n  "
            + "\n  ".join(told)
            + "\nTake dvc.yaml, dvc.lock and its results from the commit before (git restore --source), or run: "
            "dvc repro --force"
        )
    print("dvc.lock contradicts no lineage")


if __name__ == "__main__":
    step(main)
