"""If memory runs out, there is one message with the remedy, and no file is called damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.memory import explaining_shortage, shortage_message
from rfdetr_core.base.paths import ProjectPaths
from tests.evaluation.scene import write_tiny_checkpoint
from tests.short import run_short
from tests.training.conftest import where
from tests.training.tiny import script

__all__ = ["where"]

HUGE = 2**50


def _enomem() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@pytest.mark.parametrize(
    "allocate", [lambda: bytearray(HUGE), lambda: np.empty(HUGE), lambda: torch.empty(HUGE), _enomem]
)
def test_out_of_memory_errors_of_every_library_are_recognised(allocate: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=r"memory ran out \(.+\)\. Buy some\."), explaining_shortage("Buy some."):
        allocate()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("sizes of tensors must match"),
        OSError(errno.ENOSPC, "full"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/out of memory/x.jpg"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_are_unchanged(error: Exception) -> None:
    assert shortage_message(error) is None
    with pytest.raises(type(error)) as raised, explaining_shortage("Buy some."):
        raise error
    assert raised.value is error


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO dataset of good images, 80 MB each when decoded."""
    folder = tmp_path_factory.mktemp("pictures") / "train"
    folder.mkdir()
    picture = Image.linear_gradient("L").resize((5000, 4000)).convert("RGB")
    rows = []
    for number, kind in enumerate(("bmp", "jpg", "png", "tif", "webp"), start=1):
        picture.save(folder / f"a_{kind}.{kind}", **({"method": 0} if kind == "webp" else {}))
        rows.append({"id": number, "file_name": f"a_{kind}.{kind}", "width": 5000, "height": 4000})
    boxes = [
        {"id": row["id"], "image_id": row["id"], "category_id": 1, "bbox": [9, 9, 99, 99], "area": 9801, "iscrowd": 0}
        for row in rows
    ]
    content = {"categories": [{"id": 1, "name": "tree"}], "images": rows, "annotations": boxes}
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    (folder.parent / "valid").mkdir()
    (folder.parent / "valid" / "_annotations.coco.json").write_text(
        json.dumps(content | {"images": [], "annotations": []})
    )
    return folder


DECODE = """
import sys
from pathlib import Path
from PIL import Image
from rfdetr_core.base import images
from rfdetr_core.base.errors import UserError
Image.init()
paths = sorted(path for path in Path(sys.argv[1]).glob("a_*"))
data = [path.read_bytes() for path in paths]
limit(int(sys.argv[2]))
for path, content in zip(paths, data):
    try:
        images.decode(content, str(path))
        print("decoded")
    except MemoryError:
        print("short")
    except UserError as error:
        print(error)
"""


@pytest.mark.parametrize("mebibytes", [1, 50, 90, 150, 250])
def test_a_good_image_is_never_called_damaged_where_memory_is_short(mebibytes: int, pictures: Path) -> None:
    done = run_short(DECODE, str(pictures), str(mebibytes))
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done.stderr
    assert set(lines) <= {"decoded", "short"}
    assert "short" in lines or mebibytes > 200


VALIDATE = """
import sys
import pandas
from pathlib import Path
from rfdetr_core.ingest import survey
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.validate import validate_dataset
from stages import run
survey._WORTH_PROCESSES = int(sys.argv[2])
root, out = Path(sys.argv[1]), Path(sys.argv[3])
sys.argv[0] = "code"  # the one stage whose code is not compared with its digests
config = ValidateConfig(on_error="drop")
limit(30)
run(lambda: validate_dataset(root, config, out / "report", out / "manifest", cache=out / "cache.sqlite"))
"""


@pytest.mark.parametrize("least", [1, 1000], ids=["in processes", "in one process"])
def test_a_validation_without_memory_drops_no_image(least: int, pictures: Path, tmp_path: Path) -> None:
    done = run_short(VALIDATE, str(pictures.parent), str(least), str(tmp_path))
    assert done.returncode == 1
    assert "error: memory ran out while train/a_" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "manifest").exists()
    assert not (tmp_path / "report").exists()


PREDICT = """
import sys
import rfdetr_core.evaluation.predictions, supervision
from rfdetr_core.cli import main
limit(int(sys.argv[1]))
main(["predict", *sys.argv[2:4], "--output", sys.argv[4]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("mebibytes", [1, 40, 120])
def test_a_prediction_without_memory_is_one_message(mebibytes: int, pictures: Path, tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path / "tiny.pth")
    done = run_short(PREDICT, str(mebibytes), str(model), str(pictures), str(tmp_path / "out"))
    assert done.returncode == 1
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "memory ran out" in message
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.glob("out/*") if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_without_memory_says_what_to_lower(workers: int, where: ProjectPaths, tmp_path: Path) -> None:
    training = script(where, tmp_path / "output", runtime={"num_workers": workers}, model={"resolution": 256})
    imports, _, call = training.rpartition("train(ProjectPaths")
    program = f"""{imports}
import rfdetr_core.training.module, rfdetr_core.observers.loggers
from rfdetr_core.base.errors import UserError
limit(100)
try:
    train(ProjectPaths{call}except UserError as error:
    print(error)
"""
    done = run_short(program)
    assert "memory ran out" in done.stdout, done.stderr
    assert "Lower train.batch_size" in done.stdout
    assert "runtime.num_workers" in done.stdout


def test_a_stage_without_memory_is_one_message() -> None:
    done = run_short('import sys\nfrom stages import run\nsys.argv[0] = "code"\nrun(lambda: bytearray(2**60))\n')
    assert done.returncode == 1
    assert done.stderr.startswith("error: memory ran out (MemoryError). Free some, or run on a machine with more.\n")
    assert "Traceback" not in done.stderr


def test_after_a_shortage_a_failing_exit_handler_prints_only_errors_of_another_kind() -> None:
    handlers = """
import atexit, sys
from stages import run
atexit.register(lambda: bytearray(2**60))
atexit.register(lambda: int("no number"))
sys.argv[0] = "code"
"""
    done = run_short(f"{handlers}run(lambda: bytearray(2**60))")
    assert done.stderr.startswith("error: memory ran out (MemoryError).")
    assert "invalid literal" in done.stderr
    assert done.stderr.count("MemoryError") == 1
    assert run_short(handlers).stderr.count("MemoryError") == 1  # without a shortage before, Python prints it
