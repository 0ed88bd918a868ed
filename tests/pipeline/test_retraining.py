"""Retraining in CI, for real: the steps that the workflow names, in a clean clone, with an S3 remote and MLflow.

GitHub is not here: `gh` is a stub that notes what it was asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer

from ci import check_lock, compare, gate
from ci.check_lock import lies
from ci.pull_data import READERS
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.report.comparison.png import MOST_BYTES
from rfdetr_core.verification.changed import changed_stages, later_stages
from rfdetr_core.verification.lock import read_stages
from rfdetr_core.verification.verify import SHADOWING_MODULE
from tests.architecture import PIPELINE, STAGES
from tests.ci.workflows import filled, jobs, runs, upload
from tests.observers.conftest import Server
from tests.pipeline.project import Project, make_dataset

KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
PUSH = {"event_name": "push"}


@dataclass
class World:
    """A developer's project, the bare repository that is its origin, the bucket and the servers."""

    folder: Path
    origin: Path
    bucket: Any
    mlflow: Server
    event: dict[str, Any] = field(default_factory=PUSH.copy)

    def clone(self, name: str, branch: str = "main") -> Project:
        """A clean clone; nothing is pulled."""
        target = self.folder / name
        subprocess.run(["git", "clone", "-q", "-b", branch, str(self.origin), str(target)], check=True)
        project = Project(target)
        project.run("git", "config", "user.email", "ci@localhost")
        project.run("git", "config", "user.name", "ci")
        return project

    def objects(self) -> dict[str, str]:
        """What the remote has."""
        return {one.key: one.e_tag for one in self.bucket.objects.all()}

    def branches(self) -> dict[str, str]:
        """The branches of the origin."""
        told = subprocess.run(["git", "ls-remote", "-h", str(self.origin)], check=True, capture_output=True, text=True)
        return {line.split("refs/heads/")[1]: line.split()[0] for line in told.stdout.splitlines()}

    def environment(self, runner: Project) -> dict[str, str]:
        """What GitHub sets, and a `gh` that notes its arguments."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "gh").write_text('#!/bin/sh\necho "$@" >> "$GH_LOG"\n')
        (tools / "gh").chmod(0o755)
        return {
            "CI": "true",
            "PATH": f"{tools}{os.pathsep}{runner.environment()['PATH']}",
            "PARAMS": "",
            "FORCE": "",
            "RETRAIN_BRANCH": "main",
            "AWS_DEFAULT_REGION": KEYS["AWS_DEFAULT_REGION"],
            "GH_LOG": str(gh_log(runner)),
            "GITHUB_OUTPUT": str(runner.folder / ".git" / "output"),
            "GITHUB_PATH": str(runner.folder / ".git" / "path"),
            "GITHUB_REPOSITORY": "owner/name",
            "GITHUB_SHA": runner.run("git", "rev-parse", "HEAD").stdout.strip(),
        }

    def secrets(self) -> dict[str, str]:
        """What the repository keeps; a step gets those that its own `env` names."""
        return KEYS | {"RETRAIN_PR_TOKEN": "none", "MLFLOW_TRACKING_URI": self.mlflow.uri}

    def retrain(self, runner: Project, **more: str) -> tuple[int, str]:
        """The jobs of a push in their order, each in a clone of its own with the artifacts alone; status and output.

        runner: the clone of the job `retrain`, which may have been used before. more: variables that replace or
        complete those of every step.
        """
        status, told, results = 0, "", dict[str, Any]()
        sha = runner.run("git", "rev-parse", "origin/main").stdout.strip()
        shutil.rmtree(self.artifacts, ignore_errors=True)
        for name, job in jobs().items():
            needs = job.get("needs", [])
            needed = [results[one]["result"] for one in ([needs] if isinstance(needs, str) else needs)]
            if not runs(job.get("if"), self.contexts(runner, results), failed=set(needed) > {"success"}):
                results[name] = {"result": "skipped"}
                continue
            clone = runner if name == "retrain" else self.of_job(name, runner)
            self.check_out(clone, sha, runner)
            job_status, job_told = self.job(name, clone, results, **{"GH_LOG": str(gh_log(runner))} | more)
            status, told = status or job_status, told + job_told
            results[name] = {"result": "failure" if job_status else "success", "outputs": outputs(clone)}
        return status, told

    @property
    def artifacts(self) -> Path:
        """Where those of the last retraining are, by name."""
        return self.folder / "artifacts"

    def of_job(self, job: str, runner: Project) -> Project:
        """The clone in which another job than `retrain` ran; that of `deliver` has the last word in its comment."""
        return Project(runner.folder.with_name(f"{runner.folder.name} {job}"))

    def check_out(self, clone: Project, sha: str, runner: Project) -> None:
        """Check out the commit of the push, whatever became of its branch; a folder that a runner keeps stays."""
        if clone.folder != runner.folder:
            shutil.rmtree(clone.folder, ignore_errors=True)
            clone.folder.mkdir()
            clone.run("git", "init", "-q", "-b", "main")
            clone.run("git", "remote", "add", "origin", str(self.origin))
            clone.run("git", "fetch", "-q", "origin")
            clone.run("git", "fetch", "-q", str(runner.folder), sha)
            clone.run("git", "update-ref", "refs/remotes/origin/main", sha)
        clone.run("git", "checkout", "-q", "-f", "-B", "main", sha)

    def contexts(self, runner: Project, results: dict[str, Any]) -> dict[str, Any]:
        """What the expressions of the workflow can read, for a commit of main."""
        sha = runner.run("git", "rev-parse", "origin/main").stdout.strip()
        github = self.event | {"ref": "refs/heads/main", "ref_name": "main", "sha": sha, "token": "none"}
        github |= {"server_url": "https://github.example", "repository": "owner/name", "run_id": "1"}
        return {"github": github, "secrets": self.secrets(), "vars": {}, "inputs": {}, "needs": results}

    def job(self, name: str, clone: Project, results: dict[str, Any] | None = None, **more: str) -> tuple[int, str]:
        """The steps of one job but those that install packages; more: variables that replace or complete theirs."""
        contexts = self.contexts(clone, results or {}) | {"steps": {}}
        job, failed, told = jobs()[name], False, ""
        environment = self.environment(clone) | filled(job.get("env", {}), contexts)
        if job["runs-on"] == "ubuntu-latest":  # of the locks requirements/runtime.lock alone
            environment["PYTHONPATH"] = str(without_numeric(self.folder / "hosted"))
        for path in (environment["GITHUB_OUTPUT"], environment["GITHUB_PATH"]):
            Path(path).unlink(missing_ok=True)
        for step in job["steps"]:
            command, uses, options = step.get("run", ""), step.get("uses", ""), step.get("with", {})
            if not runs(step.get("if"), contexts, failed=failed) or command == "make setup" or "pip install" in command:
                continue
            if "upload-artifact@" in uses:
                upload(options["path"].split(), clone.folder, self.artifacts / options["name"])
            elif "download-artifact@" in uses and (self.artifacts / options["name"]).exists():
                shutil.copytree(self.artifacts / options["name"], clone.folder / options["path"], dirs_exist_ok=True)
            elif command:
                env = environment | filled(step.get("env", {}), contexts) | more
                done = clone.run("sh", "-ec", command, check=False, env=env)
                told += done.stdout + done.stderr
                failed = failed or done.returncode != 0
                outcome = "failure" if done.returncode else "success"
                contexts["steps"][step.get("id", "")] = {"outputs": outputs(clone), "outcome": outcome}
        return int(failed), told


def gh_log(runner: Project) -> Path:
    """What `gh` was asked."""
    return runner.folder / ".git" / "gh.log"


def outputs(clone: Project) -> dict[str, str]:
    """The outputs of the steps of a job."""
    path = clone.folder / ".git" / "output"
    return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}


def numeric_alone() -> list[str]:
    """The modules of the packages that train and that a job on a hosted runner does not install."""
    texts = [(ROOT / "requirements" / name).read_text() for name in ("numeric.lock", "runtime.lock")]
    numeric, runtime = (set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)) for text in texts)
    return [name.replace("-", "_") for name in sorted(numeric - runtime)]


def without_numeric(folder: Path) -> Path:
    """A folder for PYTHONPATH with which Python does not find those modules."""
    folder.mkdir(exist_ok=True)
    lines = f"import sys\nsys.modules |= dict.fromkeys({numeric_alone()})\n"
    (folder / "sitecustomize.py").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Server]]:
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    address = "http://{}:{}".format(*storage.get_host_and_port())
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    bucket = boto3.resource("s3", endpoint_url=address, **keys).create_bucket(Bucket="store")
    tracking = Server(tmp_path_factory.mktemp("tracking"))
    tracking.start()
    yield bucket, address, tracking
    tracking.stop()
    storage.stop()


@pytest.fixture(scope="module")
def first(reproduced: Project, services: tuple[Any, str, Server], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The developer's project: trained, pushed and committed; the dataset is in DVC."""
    project = reproduced.copy(tmp_path_factory.mktemp("first") / "developer")
    project.move_data_to_dvc("s3://store/dvc")
    project.run("dvc", "remote", "modify", "-q", "store", "endpointurl", services[1])
    project.commit("first result")
    project.run("dvc", "push", "-q", "--run-cache", env=KEYS)
    return project


