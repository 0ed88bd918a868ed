"""Retraining in CI: the steps of the workflow run in clean clones, with an S3 remote and an MLflow server.

Only GitHub itself is missing: `gh` is a stub that writes its arguments to a log.
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
from ci.check_lock import unexplained
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
    """A developer's project, the bare repository that is its remote `origin`, the bucket and the servers."""

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
        """The objects in the DVC remote, with their tags."""
        return {entry.key: entry.e_tag for entry in self.bucket.objects.all()}

    def branches(self) -> dict[str, str]:
        """The branches of the remote `origin`, with their commits."""
        output = subprocess.run(
            ["git", "ls-remote", "-h", str(self.origin)], check=True, capture_output=True, text=True
        )
        return {line.split("refs/heads/")[1]: line.split()[0] for line in output.stdout.splitlines()}

    def environment(self, runner: Project) -> dict[str, str]:
        """The variables that GitHub sets, and the stub of `gh`."""
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
        """The secrets of the repository. A step gets those that its `env` names."""
        return KEYS | {"RETRAIN_PR_TOKEN": "none", "MLFLOW_TRACKING_URI": self.mlflow.uri}

    def retrain(self, runner: Project, **more: str) -> tuple[int, str]:
        """Run the jobs of a push in their order. Returns the exit status and the output.

        Each job has its own clone, and gets files of other jobs only as artifacts.

        Args:
            runner: the clone of the job `retrain`. It may have been used before.
            **more: variables added to those of every step.
        """
        status, log, results = 0, "", dict[str, Any]()
        sha = runner.run("git", "rev-parse", "origin/main").stdout.strip()
        shutil.rmtree(self.artifacts, ignore_errors=True)
        for name, job in jobs().items():
            needs = job.get("needs", [])
            needed = [results[job_name]["result"] for job_name in ([needs] if isinstance(needs, str) else needs)]
            if not runs(job.get("if"), self.contexts(runner, results), failed=set(needed) > {"success"}):
                results[name] = {"result": "skipped"}
                continue
            clone = runner if name == "retrain" else self.of_job(name, runner)
            self.check_out(clone, sha, runner)
            job_status, job_log = self.job(name, clone, results, **{"GH_LOG": str(gh_log(runner))} | more)
            status, log = status or job_status, log + job_log
            results[name] = {"result": "failure" if job_status else "success", "outputs": outputs(clone)}
        return status, log

    @property
    def artifacts(self) -> Path:
        """The folder of the artifacts of the last retraining."""
        return self.folder / "artifacts"

    def of_job(self, job: str, runner: Project) -> Project:
        """The clone of another job than `retrain`. The clone of `deliver` has the final comment."""
        return Project(runner.folder.with_name(f"{runner.folder.name} {job}"))

    def check_out(self, clone: Project, sha: str, runner: Project) -> None:
        """Check out the commit of the push, even if its branch has moved. The folder of the runner is kept."""
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
        """The contexts that expressions of the workflow read, for a commit of main."""
        sha = runner.run("git", "rev-parse", "origin/main").stdout.strip()
        github = self.event | {"ref": "refs/heads/main", "ref_name": "main", "sha": sha, "token": "none"}
        github |= {"server_url": "https://github.example", "repository": "owner/name", "run_id": "1"}
        return {"github": github, "secrets": self.secrets(), "vars": {}, "inputs": {}, "needs": results}

    def job(self, name: str, clone: Project, results: dict[str, Any] | None = None, **more: str) -> tuple[int, str]:
        """Run the steps of one job, except those that install packages. more: variables added to those of each step."""
        contexts = self.contexts(clone, results or {}) | {"steps": {}}
        job, failed, log = jobs()[name], False, ""
        environment = self.environment(clone) | filled(job.get("env", {}), contexts)
        if job["runs-on"] == "ubuntu-latest":  # such a job installs only requirements/runtime.lock
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
                log += done.stdout + done.stderr
                failed = failed or done.returncode != 0
                outcome = "failure" if done.returncode else "success"
                contexts["steps"][step.get("id", "")] = {"outputs": outputs(clone), "outcome": outcome}
        return int(failed), log


def gh_log(runner: Project) -> Path:
    """The log of the stub of `gh`."""
    return runner.folder / ".git" / "gh.log"


def outputs(clone: Project) -> dict[str, str]:
    """The outputs of the steps of a job."""
    path = clone.folder / ".git" / "output"
    return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}


def numeric_only() -> list[str]:
    """The modules of the packages that training needs and that a job on a hosted runner does not install."""
    texts = [(ROOT / "requirements" / name).read_text() for name in ("numeric.lock", "runtime.lock")]
    numeric, runtime = (set(re.findall(r"^([\w.-]+)==", text, re.MULTILINE)) for text in texts)
    return [name.replace("-", "_") for name in sorted(numeric - runtime)]


