"""The base's model and the new one, both scored on the new test split; and whether the gate lets the new one pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ci.steps import COMPARISON, MODEL, STATE, base, call, nothing_to_do, show, step
from rfdetr_core.base import files
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import read_section
from rfdetr_core.config.settings import GateConfig
from rfdetr_core.evaluation.config import EvaluateConfig

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
    if call("git", "cat-file", "-e", f"{base()}:dvc.lock", check=False).returncode != 0:
        return "the base has no dvc.lock: this is the first result"
    options = ("--rev", base(), "--force", "-o", str(BASE_MODEL))
    if show("dvc", "get", ".", str(MODEL), *options)[0]:
        return "the base's model is neither in the cache nor in the remote"
    return None


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
        split = files.read_json(Path("reports/evaluate/metrics.json"))["split"]
        content |= compare_models(BASE_MODEL, MODEL, dataset, split, gate.resamples, config.batch_size)
        content["same"] = files.sha256_file(BASE_MODEL) == files.sha256_file(MODEL)
        content["verdict"], content["why"] = verdict(content, gate)
    else:
        content |= {"verdict": "passed", "why": f"nothing to compare with: {missing}"}
    COMPARISON.write_text(json.dumps(content, indent=2) + "\n")
    print(f"gate {content['verdict']}: {content['why']}")


if __name__ == "__main__":
    step(main)
