"""The workflow files of GitHub and GitLab, and an interpreter for the expressions of GitHub."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rfdetr_core.base.code import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RETRAIN, GITLAB = ROOT / ".github/workflows/retrain.yml", ROOT / "ci/gitlab.yml"


def jobs() -> dict[str, Any]:
    """The jobs of the workflow `retrain`."""
    return dict(yaml.safe_load(RETRAIN.read_text())["jobs"])


def steps(job: str) -> list[dict[str, Any]]:
    """The steps of a job of `retrain` that run a command."""
    return [step for step in jobs()[job]["steps"] if "run" in step]


class Missing(str):
    """The value of a missing key: an empty string. Its keys are missing too."""

    def __getattr__(self, name: str) -> Missing:
        return self


class Context:
    """A context such as `github`. Its keys are read as attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Any:
        value = self.values.get(name, Missing())
        return Context(value) if isinstance(value, Mapping) else value


def evaluate(expression: str, contexts: Mapping[str, Any], *, failed: bool = False) -> Any:
    """The value of an expression in a workflow of GitHub. failed: whether a step or job before it failed."""
    python = re.sub(r"!(?!=)", " not ", expression).replace("&&", " and ").replace("||", " or ")
    functions = {
        "always": lambda: True,
        "cancelled": lambda: False,
        "failure": lambda: failed,
        "success": lambda: not failed,
        "startsWith": str.startswith,
    }
    return eval(
        python.strip(), {"__builtins__": {}}, functions | {key: Context(value) for key, value in contexts.items()}
    )


def runs(condition: str | None, contexts: Mapping[str, Any], *, failed: bool = False) -> bool:
    """Whether a step or a job with this `if` runs. A condition without a status function also needs `success()`."""
    expression = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", condition or "success()")
    if not re.search(r"\b(always|cancelled|failure|success)\(\)", expression):
        expression = f"success() && ({expression})"
    return bool(evaluate(expression, contexts, failed=failed))


def filled(values: Mapping[str, Any], contexts: Mapping[str, Any]) -> dict[str, str]:
    """An `env` whose expressions are replaced by their values."""
    pattern = re.compile(r"\$\{\{(.*?)\}\}")
    return {
        key: pattern.sub(lambda match: str(evaluate(match[1], contexts)), str(value)) for key, value in values.items()
    }


def upload(paths: list[str], folder: Path, artifact: Path) -> None:
    """Do what actions/upload-artifact does: copy files, relative to the deepest common folder of all paths."""
    common = folder / os.path.commonpath(paths)
    top = common.parent if common.is_file() else common
    shutil.rmtree(artifact, ignore_errors=True)
    for path in paths:
        files = [folder / path, *sorted((folder / path).rglob("*"))]
        for file in (file for file in files if file.is_file()):
            target = artifact / file.relative_to(top)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