def without_numeric(folder: Path) -> Path:
    """A folder for PYTHONPATH that hides those modules from Python."""
    folder.mkdir(exist_ok=True)
    lines = f"import sys\nsys.modules |= dict.fromkeys({numeric_only()})\n"
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
    """The developer's project: trained, committed and pushed, with the dataset in DVC."""
    project = reproduced.copy(tmp_path_factory.mktemp("first") / "developer")
    project.move_data_to_dvc("s3://store/dvc")
    project.run("dvc", "remote", "modify", "-q", "store", "endpointurl", services[1])
    project.commit("first result")
    project.run("dvc", "push", "-q", "--run-cache", env=KEYS)
    return project


@pytest.fixture
def world(first: Project, services: tuple[Any, str, Server], tmp_path: Path) -> World:
    """A new bare repository. The bucket is shared: its objects are named by their content."""
    origin = tmp_path / "origin.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(first.folder), str(origin)], check=True)
    return World(tmp_path, origin, services[0], services[2])


@pytest.fixture
def developer(world: World, first: Project) -> Project:
    """The developer's copy of the project, whose remote `origin` is the bare repository."""
    project = first.copy(world.folder / "developer")
    project.run("git", "remote", "add", "origin", str(world.origin))
    return project


def push(project: Project, message: str, *, data: bool = False) -> None:
    if data:
        project.run("dvc", "add", "-q", "data/tiny")
        project.run("dvc", "push", "-q", "data/tiny.dvc", env=KEYS)
    project.commit(message)
    project.run("git", "push", "-q", "origin", "HEAD:main")


def verify_in_clone(world: World, branch: str, *, restored: bool = False) -> Project:
    """Pull a result into a third clone and verify it there.

    restored: DVC restored train from the cache, and its journal entry was lost with the clone that ran it.
    """
    third = world.clone("third", branch)
    third.run("dvc", "pull", "-q", env=KEYS)
    assert third.changed_stages() == set()
    report = json.loads(third.run(sys.executable, "-m", "rfdetr_core", "verify", "--json").stdout)
    assert report["holds"]
    unchecked = [entry["what"] for entry in report["unchecked"]]
    assert [text.startswith("journal entries of train") for text in unchecked] == [True] * restored
    return third


@pytest.mark.slow
def test_new_data_is_trained_and_pushed_and_verified_in_a_third_clone(world: World, developer: Project) -> None:
    shutil.rmtree(developer.folder / "data" / "tiny")
    make_dataset(developer.folder / "data" / "tiny", {"train": 5, "valid": 2, "test": 3}, seed=1)
    push(developer, "new data", data=True)
    runner = world.clone("runner")
    status, log = world.retrain(runner)
    assert status == 0, log
    state = runner.folder / ".retrain"
    assert list(json.loads((state / "plan.json").read_text())["certain"]) == ["validate"]
    ran = json.loads((state / "ran.json").read_text())["ran"]
    assert [stage for stage in ran if stage != "select_best"] == [
        stage for stage in STAGES[1:] if stage != "select_best"
    ]
    comment = (state / "comment.md").read_text()
    for words in (
        "3 images, 6 objects (the base was evaluated on 2 images, 4 objects of `test`)",
        "| `red` |",
        "; objects in 3 images: too few for an interval.",
        "With fewer than 100 images, the ends of the intervals are uncertain too",
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
    third = verify_in_clone(world, "retrain/main")
    assert len(list((third.folder / "records").glob("*.json"))) == 2
    client = MlflowClient(world.mlflow.uri)
    commit = world.branches()["retrain/main"]
    runs = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"tags.mlflow.source.git.commit = '{commit}'",
    )
    assert [run.info.status for run in runs] == ["FINISHED"]
    # The commit of a retraining, merged or not, starts no training.
    third.run("git", "push", "-q", "origin", "retrain/main:main")
    before = world.objects(), world.branches()
    again = world.clone("again")
    status, log = world.retrain(again)
    assert (status, "no stage runs" in log) == (0, True), log
    assert (world.objects(), world.branches()) == before


@pytest.mark.slow
def test_a_readme_retrains_nothing_and_a_param_of_evaluate_only_evaluates(world: World, developer: Project) -> None:
    (developer.folder / "README.md").write_text("other words\n")
    for path in (developer.folder / "rfdetr_core").rglob("*.py"):
        path.write_text(f"# other words\n{path.read_text()}")
    push(developer, "words and comments")
    runner = world.clone("runner")
    status, log = world.retrain(runner)
    assert (status, "no stage runs" in log, list(world.branches())) == (0, True, ["main"]), log
    assert not (runner.folder / "data" / "tiny").exists()
    developer.set_params(evaluate={"pictures": 2})
    push(developer, "more pictures")
    runner = world.clone("runner 2")
    status, log = world.retrain(runner)
    assert status == 0, log
    assert json.loads((runner.folder / ".retrain" / "ran.json").read_text())["ran"] == ["code", "evaluate", "report"]
    comment = (runner.folder / ".retrain" / "comment.md").read_text()
    assert "The base and the new model are the same file" in comment
    assert "- `evaluate`: `params.yaml: evaluate.pictures`" in comment
    verify_in_clone(world, "retrain/main")


