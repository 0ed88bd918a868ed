"""What an audit believes: the history, before what a file, a cache or a reference says."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import shutil
import subprocess
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.dvc_config import cache_folder
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.verification.contents import Contents
from tests.audit.repository import Repository, sha256_of

IMAGES = {"train": {"train/a.jpg": "a"}, "valid": {"valid/b.jpg": "b"}, "test": {"test/c.jpg": "c"}}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "clone")
    made.train(1, IMAGES)
    made.commit("Train")
    return made


def relined(model: Path, to: Path, lineage: dict[str, Any]) -> Path:
    write_checkpoint(to, replace(read_checkpoint(model), lineage=lineage))
    return to


def audit(repository: Repository, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a process of its own would end with and print; in this one torch is imported already."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    command = ["audit", *arguments, "--repo", str(repository.folder)]
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(command)
        except SystemExit as ended:
            status = 1 if isinstance(ended.code, str) else int(ended.code or 0)
            err.write(ended.code if isinstance(ended.code, str) else "")
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def test_the_record_is_believed_before_the_file_itself(repository: Repository, tmp_path: Path) -> None:
    model = repository.folder / "output" / "checkpoint_best_total.pth"
    true: Any = read_checkpoint(model).lineage
    forged = json.loads(json.dumps(true))
    forged["training"]["params"]["train"]["seed"] = 777
    forged["training"]["files"]["manifest/train.json"] = forged["training"]["files"]["manifest/valid.json"]
    path = str(relined(model, tmp_path / "forged.pth", forged))
    done = audit(repository, path, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert told["lineage"] == true
    assert any("training.params.train.seed" in note for note in told["notes"])
    done = audit(repository, path, "--images")
    assert done.returncode == 1
    assert f"train,train/a.jpg,{sha256_of('a')}" in done.stdout
    assert "training.params.train.seed" in done.stderr
    assert audit(repository, str(model)).returncode == 0


def test_without_a_record_a_lineage_is_the_files_own_word(repository: Repository, tmp_path: Path) -> None:
    elsewhere = Repository(tmp_path / "elsewhere")
    model = elsewhere.train(2, IMAGES)
    done = audit(repository, str(model))
    assert done.returncode == 1
    assert "only the file itself says" in done.stdout


@pytest.mark.parametrize(
    ("lineage", "fault"),
    [
        ({}, "variant: it is missing"),
        ({"variant": None, "training": {}}, "training.params: it is missing"),
        ({"variant": None, "training": [1], "selection": 5}, "training: it must be a mapping, found a list"),
    ],
)
def test_a_lineage_that_is_none_is_named_by_its_field(
    repository: Repository, tmp_path: Path, lineage: dict[str, Any], fault: str
) -> None:
    model = repository.folder / "output" / "checkpoint_best_total.pth"
    path = relined(model, tmp_path / "odd.pth", lineage)
    done = audit(repository, str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"error: {path}: lineage.{fault}"


def test_what_git_replaces_is_read_as_it_was(repository: Repository) -> None:
    blob = repository.git("rev-parse", "HEAD:manifest/train.json")
    fake = repository.folder / "fake.json"
    fake.write_text(repository.manifest("train").read_text().replace(sha256_of("a"), sha256_of("x")))
    repository.git("replace", blob, repository.git("hash-object", "-w", str(fake)))
    model = str(repository.folder / "output" / "checkpoint_best_total.pth")
    assert sha256_of("a") in audit(repository, model, "--images").stdout
    for word, role in (("a", "trained"), ("x", "no model")):
        assert role in audit(repository, "--image", sha256_of(word)).stdout


@pytest.mark.parametrize("place", ["in the clone", "in a variable"])
def test_a_commit_that_a_graft_hides_is_read(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    repository.train(2, IMAGES | {"train": {"train/x.jpg": "x"}})
    graft = repository.folder / ".git" / "info" / "grafts" if place == "in the clone" else tmp_path / "grafts"
    files.write_text(graft, repository.commit("without the image") + "\n")
    if place == "in a variable":
        monkeypatch.setenv("GIT_GRAFT_FILE", str(graft))
    assert len(repository.git("log", "--format=%H").split()) == 1  # so git itself takes it
    done = audit(repository, "--image", sha256_of("a"))
    assert (done.returncode, done.stdout.count("trained "), done.stderr) == (0, 1, "")


@pytest.mark.parametrize("name", ["manifest/train.json", "dvc.lock", "records"])
def test_an_object_that_is_not_what_its_name_says_is_an_error(repository: Repository, name: str) -> None:
    model = str(repository.folder / "output" / "checkpoint_best_total.pth")
    blob = repository.git("ls-tree", "-r", "HEAD", name).split()[2]
    loose = repository.folder / ".git" / "objects" / blob[:2] / blob[2:]
    content = zlib.decompress(loose.read_bytes())
    loose.chmod(0o644)
    loose.write_bytes(zlib.compress(content.replace(b"train", b"trail", 1)))
    done = audit(repository, model, "--images")
    assert done.returncode == 1
    assert f"git's object {blob} was changed. Run git fsck, and fetch the object again" in done.stderr


def test_no_command_that_a_clone_is_configured_with_is_run(repository: Repository) -> None:
    script, marker = repository.folder / ".git" / "monitor.sh", repository.folder / ".git" / "ran"
    script.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(marker))}\n")
    script.chmod(0o755)
    repository.git("config", "core.fsmonitor", str(script))
    repository.git("status")
    assert marker.exists()
    marker.unlink()
    (repository.folder / "dvc.yaml").touch()
    assert audit(repository, "--image", sha256_of("a")).returncode == 0
    assert Contents(repository.folder).differs_from_head("records", "manifest") == []
    assert not marker.exists()


def test_after_a_rewritten_history_the_images_of_an_older_model_are_unknown(
    repository: Repository, tmp_path: Path
) -> None:
    """As docs/retention.md says of a name that must go."""
    model = str(shutil.copy(repository.folder / "output" / "checkpoint_best_total.pth", tmp_path / "model.pth"))
    assert audit(repository, model, "--images").returncode == 0
    manifest = repository.manifest("train")
    manifest.write_text(manifest.read_text().replace("train/a.jpg", "train/withdrawn.jpg"))
    repository.git("commit", "-q", "-a", "--amend", "-m", "rewritten")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "-q", "--prune=now")
    done = audit(repository, model, "--images")
    assert done.returncode == 1
    assert "never committed" in done.stderr


@pytest.mark.parametrize("changed", ["", " ", "garbage"])
def test_a_listing_in_the_cache_counts_only_if_it_is_what_its_name_says(
    repository: Repository, tmp_path: Path, changed: str
) -> None:
    (picture := tmp_path / "picture.png").write_text("picture")
    content = json.dumps([{"md5": files.md5_file(picture), "relpath": "picture.png"}])
    name = hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
    lock = repository.folder / "dvc.lock"
    entry = f"    - path: reports/evaluate/pictures\n      hash: md5\n      md5: {name}.dir\n"
    lock.write_text(lock.read_text().rstrip() + f"\n{entry}")
    repository.commit("pictures")
    listing = repository.folder / ".dvc" / "cache" / "files" / "md5" / name[:2] / f"{name[2:]}.dir"
    files.write_bytes(listing, (changed if changed.strip() else content + changed).encode())
    done = audit(repository, str(picture), "--json")
    assert json.loads(done.stdout)["found_by"] == (None if changed else "bytes")
    assert done.returncode == bool(changed)


def test_a_folder_and_a_bare_repository_are_named_for_what_they_are(repository: Repository, tmp_path: Path) -> None:
    assert "is not a file" in audit(repository, str(tmp_path)).stderr
    repository.git("clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    with pytest.raises(SystemExit, match="Name a clone with a working tree"):
        main(["audit", "--image", sha256_of("a"), "--repo", str(tmp_path / "bare")])


def test_a_pipe_that_is_closed_ends_it_quietly(repository: Repository) -> None:
    command = shlex.join(
        [sys.executable, "-m", "rfdetr_core", "audit", "--image", sha256_of("a"), "--repo", str(repository.folder)]
    )
    done = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("level", ["project", "local", "user"])
@pytest.mark.parametrize("written", ["{}", '"{},b"'])
def test_the_cache_is_found_wherever_it_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, written: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    project = tmp_path / "project"
    names = {"project": project / ".dvc/config", "local": project / ".dvc/config.local"}
    config = names.get(level, tmp_path / "home" / "dvc" / "config")
    (project / ".dvc").mkdir(parents=True)
    config.parent.mkdir(parents=True, exist_ok=True)
    place = written.format(tmp_path / "there")
    config.write_text(f"[cache]\n    dir = {place}\n")
    assert str(cache_folder(project)) == place.strip('"')


def test_a_configuration_that_dvc_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[cache]\n    dirr = x\n")
    with pytest.raises(UserError, match=r"DVC's configuration.*dirr"):
        cache_folder(tmp_path)