@pytest.fixture
def world(first: Project, services: tuple[Any, str, Server], tmp_path: Path) -> World:
    """A new origin; the bucket is shared, since what is in it is named by its content."""
    origin = tmp_path / "origin.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(first.folder), str(origin)], check=True)
    return World(tmp_path, origin, services[0], services[2])


@pytest.fixture
def developer(world: World, first: Project) -> Project:
    """The developer at work."""
    project = first.copy(world.folder / "developer")
    project.run("git", "remote", "add", "origin", str(world.origin))
    return project


def push(project: Project, message: str, *, data: bool = False) -> None:
    if data:
        project.run("dvc", "add", "-q", "data/tiny")
        project.run("dvc", "push", "-q", "data/tiny.dvc", env=KEYS)
    project.commit(message)
    project.run("git", "push", "-q", "origin", "HEAD:main")


def holds(world: World, branch: str, *, restored: bool = False) -> Project:
    """A third clone has all of the result, and finds it true.

    restored: DVC restored stages whose entry in the journal was in a clone that is lost.
    """
    third = world.clone("third", branch)
    third.run("dvc", "pull", "-q", env=KEYS)
    assert third.changed_stages() == set()
    told = json.loads(third.run(sys.executable, "-m", "rfdetr_core", "verify", "--json").stdout)
    assert told["holds"]
    unchecked = [one["what"] for one in told["unchecked"]]
    assert [what.startswith("journal entries of train") for what in unchecked] == [True] * restored
    return third