@pytest.mark.slow
def test_a_pull_request_starts_no_training_and_gets_the_plan_as_a_comment(world: World, developer: Project) -> None:
    developer.set_params(evaluate={"pictures": 2})
    push(developer, "more pictures")
    before = world.objects(), world.branches()
    request = {"number": 7, "head": {"repo": {"full_name": "owner/name"}}, "user": {"login": "somebody"}}
    world.event = {"event_name": "pull_request", "head_ref": "pictures", "event": {"pull_request": request}}
    runner = world.clone("runner")
    status, log = world.retrain(runner)
    assert status == 0, log
    path = "repos/owner/name/issues/7/comments"
    question, comment = gh_log(runner).read_text().splitlines()
    assert question.startswith(f"api --paginate {path} ")
    assert comment == f"api {path} --silent -F body=@.retrain/body.md"
    body = (world.of_job("tell-plan", runner).folder / ".retrain" / "body.md").read_text()
    assert "evaluate.pictures" in body
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
    status, log = world.retrain(runner)
    assert status == 1, log
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
def test_the_next_run_completes_after_a_kill_in_training_or_a_refused_push(world: World, developer: Project) -> None:
    developer.set_params(train={"seed": 5})
    push(developer, "other seed")
    before = world.objects(), world.branches()
    runner = world.clone("killed")
    env = runner.environment() | world.environment(runner) | world.secrets()
    for module in ("ci.plan", "ci.pull_data"):
        runner.run(sys.executable, "-m", module, env=env)
    log_file = world.folder / "log"
    with log_file.open("w") as file:
        command = [sys.executable, "-m", "ci.reproduce"]
        process = subprocess.Popen(
            command, cwd=runner.folder, env=env, stdout=file, stderr=file, start_new_session=True
        )
    while "Running stage 'train'" not in log_file.read_text():
        assert process.poll() is None, log_file.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (world.objects(), world.branches()) == before

    # Trained and pushed to DVC. Then git refuses the push, as if the runner had died before it.
    hook = world.origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    status, log = world.retrain(runner)  # in the same folder, which is cleaned first
    assert status == 1, log
    assert "The files of the result are in the DVC remote" in log
    assert world.branches() == before[1]
    hook.unlink()

    last = world.clone("last")
    status, log = world.retrain(last)
    assert status == 0, log
    ran = json.loads((last.folder / ".retrain" / "ran.json").read_text())
    assert "train" not in ran["ran"]
    assert "train" in ran["cached"]
    verify_in_clone(world, "retrain/main", restored=True)


