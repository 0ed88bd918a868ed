"""The base's model and the new one, both scored on the new test split; and whether the gate lets the new one pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ci.steps import COMPARISON, MODEL, STATE, base, call, nothing_to_do, step
from rfdetr_core.audit.history import cached
from rfdetr_core.base import files
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import read_section
from rfdetr_core.config.settings import GateConfig
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.lineage.lock import LOCK, Lock

BASE_MODEL = STATE / "base.pth"


def verdict(comparison: dict[str, Any], config: GateConfig) -> tuple[str, str]:
    """passed, failed or not measured; and why, in a sentence."""
    change = comparison["difference"]
    if config.max_drop is None:
        return "passed", "gate.max_drop is null: any number passes"
    if change is None:
        return "not measured", f"the {comparison['split']} split has no object"
    limit = f"gate.max_drop allows a fall of {config.max_drop} points"
    return ("passed" if change >= -config.max_drop else "failed"), f"mAP changed by {change:+.2f} points; {limit}"


def fetch_base() -> str | None:
    """Put the base's model into BASE_MODEL; why it cannot be had, or None."""
    told = call("git", "show", f"{base()}:./{LOCK}", check=False)
    if told.returncode:
        return "the base has no dvc.lock: this is the first result"
    md5 = Lock.parse(told.stdout.encode()).out(MODEL.as_posix())
    if md5 is None:
        return "the base's dvc.lock has no model"
    _pull(md5)
    if not (model := cached(Path(), md5)).exists():
        return "the base's model is neither in the cache nor in the remote"
    files.copy(model, BASE_MODEL)
    return None


def _pull(md5: str) -> None:
    """Bring a file from the remote to the cache. `dvc get` finds no cache where the project is no root of git's."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo() as repo:
        try:
            if not repo.cache.local.exists(md5):
                repo.cloud.pull([HashInfo("md5", md5)])
        except DvcException as error:
            print(error)


def main() -> None:
    """Leave the comparison, or why there is none."""
    if nothing_to_do():
        return
    missing = fetch_base()
    content: dict[str, Any] = {"base": base(), "missing": missing}
    if missing is None:
        from rfdetr_core.evaluation.comparison import compare_models

        config, gate = read_section(EvaluateConfig, "evaluate"), read_section(GateConfig, "gate")
        dataset = Path(read_section(DataConfig, "data").dir)
        split = files.read_json(Path("reports/evaluate/about.json"))["split"]
        content |= compare_models(BASE_MODEL, MODEL, dataset, split, gate.resamples, config.batch_size)
        content["same"] = files.sha256_file(BASE_MODEL) == files.sha256_file(MODEL)
        content["verdict"], content["why"] = verdict(content, gate)
    else:
        content |= {"verdict": "passed", "why": f"nothing to compare with: {missing}"}
    COMPARISON.write_text(json.dumps(content, indent=2) + "\n")
    print(f"gate {content['verdict']}: {content['why']}")


if __name__ == "__main__":
    step(main)