@pytest.mark.slow
def test_new_data_is_trained_on_pushed_and_holds_in_a_third_clone(world: World, developer: Project) -> None:
    shutil.rmtree(developer.folder / "data" / "tiny")
    make_dataset(developer.folder / "data" / "tiny", {"train": 5, "valid": 2, "test": 3}, seed=1)
    push(developer, "new data", data=True)
    runner = world.clone("runner")
    status, told = world.retrain(runner)
    assert status == 0, told
    state = runner.folder / ".retrain"
    assert list(json.loads((state / "plan.json").read_text())["certain"]) == ["validate"]
    ran = json.loads((state / "ran.json").read_text())["ran"]
    assert [one for one in ran if one != "select_best"] == [one for one in STAGES[1:] if one != "select_best"]
    comment = (state / "comment.md").read_text()
    for words in (
        "3 images, 6 objects (the base was evaluated on 2 images, 4 objects of `test`)",
        "| `red` |",
        "; objects in 3 images: too few for an interval.",
        "Of fewer than 100 images, the ends of the intervals are uncertain, too",
        "`reports/compare/index.html` (A is the base, B the new model), [in the artifacts of this run]"
        "(https://github.example/owner/name/actions/runs/1).",
        "Gate passed",
        "| added | 2 |",
        "best_1.png",
        f"{world.mlflow.uri}/#/experiments/",
    ):
        assert words in comment, comment
    for name in ("curves.png", "classes.png"):
        assert name in comment
        assert 0 < (state / "attachments" / name).stat().st_size <= MOST_BYTES
    page = (runner.folder / "reports/compare/index.html").read_text()
    assert "<title>Comparison on test</title>" in page
    assert "It is not known whether it was trained" not in page, "the clone has the manifests of both"
    asked = (runner.folder / ".git" / "gh.log").read_text()
    assert "pr create --head retrain/main --base main --title Retrained: test mAP" in asked
    third = holds(world, "retrain/main")
    assert len(list((third.folder / "records").glob("*.json"))) == 2
    client = MlflowClient(world.mlflow.uri)
    commit = world.branches()["retrain/main"]
    runs = client.search_runs(
        [one.experiment_id for one in client.search_experiments()], f"tags.mlflow.source.git.commit = '{commit}'"
    )
    assert [run.info.status for run in runs] == ["FINISHED"]
    # Its own commit, merged or not, is no reason to train.
    third.run("git", "push", "-q", "origin", "retrain/main:main")
    before = world.objects(), world.branches()
    again = world.clone("again")
    status, told = world.retrain(again)
    assert (status, "no stage runs" in told) == (0, True), told
    assert (world.objects(), world.branches()) == before


