"""Retraining on GitLab: gitlab-ci-local runs its pipeline, with a bare repository and an S3 server on loopback.

GitLab itself is missing: its API is a stub, there is no runner, and all jobs run in the folder of one clone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from tests.ci.workflows import GITLAB, upload
from tests.pipeline.gitlab import TOKEN, Api, keep, prepare, readable, run, serving
from tests.pipeline.project import LEARNS, LEARNT, Project, make_dataset

KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
SECRETS = {"retrain": KEYS, "deliver": {"RETRAIN_TOKEN": TOKEN}}


@dataclass
class World:
    """The developer's project, the bare repository that is its remote `origin`, and the stub of GitLab."""

    folder: Path
    developer: Project
    api: Api

    @property
    def origin(self) -> Path:
        """The bare repository."""
        return self.folder / "origin.git"

    def push(self, message: str) -> None:
        """Commit, and push to main."""
        self.developer.commit(message)
        self.developer.run("git", "push", "-q", str(self.origin), "HEAD:main")

    def runner(self, name: str) -> Project:
        """A new clone, prepared like the folder of a runner."""
        subprocess.run(["git", "clone", "-q", "-b", "main", self.origin, self.folder / name], check=True)
        clone = Project(self.folder / name)
        prepare(clone, self.api, self.origin)
        return clone

    def run(self, clone: Project, *arguments: str) -> tuple[int, str]:
        """Run the pipeline of a clone. Returns its exit status and log."""
        return run(clone, self.folder / "home", SECRETS, *arguments)

    def names(self, clone: Project) -> dict[str, str]:
        """The replacements in a log for the folders and addresses of this test."""
        return {str(clone.folder): "FOLDER", str(self.origin): "ORIGIN", self.api.address: "https://gitlab.example"}

    def branches(self) -> dict[str, str]:
        """The branches of the remote `origin` and their tips."""
        output = self.developer.run("git", "ls-remote", "-h", str(self.origin)).stdout
        return {line.split("refs/heads/")[1]: line.split()[0] for line in output.splitlines()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The developer's project: trained, committed and pushed, with the dataset in DVC and the file for GitLab.

    Its model finds objects, so a change can make it worse.
    """
    storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    storage.start()
    address = "http://{}:{}".format(*storage.get_host_and_port())
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    boto3.resource("s3", endpoint_url=address, **keys).create_bucket(Bucket="store")
    project = Project.create(tmp_path_factory.mktemp("first") / "developer", LEARNS)
    shutil.rmtree(project.folder / "data" / "tiny")
    make_dataset(project.folder / "data" / "tiny", **LEARNT)
    project.move_data_to_dvc("s3://store/dvc")
    project.run("dvc", "remote", "modify", "-q", "store", "endpointurl", address)
    (project.folder / ".gitlab-ci.yml").write_text("include: ci/gitlab.yml\n")
    project.repro()
    project.commit("first result")
    project.run("dvc", "push", "-q", "--run-cache", env=KEYS)
    yield project
    storage.stop()


@pytest.fixture
def world(first: Project, tmp_path: Path) -> Iterator[World]:
    """A new bare repository and a new stub."""
    subprocess.run(["git", "clone", "-q", "--bare", first.folder, tmp_path / "origin.git"], check=True)
    with serving() as api:
        yield World(tmp_path, first.copy(tmp_path / "developer"), api)


@pytest.mark.slow
def test_a_retraining_passes_and_opens_one_merge_request(world: World) -> None:
    world.developer.set_params(evaluate={"pictures": 2})
    world.push("more pictures")
    clone = world.runner("runner")
    status, log = world.run(clone)
    assert status == 0, log
    keep("passes", log, world.names(clone))
    assert set(world.branches()) == {"main", "retrain/main", "retrain-attachments"}
    (request,) = world.api.requests
    assert (request["source_branch"], request["target_branch"]) == ("retrain/main", "main")
    assert "Gate passed" in request["description"]
    assert f"{world.api.address}/group/name/-/raw/retrain-attachments/" in request["description"]
    assert request["title"].startswith("Retrained: ")
    assert world.api.notes == []
    assert TOKEN not in log + "".join(path.read_text() for path in (clone.folder / ".git").glob("*config*"))

    # Run the last job again, as a person would after a failure: in a new clone that has only the artifacts.
    paths = yaml.safe_load(GITLAB.read_text())["retrain"]["artifacts"]["paths"]
    upload(paths, clone.folder, world.folder / "artifact")
    before, last = world.branches(), world.runner("last")
    shutil.copytree(world.folder / "artifact", last.folder, dirs_exist_ok=True)
    status, log = world.run(last, "deliver")
    assert status == 0, log
    assert world.branches()["retrain/main"] == before["retrain/main"]
    assert len(world.api.requests) == 1
    assert [path for path, _ in world.api.notes] == ["merge_requests/1/notes"]


@pytest.mark.slow
def test_a_failed_gate_fails_the_pipeline_and_the_merge_request_is_opened(world: World) -> None:
    world.developer.set_params(train={"epochs": 1})
    world.push("one epoch")
    clone = world.runner("runner")
    status, log = world.run(clone)
    keep("fails-its-gate", log, world.names(clone))
    assert status == 1, log
    assert "the gate failed: mAP changed by -" in log
    (request,) = world.api.requests
    assert "Gate failed" in request["description"]
    assert world.api.notes == []

    # Run only the last job, with an API that refuses. The branch was pushed, and the comment says so.
    world.api.refuse = 403
    status, log = world.run(clone, "deliver")
    assert status == 1, log
    assert "GitLab answered 403 to GET merge_requests" in log
    assert "Traceback" not in log
    assert (clone.folder / ".retrain/comment.md").read_text().startswith("## Retrained, but without a merge request")


@pytest.mark.slow
def test_a_push_without_changed_inputs_succeeds_and_changes_nothing(world: World) -> None:
    world.push("no change")
    clone, before = world.runner("runner"), world.branches()
    status, log = world.run(
        clone, "--variable", "CI_PIPELINE_SOURCE=web", "--ignore-predefined-vars", "CI_PIPELINE_SOURCE"
    )
    assert status == 0, log
    keep("nothing-to-do", log, world.names(clone))
    assert "no stage runs" in log
    assert "no stage runs: nothing to do" in log
    assert (world.branches(), world.api.requests, world.api.notes) == (before, [], [])
    assert not (clone.folder / "data" / "tiny").exists()


@pytest.mark.slow
def test_errors_in_a_dataset_are_reported_on_the_commit(world: World) -> None:
    path = world.developer.folder / "data/tiny/train/_annotations.coco.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 77
    path.unlink()  # it may be a link into the cache
    path.write_text(json.dumps(content))
    world.developer.run("dvc", "add", "-q", "data/tiny")
    world.developer.run("dvc", "push", "-q", "data/tiny.dvc", env=KEYS)
    world.push("bad data")
    clone, before = world.runner("runner"), world.branches()
    status, log = world.run(clone)
    assert status == 1, log
    commit = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    ((address, note),) = world.api.notes
    assert address == f"repository/commits/{commit}/comments"
    assert "## Not retrained: `validate` failed" in note
    assert (world.branches(), world.api.requests) == (before, [])


@pytest.mark.parametrize(
    ("changed", "variables", "expected"),
    [
        ("README.md", {}, {"plan"}),
        ("params.yaml", {}, {"plan", "retrain", "deliver"}),
        ("requirements/dev.lock", {}, {"plan", "vulnerabilities"}),
        ("README.md", {"CI_PIPELINE_SOURCE": "web"}, {"plan", "retrain", "deliver"}),
        ("params.yaml", {"CI_PIPELINE_SOURCE": "merge_request_event"}, {"plan"}),
        ("params.yaml", {"CI_PIPELINE_SOURCE": "schedule"}, {"vulnerabilities"}),
    ],
)
def test_an_event_starts_the_right_jobs(
    tmp_path: Path, changed: str, variables: dict[str, str], expected: set[str]
) -> None:
    project = Project(tmp_path / "clone")
    (project.folder / "ci").mkdir(parents=True)
    (project.folder / "requirements").mkdir()
    shutil.copyfile(GITLAB, project.folder / "ci" / "gitlab.yml")
    (project.folder / ".gitlab-ci.yml").write_text("include: ci/gitlab.yml\n")
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "config", "user.email", "test@localhost")
    project.run("git", "config", "user.name", "test")
    project.run("git", "remote", "add", "origin", "none")
    project.commit("start")
    (project.folder / changed).write_text("changed\n")
    project.commit("change")
    prepare(project, Api("http://127.0.0.1:1"), tmp_path / "none")
    options = [word for key, value in variables.items() for word in ("--variable", f"{key}={value}")]
    status, log = run(
        project, tmp_path / "home", {}, "--list-csv", "--ignore-predefined-vars", "CI_PIPELINE_SOURCE", *options
    )
    assert status == 0, log
    assert {line.partition(";")[0] for line in log.splitlines() if ";" in line} - {"name"} == expected, log


def test_a_log_has_no_colours_times_and_folders() -> None:
    log = "\x1b[32mretrain\x1b[0m > finished in 1.42 s of /tmp/x at 10:11:12\n"
    assert readable(log, {"/tmp/x": "FOLDER"}) == "retrain > finished in ... s of FOLDER at ...\n"
