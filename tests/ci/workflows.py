"""The files that tell GitHub and GitLab what to run."""

from __future__ import annotations

from typing import Any

import yaml

from rfdetr_core.base.code import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RETRAIN, GITLAB = ROOT / ".github/workflows/retrain.yml", ROOT / "ci/gitlab.yml"


def steps(job: str) -> list[dict[str, Any]]:
    """The steps of a job of the retraining that run something."""
    return [step for step in yaml.safe_load(RETRAIN.read_text())["jobs"][job]["steps"] if "run" in step]