@pytest.mark.slow
def test_a_readme_retrains_nothing_and_a_param_of_evaluate_only_evaluates(world: World, developer: Project) -> None:
    (developer.folder / "README.md").write_text("other words\n")
    for path in (developer.folder / "rfdetr_core").rglob("*.py"):
        path.write_text(f"# other words\n{path.read_text()}")
    push(developer, "words and comments")
    runner = world.clone("runner")
    status, told = world.retrain(runner)
    assert (status, "no stage runs" in told, list(world.branches())) == (0, True, ["main"]), told
    assert not (runner.folder / "data" / "tiny").exists()
    developer.set_params(evaluate={"pictures": 2})
    push(developer, "more pictures")
    runner = world.clone("runner 2")
    status, told = world.retrain(runner)
    assert status == 0, told
    assert json.loads((runner.folder / ".retrain" / "ran.json").read_text())["ran"] == ["code", "evaluate", "report"]
    comment = (runner.folder / ".retrain" / "comment.md").read_text()
    assert "the new one are the same file" in comment
    assert "- `evaluate`: `params.yaml: evaluate.pictures`" in comment
    holds(world, "retrain/main")


@pytest.mark.slow
def test_a_pull_request_trains_nothing_and_has_as_a_comment_what_will_rerun(world: World, developer: Project) -> None:
    developer.set_params(evaluate={"pictures": 2})
    push(developer, "more pictures")
    before = world.objects(), world.branches()
    request = {"number": 7, "head": {"repo": {"full_name": "owner/name"}}, "user": {"login": "somebody"}}
    world.event = {"event_name": "pull_request", "head_ref": "pictures", "event": {"pull_request": request}}
    runner = world.clone("runner")
    status, told = world.retrain(runner)
    assert status == 0, told
    of = "repos/owner/name/issues/7/comments"
    question, comment = gh_log(runner).read_text().splitlines()
    assert question.startswith(f"api --paginate {of} ")
    assert comment == f"api {of} --silent -F body=@.retrain/told.md"
    told = (world.of_job("tell-plan", runner).folder / ".retrain" / "told.md").read_text()
    assert "evaluate.pictures" in told
    assert not (runner.folder / ".retrain").exists(), "the job `retrain` did not run"
    assert (world.objects(), world.branches()) == before


