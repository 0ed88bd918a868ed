"""What the workflows give to whom: pinned actions, secrets for the steps that need them, the least permissions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.steps import COMPARED
from rfdetr_core.base.code import ROOT
from rfdetr_core.observers.publishing import PUBLISHED
from tests.ci.workflows import GITLAB, RETRAIN, WORKFLOWS, steps

SECRET = re.compile(r"secrets\s*[.\[]|github\s*\.\s*token")
STORE = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
TRACKING = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
# Every other step sees no secret.
NEEDS = {
    "python -m ci.pull_data": STORE,
    "python -m ci.reproduce": STORE | TRACKING,
    "python -m ci.compare": STORE,
    "python -m ci.deliver": STORE | TRACKING | {"RETRAIN_TOKEN"},
    "sh ci/pull_request.sh": {"GH_TOKEN"},
    "sh ci/tell.sh": {"GH_TOKEN"},
}


def all_steps() -> list[tuple[Path, str, dict[str, Any]]]:
    """Workflow, job and step, of all of them."""
    contents = {path: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
    return [
        (path, name, step)
        for path, content in contents.items()
        for name, job in content["jobs"].items()
        for step in job["steps"]
    ]


def secrets_of(step: dict[str, Any]) -> set[str]:
    return {name for name, value in step.get("env", {}).items() if SECRET.search(str(value))}


def test_every_action_is_pinned_by_a_commit_with_its_version_beside_it() -> None:
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert len(lines) == sum("uses" in step for _, _, step in all_steps()) > 0
    for line in lines:
        assert re.fullmatch(r"\s*- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    pins = {line.split()[2] for line in lines}
    assert len(pins) == len({pin.partition("@")[0] for pin in pins}), "one action in two versions"


def test_no_workflow_or_job_has_a_secret_and_a_step_has_those_that_it_needs() -> None:
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text())
        jobs = content.pop("jobs")
        outside = [content, *({**job, "steps": None} for job in jobs.values())]
        assert not SECRET.search(json.dumps(outside, default=str)), path
    for path, job, step in all_steps():
        assert not SECRET.search(json.dumps({**step, "env": None})), step
        expected = NEEDS.get(step.get("run", ""), set()) if (path, job) == (RETRAIN, "retrain") else set()
        assert secrets_of(step) == expected, step
    assert NEEDS.keys() <= {step["run"] for step in steps("retrain")}


def test_the_checkout_keeps_no_credentials() -> None:
    checkouts = [step for _, _, step in all_steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == 3
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_a_job_may_do_what_it_needs_and_ends() -> None:
    allowed = {
        "plan": {"contents": "read"},
        "retrain": {"contents": "write", "pull-requests": "write"},
        "pip-audit": {"contents": "read"},
    }
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text())
        assert content["permissions"] == {}, "what a job does not ask for it does not get"
        for name, job in content["jobs"].items():
            assert job["permissions"] == allowed[name]
            assert job["timeout-minutes"] <= 4320
    gitlab = yaml.safe_load(GITLAB.read_text())
    assert [name for name, job in gitlab.items() if "script" in job and "timeout" not in job] == []


def test_what_comes_from_outside_is_in_no_script_and_starts_no_job_with_secrets() -> None:
    for path in WORKFLOWS:
        assert "pull_request_target" not in path.read_text()
    for _, _, step in all_steps():
        assert "${{" not in step.get("run", ""), "an expression in a script is code that others can write"
    content = yaml.safe_load(RETRAIN.read_text())
    on, jobs = content[True], content["jobs"]  # YAML 1.1 reads `on` as true
    assert on["push"]["branches-ignore"] == ["retrain/**"]
    assert jobs["plan"]["runs-on"] == "ubuntu-latest"
    assert "github.event_name != 'pull_request'" in jobs["retrain"]["if"]
    assert jobs["retrain"]["concurrency"] == {"group": "retrain-${{ github.ref }}", "cancel-in-progress": False}


def test_no_report_leaves_the_runner_once_a_secret_was_found() -> None:
    (upload,) = [step for _, _, step in all_steps() if "upload-artifact" in step.get("uses", "")]
    assert upload["if"] == "always() && steps.deliver.outputs.secret != 'true'"
    assert [step["run"] for step in steps("retrain") if step.get("id") == "deliver"] == ["python -m ci.deliver"]
    assert "test ! -f .retrain/secret || rm -rf reports" in GITLAB.read_text()


def test_the_artifacts_of_a_run_have_the_page_the_thresholds_and_the_suspects() -> None:
    (upload,) = [step for _, _, step in all_steps() if "upload-artifact" in step.get("uses", "")]
    for folders in (
        upload["with"]["path"].split(),
        yaml.safe_load(GITLAB.read_text())["retrain"]["artifacts"]["paths"],
    ):
        assert COMPARED.is_relative_to(folders[0])
        for path, stage in PUBLISHED.items():
            assert stage != "report" or any(path.is_relative_to(folder) for folder in folders), path


def test_the_page_of_both_models_is_not_committed_and_that_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    ignored = ["git", "check-ignore", "--no-index", "-q", COMPARED.as_posix()]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
    page = tmp_path / COMPARED
    page.parent.mkdir(parents=True)
    page.write_text("<!doctype html>")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "ci.plan"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert not page.exists()


def test_gitlab_runs_the_steps_of_github_and_none_sees_more_secrets() -> None:
    gitlab = yaml.safe_load(GITLAB.read_text())
    job = gitlab["retrain"]
    hidden = set(re.findall(r"-u (\w+)", job["variables"]["WITHOUT_SECRETS"]))
    assert STORE | TRACKING | {"RETRAIN_TOKEN"} <= hidden
    assert job["environment"] == {"name": "retrain", "action": "access"}
    lines = [line for line in gitlab["plan"]["script"] if "-m ci." in line] + job["script"]
    expected = [step["run"] for name in ("plan", "retrain") for step in steps(name) if "-m ci." in step["run"]]
    assert [line[line.index("python -m ci.") :] for line in lines] == expected
    for line in [*job["before_script"], *job["script"]]:
        if "python" in line or "make" in line or line.endswith(".sh"):
            needed = NEEDS.get(line[line.find("python") :], set())
            gone = hidden if line.startswith("$WITHOUT_SECRETS ") else set(re.findall(r"-u (\w+)", line))
            assert not gone & needed, line
            assert needed or gone == hidden, line
            assert "RETRAIN_TOKEN" in gone | needed, line
    assert not re.search(r"https?://\S*(TOKEN|PASSWORD)", GITLAB.read_text()), "git would keep it in .git/config"


@pytest.mark.parametrize("text", [RETRAIN.read_text(), GITLAB.read_text()])
def test_every_command_of_ours_is_there(text: str) -> None:
    modules, scripts = re.findall(r"python -m (ci\.\w+)", text), re.findall(r"sh (ci/\w+\.sh)", text)
    assert modules
    assert scripts
    assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in modules)
    assert all((ROOT / name).is_file() for name in scripts)


def test_vulnerabilities_are_looked_for_in_every_lock_and_apart_from_retraining() -> None:
    (path,) = [path for path in WORKFLOWS if path != RETRAIN]
    content = yaml.safe_load(path.read_text())
    assert content[True].keys() == {"schedule", "push", "pull_request", "workflow_dispatch"}
    assert content[True]["push"]["paths"][0] == "requirements/**"
    commands = [step["run"] for step in content["jobs"]["pip-audit"]["steps"] if "run" in step]
    assert commands == yaml.safe_load(GITLAB.read_text())["vulnerabilities"]["script"]
    assert commands[-1] == "sh ci/vulnerabilities.sh"
    assert "pip-audit" not in RETRAIN.read_text()


@pytest.mark.parametrize("bad", ["requirements/runtime.lock", "none"])
def test_one_lock_with_a_vulnerability_fails_after_all_were_searched(tmp_path: Path, bad: str) -> None:
    stub = tmp_path / "pip-audit"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\nfor last; do :; done\n[ "$last" != {bad} ]\n')
    stub.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "ci/vulnerabilities.sh"], cwd=ROOT, env=env, capture_output=True, check=False)
    assert done.returncode == (bad != "none")
    searched = [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert searched == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "requirements").glob("*.lock"))