@pytest.mark.slow
def test_a_lock_that_was_not_run_is_stopped_before_anything_is_pulled(world: World, developer: Project) -> None:
    developer.set_params(train={"lr": 0.5})
    developer.run("dvc", "commit", "-f", "-q")
    push(developer, "not run")
    runner = world.clone("runner")
    before = world.objects(), world.branches()
    status, log = world.retrain(runner)
    assert status == 1
    assert "params.yaml: train.lr in dvc.lock" in log
    assert "Traceback" not in log
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
    status, log = world.job("plan", runner)
    assert status == 0, log
    assert "no retraining made this commit: dvc.lock does not agree with params.yaml: train.lr" in log
    assert f"(Retrained-from: {source})" in log
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
    status, log = world.retrain(world.clone("stopped"), **{variable: value})
    assert (status, "params.yaml: runtime.run has an interpolation" in log) == (1, True), log
    assert (world.objects(), world.branches()) == before
    developer.set_params(runtime={"run": None})
    push(developer, "without it")
    before = world.objects(), world.branches()
    runner = world.clone("runner")
    status, log = world.retrain(runner, PARAMS=f"runtime.run={value}", **{variable: value})
    assert status == 1, log
    message = f"params.yaml contains the value of the secret variable {variable}. Delivery stops here"
    assert f"error: {message}" in log
    assert (world.objects(), world.branches()) == before
    comment = (runner.folder / ".retrain" / "comment.md").read_text()
    assert message in comment
    assert value not in comment
    assert "Traceback" not in log
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
        expected, changed = developer.changed_stages(), changed_stages(developer.folder)
        if "code" in expected:  # DVC knows what the stage code writes only when that stage has run
            developer.repro("code")
            expected = developer.changed_stages() | ({"code"} if "code" in changed else set())
            written = developer.run("git", "diff", "--quiet", "digests", check=False).returncode == 1
            assert ("code" in changed) == (
                written or any("params.yaml" in reason for reason in changed.get("code", ()))
            )
        assert set(changed) == expected
        developer.run("git", "reset", "-q", "--hard")
        developer.run("git", "clean", "-fdq")
    edit("rfdetr_core/loss/matcher.py", "EDITED = True")
    named = ["rfdetr_core/loss/matcher.py"]
    assert changed_stages(developer.folder) == {"code": named, "train": named}
    (developer.folder / "digests" / "train.json").write_text("{}")  # for this DVC runs only code
    developer.run("git", "checkout", "-q", "--", "rfdetr_core")
    assert changed_stages(developer.folder) == {"code": ["digests/train.json"]}
    developer.run("git", "reset", "-q", "--hard")

    # An edit whose digest is written but that has not run is accepted. An edit committed as if it had run is not.
    for command, status in ((("dvc", "repro", "-q", "code"), 0), (("dvc", "commit", "-q", "-f"), 1)):
        edit("rfdetr_core/loss/matcher.py", "EDITED = True")
        developer.run(*command)
        developer.commit("edited")
        changed = developer.run(sys.executable, "-m", "ci.check_lock", check=False)
        assert (changed.returncode, "code rfdetr_core/loss/matcher.py" in changed.stderr) == (status, status == 1), (
            changed.stderr
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


def test_the_stages_that_may_run_after_a_stage() -> None:
    stages = read_stages(ROOT)
    assert later_stages(stages, {"validate"}) == STAGES[2:]
    assert later_stages(stages, {"code", "train"}) == STAGES[4:]
    assert later_stages(stages, {"code"}) == []
    assert later_stages(stages, {"evaluate"}) == ["report", "export"]
    assert later_stages(stages, {"report"}) == later_stages(stages, {"export"}) == []


def test_the_data_is_pulled_for_every_stage_that_reads_the_dataset_or_a_manifest() -> None:
    data = ("${data.dir}", "manifest")
    assert {name for name, stage in PIPELINE.items() if any(dep.startswith(data) for dep in stage["deps"])} == READERS


def test_a_pushed_change_explains_a_mismatch_and_a_change_hidden_by_the_lock_does_not() -> None:
    values = {"expected": "a", "found": "b"}
    mismatches = [
        values | {"what": "rfdetr_core/loss", "by": ["dvc.lock: train"]},
        values | {"what": "code rfdetr_core/loss/matcher.py", "by": ["records/1.json"]},
        values | {"what": "images of train", "by": ["records/1.json"]},
    ]
    changed = {"train": ["rfdetr_core/loss", "manifest/train.json"]}
    assert unexplained(mismatches, changed) == []
    assert unexplained(mismatches, {"evaluate": changed["train"]}) == mismatches[1:]
    claim = values | {"what": "params.yaml: train.lr in dvc.lock", "by": ["records/1.json"]}
    assert unexplained([claim], changed) == [claim]
    assert unexplained([claim], {"strip": ["output/checkpoint_best_ema.pth"]}) == []


@pytest.fixture
def retrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A repository at the end of a retraining. Its first commit has no dvc.lock, its second one has a trained model."""
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
    """The reason that the gate gives for a base. For a failed gate it begins with `error:`."""
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
        error = judged(name, monkeypatch)
        assert f"error: the gate failed: the base {name} is not in this clone" in error
        assert "fetch-depth: 0" in error
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
            error = judged("HEAD", monkeypatch)
            assert error.startswith("error: the gate failed: the model of the base")
            assert reason in error
    retrained.set_params(gate={"max_drop": None})
    assert "every result passes" in judged("HEAD", monkeypatch)


def test_a_base_without_a_model_or_without_a_comparison_does_not_open_the_gate(
    retrained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"Run: python -m ci\.compare"):
        gate.main()
    (retrained.folder / "dvc.lock").write_text("stages: {}\n")
    retrained.commit("nothing trained")
    assert "the base was not trained" in judged("HEAD", monkeypatch)


@pytest.mark.parametrize(("verdict", "status"), [("passed", 0), ("failed", 1), ("undecided", 0)])
def test_a_failed_gate_fails_the_run(tmp_path: Path, verdict: str, status: int) -> None:
    (tmp_path / ".retrain").mkdir()
    (tmp_path / ".retrain" / "comparison.json").write_text(json.dumps({"verdict": verdict, "why": "so"}))
    command = [sys.executable, "-m", "ci.gate"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == status


def test_a_file_that_shadows_a_module_gets_a_message_with_the_remedy(
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
    assert "torch" in numeric_only()
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