@pytest.mark.slow
def test_a_bad_dataset_ends_at_validate_with_its_findings_and_nothing_is_pushed(
    world: World, developer: Project
) -> None:
    path = developer.folder / "data/tiny/train/_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 77
    path.unlink()  # it may be a link into the cache
    path.write_text(json.dumps(content))
    push(developer, "bad data", data=True)
    before = world.objects(), world.branches()
    runner = world.clone("runner")
    lock = (runner.folder / "dvc.lock").read_bytes()
    status, told = world.retrain(runner)
    assert status == 1, told
    assert (world.objects(), world.branches()) == before
    assert (runner.folder / "dvc.lock").read_bytes() == lock
    comment = (runner.folder / ".retrain" / "comment.md").read_text()
    assert "## Not retrained: `validate` failed" in comment
    assert "| `error` |" in comment
    assert "77" in comment
    assert "Traceback" not in comment
    commit = runner.run("git", "rev-parse", "HEAD").stdout.strip()
    asked = (runner.folder / ".git" / "gh.log").read_text()
    assert asked == f"api repos/owner/name/commits/{commit}/comments --silent -F body=@.retrain/comment.md\n"


@pytest.mark.slow
def test_killed_in_training_or_refused_after_the_push_the_next_run_completes(world: World, developer: Project) -> None:
    developer.set_params(train={"seed": 5})
    push(developer, "other seed")
    before = world.objects(), world.branches()
    runner = world.clone("killed")
    env = runner.environment() | world.environment(runner) | world.secrets()
    for module in ("ci.plan", "ci.pull_data"):
        runner.run(sys.executable, "-m", module, env=env)
    log = world.folder / "log"
    with log.open("w") as file:
        command = [sys.executable, "-m", "ci.reproduce"]
        process = subprocess.Popen(
            command, cwd=runner.folder, env=env, stdout=file, stderr=file, start_new_session=True
        )
    while "Running stage 'train'" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (world.objects(), world.branches()) == before

    # Trained and pushed; then git refuses, as if the runner had died just before.
    hook = world.origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    status, told = world.retrain(runner)  # the same folder: what the kill left is cleaned
    assert status == 1, told
    assert "What was trained is in the DVC remote" in told
    assert world.branches() == before[1]
    hook.unlink()

    last = world.clone("last")
    status, told = world.retrain(last)
    assert status == 0, told
    ran = json.loads((last.folder / ".retrain" / "ran.json").read_text())
    assert "train" not in ran["ran"]
    assert "train" in ran["cached"]
    holds(world, "retrain/main", restored=True)


@pytest.mark.slow
def test_a_lock_that_lies_is_stopped_before_anything_is_pulled(world: World, developer: Project) -> None:
    developer.set_params(train={"lr": 0.5})
    developer.run("dvc", "commit", "-f", "-q")
    push(developer, "not run")
    runner = world.clone("runner")
    before = world.objects(), world.branches()
    status, told = world.retrain(runner)
    assert status == 1
    assert "params.yaml: train.lr in dvc.lock" in told
    assert "Traceback" not in told
    assert (world.objects(), world.branches()) == before
    assert not (runner.folder / "data" / "tiny").exists()


@pytest.mark.slow
def test_a_commit_that_claims_to_be_a_retraining_is_planned_like_any_other(world: World, developer: Project) -> None:
    source = developer.run("git", "rev-parse", "HEAD").stdout.strip()
    developer.run("git", "checkout", "-q", "-b", "retrain/main")
    developer.set_params(train={"lr": 0.5})
    developer.commit(f"Retrain\n\nRetrained-from: {source}")
    developer.run("git", "push", "-q", "origin", "HEAD:retrain/main", "HEAD:main")
    runner = world.clone("runner")
    status, told = world.job("plan", runner)
    assert status == 0, told
    assert "no retraining made this commit: dvc.lock does not agree with params.yaml: train.lr" in told
    assert f"(Retrained-from: {source})" in told
    assert list(json.loads((runner.folder / ".retrain" / "plan.json").read_text())["certain"]) == ["code", "train"]
    assert (runner.folder / ".git" / "output").read_text().startswith("stages=code train ")
    done = runner.run(sys.executable, "-m", "ci.gate", check=False)
    assert (done.returncode, "Run: python -m ci.compare" in done.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["RETRAIN_TOKEN", "MLFLOW_TRACKING_PASSWORD"])
