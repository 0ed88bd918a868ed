"""Terminal escapes in each kind of file are escaped by the commands that print them."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from rfdetr_core.base.code import ROOT
from rfdetr_core.checkpoint.files import file_content
from tests.base.test_printing import HOSTILE, commands
from tests.checkpoint.tiny import tiny_checkpoint
from tests.hostile import Target
from tests.ingest.samples import edit_coco, make_coco

pytestmark = pytest.mark.slow
NAME = HOSTILE.replace("/", "")


def core(folder: Path, *arguments: str) -> str:
    """The output of a command; the folder need not be a repository."""
    return printed(folder, "-m", "rfdetr_core", *arguments)


def printed(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False)
    text = (done.stdout + done.stderr).decode()
    assert "Traceback" not in text
    assert commands(text) == []
    assert not [line for line in text.split("\n") if line.startswith("error: forged")]
    return text


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(tmp_path_factory.mktemp("printed"))


def test_names_of_images_and_classes_are_printed_as_escapes_by_predict(tmp_path: Path) -> None:
    content = file_content(tiny_checkpoint())
    content["args"] |= {"class_names": [NAME, "b", "c"]}
    torch.save(content, tmp_path / "model.pth")
    Image.new("RGB", (32, 32)).save(tmp_path / "good.png")
    shutil.copy(tmp_path / "good.png", tmp_path / f"{NAME}.png")
    (tmp_path / f"{NAME}2.png").write_bytes(b"x")
    names = [f"{NAME}.png", f"{NAME}2.png", "good.png"]
    text = core(tmp_path, "predict", "model.pth", *names, "--threshold", "0", "--output", "out", "--device", "cpu")
    assert text.count(r"a\x1b[2Jb") >= 3
    assert r"a\x1b[2Jb" in core(tmp_path, "predict", f"{NAME}.pth", "good.png")


def test_names_of_files_and_classes_are_printed_as_escapes_by_validation(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    (root / "train" / f"{NAME}.png").write_bytes(b"x")
    edit_coco(root, "train", lambda content: content["categories"].append({"id": 9, "name": NAME}))
    edit_coco(root, "valid", lambda content: content["images"][0].update(file_name=f"{NAME}.png"))
    code = "from tests.ingest.samples import validate; from pathlib import Path; validate(Path('data'), Path('out'))"
    assert r"a\x1b[2Jb" in printed(tmp_path, "-c", code)


def test_words_of_a_model_file_are_printed_as_escapes_by_every_command(target: Target) -> None:
    content = copy.deepcopy(target.content)
    training = content["lineage"]["training"]
    training["packages"] = {HOSTILE: HOSTILE}
    training["counts"] = {HOSTILE: {"images": 1, "objects": 1}}
    training["params"] = {"train": {HOSTILE: HOSTILE, "seed": HOSTILE}}
    torch.save(content, target.path)
    repo = ["--repo", str(target.repository.folder)]
    for command in (["audit", str(target.path), *repo], ["audit", "--diff", str(target.path), str(target.good), *repo],
                    ["audit", str(target.path), "--images", *repo], ["verify", str(target.path), *repo]):  # fmt: skip
        core(target.folder, *command)
    assert r"f\rg\nerror: forged" in core(target.folder, "audit", str(target.path), *repo)


def test_words_of_records_commits_and_locks_are_printed_as_escapes(target: Target) -> None:
    folder = target.repository.folder
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    for entry in lock["stages"].values():
        entry.setdefault("deps", []).append({"path": HOSTILE, "md5": "0" * 32, "hash": "md5"})
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    for path in (folder / "records").glob("*.json"):
        record = json.loads(path.read_text())
        record["run"] = {HOSTILE: HOSTILE}
        path.write_text(json.dumps(record))
    git = ["git", "-c", "user.name=a\x1b[2Jb\u202e", "-c", "user.email=x@y", "commit", "-qam", "s\x1b[2Jb"]
    subprocess.run(git, cwd=folder, check=True)
    for command in (["audit", str(target.good)], ["verify"], ["verify", "--lock"], ["audit", "--image", "0" * 64]):
        core(folder, *command)


def test_a_refused_step_of_ci_prints_escapes_and_its_comment_stays_fenced(tmp_path: Path) -> None:
    code = (
        "from ci.steps import step; from rfdetr_core.base.errors import UserError\n"
        f"def main(): raise UserError({HOSTILE + '```'!r})\nstep(main)"
    )
    assert r"a\x1b[2Jb" in printed(tmp_path, "-c", code)
    comment = (tmp_path / ".retrain/comment.md").read_text()
    assert commands(comment) == []
    fence = comment.splitlines()[-1]  # longer than any fence in the message, which could otherwise close it
    assert fence.strip("`") == ""
    assert comment.count(fence) == 2
