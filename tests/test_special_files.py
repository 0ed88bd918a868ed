"""Pipes, sockets and devices instead of files: a command prints one message and does not wait."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from rfdetr_core.checkpoint.files import write_checkpoint
from tests.checkpoint.tiny import tiny_checkpoint
from tests.ingest.samples import make_coco

KINDS = {"pipe": "a pipe", "socket": "a socket", "device": "a device", "folder": "directory"}
# The process has limits, 60 seconds and 8 GB, which end a command that waits or reads endlessly.
RUN = """
import resource, signal, sys
from pathlib import Path
from rfdetr_core.base.errors import UserError
from rfdetr_core.cli import main
from rfdetr_core.api import model as api
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
signal.alarm(60)
CALLS = {
    "predict IMAGE": lambda path: main(["predict", "model.pth", path, "--output", "out"]),
    "predict CHECKPOINT": lambda path: main(["predict", path, "image.png", "--output", "out"]),
    "predict --thresholds": lambda path: main(
        ["predict", "model.pth", "image.png", "--output", "out", "--thresholds", path]
    ),
    "promote": lambda path: main(["promote", path]),
    "audit": lambda path: main(["audit", path]),
    "audit --image": lambda path: main(["audit", "--image", path]),
    "verify": lambda path: main(["verify", path]),
    "attest": lambda path: main(["attest", path]),
    "preview": lambda path: main(["preview", "--params", path]),
    "pretrain_weights": lambda path: api.RFDETRNano(pretrain_weights=path, device="cpu"),
    "dataset_dir": lambda path: api.RFDETRPico(device="cpu").train(dataset_dir=path, output_dir="out"),
}
for name, call in CALLS.items():
    for path in sys.argv[1:]:
        try:
            call(path)
            print(name, path, "ended well")
        except (SystemExit, UserError) as error:
            print(name, path, "|", error)
"""


def make(kind: str, path: Path) -> None:
    """Create a special file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("x.json")
    make(kind, path)
    for read in (files.open_regular, files.read_bytes, files.read_text, files.sha256_file, files.md5_file):
        with pytest.raises(OSError, match=KINDS[kind]):
            read(path)
    for load in (files.read_json, lambda path: files.copy(path, tmp_path / "copy")):
        with pytest.raises(files.UserError, match=KINDS[kind]):
            load(path)
    assert not Path("copy").exists()


@pytest.mark.slow
def test_no_command_waits_for_a_pipe_or_reads_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    write_checkpoint(Path("model.pth"), tiny_checkpoint())
    Image.new("RGB", (32, 32)).save("image.png")
    paths = ["pipe.pth", "device.pth", "socket.pth"]
    for path in paths:
        make(Path(path).stem, Path(path))
    done = subprocess.run(
        [sys.executable, "-c", RUN, *paths],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if " | " in line or "ended well" in line]
    assert len(lines) == 33
    for line in lines:
        call, _, message = line.partition(" | ")
        assert call.split()[-1] in message, line
        assert "Traceback" not in message


@pytest.mark.slow
def test_validation_passes_no_label_or_image_that_is_a_pipe_or_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as an annotation file that params.yaml names, which may have any name."""
    monkeypatch.chdir(tmp_path)
    for kind in ("pipe", "socket"):
        root = make_coco(tmp_path / kind)
        (root / "train/train_2.png").unlink()
        make(kind, root / "train/train_2.png")
        make(kind, root / "labels.json")
        code = f"""
import signal; signal.alarm(60)
from pathlib import Path
from tests.ingest.samples import validate
root = Path({str(root)!r})
print(validate(root, root.parent / "reports")[0])
split = lambda file: {{"annotations": file, "images": "train"}}
print(validate(root, root.parent / "reports", coco={{"train": split("labels.json")}})[0])
"""
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=True
        )
        image, labels = [line for line in done.stdout.splitlines() if line.startswith("[")]
        assert "image-unreadable" in image
        assert "labels.json" in labels