def test_the_value_of_a_secret_is_neither_pushed_nor_shown(world: World, developer: Project, variable: str) -> None:
    value = "hunter2-is-the-password"
    developer.set_params(evaluate={"pictures": 2}, runtime={"run": f"${{oc.env:{variable}}}"})
    push(developer, "an interpolation")
    before = world.objects(), world.branches()
    status, told = world.retrain(world.clone("stopped"), **{variable: value})
    assert (status, "params.yaml: runtime.run has an interpolation" in told) == (1, True), told
    assert (world.objects(), world.branches()) == before
    developer.set_params(runtime={"run": None})
    push(developer, "without it")
    before = world.objects(), world.branches()
    runner = world.clone("runner")
    status, told = world.retrain(runner, PARAMS=f"runtime.run={value}", **{variable: value})
    assert status == 1, told
    message = f"params.yaml has the value of the variable {variable}, which is a secret: delivery stops here"
    assert f"error: {message}" in told
    assert (world.objects(), world.branches()) == before
    comment = (runner.folder / ".retrain" / "comment.md").read_text()
    assert message in comment
    assert value not in comment
    assert "Traceback" not in told
    assert not (runner.folder / "reports").exists()


@pytest.mark.slow
def test_the_plan_is_what_dvc_status_says_with_all_the_data(developer: Project) -> None:
    def edit(path: str, line: str = "# edited") -> None:
        file = developer.folder / path
        file.write_text(f"{file.read_text()}\n{line}\n")

    assert changed_stages(developer.folder) == {}
    changes = [
        lambda: developer.set_params(evaluate={"pictures": 2}),
        lambda: developer.set_params(train={"epochs": 3}),
        lambda: developer.set_params(validate={"on_error": "drop"}),
        lambda: developer.set_params(gate={"max_drop": 9.0}, runtime={"num_workers": 1}),
        lambda: edit("rfdetr_core/loss/matcher.py", "EDITED = True"),
        lambda: edit("rfdetr_core/base/files.py", "EDITED = True"),
        lambda: edit("rfdetr_core/loss/matcher.py"),
        lambda: edit("requirements/numeric.lock"),
        lambda: edit("README.md"),
        lambda: (developer.folder / "weights" / "more.pth").write_bytes(b"more"),
        lambda: (developer.folder / "output" / "scores.json").write_text("{}\n"),
        lambda: edit("manifest/train.json"),
    ]
    for change in changes:
        change()
        expected, told = developer.changed_stages(), changed_stages(developer.folder)
        if "code" in expected:  # DVC itself knows what code writes when it has run
            developer.repro("code")
            expected = developer.changed_stages() | ({"code"} if "code" in told else set())
            written = developer.run("git", "diff", "--quiet", "digests", check=False).returncode == 1
            assert ("code" in told) == (written or any("params.yaml" in reason for reason in told.get("code", ())))
        assert set(told) == expected
        developer.run("git", "reset", "-q", "--hard")
        developer.run("git", "clean", "-fdq")
    edit("rfdetr_core/loss/matcher.py", "EDITED = True")
    named = ["rfdetr_core/loss/matcher.py"]
    assert changed_stages(developer.folder) == {"code": named, "train": named}
    (developer.folder / "digests" / "train.json").write_text("{}")  # DVC runs code for it, and nothing else
    developer.run("git", "checkout", "-q", "--", "rfdetr_core")
    assert changed_stages(developer.folder) == {"code": ["digests/train.json"]}
    developer.run("git", "reset", "-q", "--hard")

    # Code that was digested, and not yet run, is no lie; code that was committed as if it had been is one.
    for command, status in ((("dvc", "repro", "-q", "code"), 0), (("dvc", "commit", "-q", "-f"), 1)):
        edit("rfdetr_core/loss/matcher.py", "EDITED = True")
        developer.run(*command)
        developer.commit("edited")
        told = developer.run(sys.executable, "-m", "ci.check_lock", check=False)
        assert (told.returncode, "code rfdetr_core/loss/matcher.py" in told.stderr) == (status, status == 1), (
            told.stderr
        )
        assert (
            set(changed_stages(developer.folder)) == developer.changed_stages() == ({"train"} if status == 0 else set())
        )
        if status == 0:
            assert named[0] in changed_stages(developer.folder)["train"]
        developer.run("git", "reset", "-q", "--hard", "HEAD~")


@pytest.mark.slow
def test_a_run_by_hand_takes_params_and_force(world: World) -> None:
    runner = world.clone("by hand")
    env = world.environment(runner)
    before = (runner.folder / "params.yaml").read_text()
    planned = runner.folder / ".retrain" / "plan.json"
    runner.run("sh", "-ec", 'python -m ci.plan $FORCE --set="$PARAMS"', env=env | {"FORCE": "--force"})
    assert list(json.loads(planned.read_text())["certain"]) == STAGES
    assert (runner.folder / "params.yaml").read_text() == before
    changes = {"PARAMS": "evaluate.pictures=2 train.lr=1e-4"}
    runner.run("sh", "-ec", 'python -m ci.plan $FORCE --set="$PARAMS"', env=env | changes)
    assert set(json.loads(planned.read_text())["certain"]) == {"code", "train", "evaluate"}
    assert "pictures: 2" in (runner.folder / "params.yaml").read_text()


def test_what_comes_after_a_stage_is_possible() -> None:
    stages = read_stages(ROOT)
    assert later_stages(stages, {"validate"}) == STAGES[2:]
    assert later_stages(stages, {"code", "train"}) == STAGES[4:]
    assert later_stages(stages, {"code"}) == []
    assert later_stages(stages, {"evaluate"}) == ["report", "export"]
    assert later_stages(stages, {"report"}) == later_stages(stages, {"export"}) == []


def test_the_data_is_pulled_for_every_stage_that_reads_the_dataset_or_a_manifest() -> None:
    data = ("${data.dir}", "manifest")
    assert {name for name, one in PIPELINE.items() if any(dep.startswith(data) for dep in one["deps"])} == READERS


def test_what_a_push_changed_is_no_lie_and_what_the_lock_hides_is() -> None:
    found = {"expected": "a", "found": "b"}
    told = [
        found | {"what": "rfdetr_core/loss", "by": ["dvc.lock: train"]},
        found | {"what": "code rfdetr_core/loss/matcher.py", "by": ["records/1.json"]},
        found | {"what": "images of train", "by": ["records/1.json"]},
    ]
    changed = {"train": ["rfdetr_core/loss", "manifest/train.json"]}
    assert lies(told, changed) == []
    assert lies(told, {"evaluate": changed["train"]}) == told[1:]
    claim = found | {"what": "params.yaml: train.lr in dvc.lock", "by": ["records/1.json"]}
    assert lies([claim], changed) == [claim]
    assert lies([claim], {"strip": ["output/checkpoint_best_ema.pth"]}) == []


@pytest.fixture
def retrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A repository at the end of a retraining: its first commit has no dvc.lock, its second one of a trained model."""
    project = Project(tmp_path / "project")
    (project.folder / ".retrain").mkdir(parents=True)
    (project.folder / ".retrain" / "plan.json").write_text('{"certain": {"train": []}}')
    (project.folder / "params.yaml").write_text("gate: {max_drop: 0.5}\n")
    for command in ("git init -q", "git config user.email a@localhost", "git config user.name a", "dvc init -q"):
        project.run(*command.split())
    project.commit("first")
    out = {"path": "output/checkpoint_best_total.pth", "md5": "0" * 32, "size": 1}
    lock = {"schema": "2.0", "stages": {"strip": {"cmd": "python -m stages.strip", "outs": [out]}}}
    (project.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    project.commit("trained")
    monkeypatch.chdir(project.folder)
    return project


def judged(base: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the gate says of a base; a failed gate begins with an error."""
    monkeypatch.setenv("RETRAIN_BASE", base)
    compare.main()
    try:
        gate.main()
    except UserError as error:
        return f"error: {error}"
    return str(json.loads(Path(".retrain/comparison.json").read_text())["why"])


def test_only_a_base_without_a_lock_is_a_first_result(retrained: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "this is the first result" in judged("HEAD~", monkeypatch)
    for name in ("deadbeef" * 5, "no-such-branch", "HEAD:dvc.lock"):
        told = judged(name, monkeypatch)
        assert f"error: the gate failed: the base {name} is not in this clone" in told
        assert "fetch-depth: 0" in told
    shallow = retrained.folder.parent / "shallow"
    first = retrained.run("git", "rev-parse", "HEAD~").stdout.strip()
    retrained.run("git", "clone", "-q", "--depth", "1", retrained.folder.as_uri(), str(shallow))
    shutil.copytree(".retrain", shallow / ".retrain", dirs_exist_ok=True)
    monkeypatch.chdir(shallow)
    assert f"error: the gate failed: the base {first} is not in this clone" in judged(first, monkeypatch)


def test_a_base_whose_model_cannot_be_fetched_does_not_open_the_gate(
    retrained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{unused.getsockname()[1]}/store"
        empty = str(retrained.folder.parent / "store")
        for remote, reason in ((None, "no remote"), (empty, "does not have it"), (away, "or cannot be reached")):
            if remote is not None:
                retrained.run("dvc", "remote", "add", "-q", "-f", "-d", "store", remote)
            told = judged("HEAD", monkeypatch)
            assert told.startswith("error: the gate failed: the model of the base")
            assert reason in told
    retrained.set_params(gate={"max_drop": None})
    assert "any number passes" in judged("HEAD", monkeypatch)


def test_a_base_without_a_model_or_without_a_comparison_does_not_open_the_gate(
    retrained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"Run: python -m ci\.compare"):
        gate.main()
    (retrained.folder / "dvc.lock").write_text("stages: {}\n")
    retrained.commit("nothing trained")
    assert "it was not trained" in judged("HEAD", monkeypatch)


@pytest.mark.parametrize(("said", "status"), [("passed", 0), ("failed", 1), ("undecided", 0)])
def test_a_failed_gate_fails_the_run(tmp_path: Path, said: str, status: int) -> None:
    (tmp_path / ".retrain").mkdir()
    (tmp_path / ".retrain" / "comparison.json").write_text(json.dumps({"verdict": said, "why": "so"}))
    command = [sys.executable, "-m", "ci.gate"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == status


def test_a_file_in_the_way_of_a_module_is_answered_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOCK).touch()
    monkeypatch.chdir(tmp_path)
    finding = {"what": "code statistics.py", "expected": "no such file", "found": SHADOWING_MODULE, "by": ["imports"]}
    answers = {"check": "", "verify": json.dumps({"mismatches": [finding]})}
    monkeypatch.setattr(
        check_lock, "core", lambda *words, check=True: subprocess.CompletedProcess(words, 1, answers[words[0]], "")
    )
    monkeypatch.setattr(check_lock, "changed_stages", lambda root: {})
    with pytest.raises(UserError, match=r"^statistics\.py: .*: rename or remove it$"):
        check_lock.main()


@pytest.mark.slow
def test_the_plan_and_the_check_of_the_lock_need_only_what_their_job_installs(developer: Project) -> None:
    assert "torch" in numeric_alone()
    code = """
from pathlib import Path
from rfdetr_core.cli import main
from rfdetr_core.verification.changed import changed_stages
main(["check"])
main(["verify", "--lock"])
main(["plan"])
assert changed_stages(Path()) == {}
"""
    env = {"PYTHONPATH": str(without_numeric(developer.folder.parent / "hosted"))}
    developer.run(sys.executable, "-c", code, env=env)
