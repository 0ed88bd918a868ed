"""The first steps of a new user, each in a separate process: the examples, a Python shell, the notebook."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from rfdetr_core.base.code import ROOT
from tests.checkpoint.store import Store, dog_everywhere, serving
from tests.pipeline.project import environment_without

NAME, PHOTO = "rf-detr-nano.pth", ROOT / "data" / "sample" / "test" / "yell1_00.jpg"
SAMPLE = PHOTO.parent.parent
# sitecustomize.py of the user's Python: the file of the test becomes the published file.
PUBLISHING = """
import os
from rfdetr_core.checkpoint import published
published.PUBLISHED["rf-detr-nano.pth"] = published.Published(os.environ["ADDRESS"], os.environ["MD5"])
"""


@dataclass
class User:
    """A user with the package installed, who works in another folder."""

    folder: Path
    environment: dict[str, str]
    store: Store

    def run(self, *arguments: object, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run Python in the folder."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False, **options,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done

    @property
    def cached(self) -> list[str]:
        """The names of the files in the cache of published weights."""
        return sorted(path.name for path in Path(self.environment["RF_HOME"]).glob("*"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A server with random weights of Nano that detect a dog everywhere."""
    with serving(Store(dog_everywhere(tmp_path_factory.mktemp("published")))) as store:
        yield store


@pytest.fixture
def user(published: Store, tmp_path: Path) -> User:
    for folder in ("site", "folder", "home"):
        (tmp_path / folder).mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(PUBLISHING)
    published.requests.clear()
    environment = environment_without("DVC_", "MLFLOW_", "PYTHONPATH", "ROBOFLOW_", "JUPYTER") | {
        "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}",  # as if the package were installed
        "HOME": str(tmp_path / "home"),
        "RF_HOME": str(tmp_path / "cache"),
        "ADDRESS": published.address,
        "MD5": hashlib.md5(published.content).hexdigest(),
    }
    return User(tmp_path / "folder", environment, published)


@pytest.mark.slow
def test_prediction_downloads_the_published_weights_and_draws_what_they_find(user: User) -> None:
    done = user.run(ROOT / "examples" / "predict.py", PHOTO, "boxes.jpg")
    assert "dog" in done.stdout
    assert f"downloading {NAME} from {user.store.address}" in done.stderr
    assert user.store.requests == [None]
    assert user.cached == [NAME, f"{NAME}.sha256"]
    with Image.open(PHOTO) as photo, Image.open(user.folder / "boxes.jpg") as drawn:
        assert drawn.size == photo.size
        assert max(high for _, high in ImageChops.difference(drawn, photo.convert("RGB")).getextrema()) > 100


@pytest.mark.slow
def test_training_starts_from_scratch_is_resumed_and_starts_from_the_best_weights(user: User) -> None:
    lines = user.run(ROOT / "examples" / "fine_tune.py", SAMPLE, "runs/first").stdout.splitlines()
    expected = [
        "training from scratch: no pretrain_weights",
        "AP50 on test: ",
        "resuming after epoch 1 of runs/first/checkpoint.pth.",
        f"training from the weights of {user.folder}/runs/first/checkpoint_best_total.pth",
    ]
    starts = [line for line in lines if line.startswith(("training from", "resuming after", "AP50"))]
    assert [line[: len(start)] for line, start in zip(starts, expected, strict=True)] == expected
    for path in ("first/history.png", "first/evaluate/metrics.json", "first-second/checkpoint_best_total.pth"):
        assert (user.folder / "runs" / path).exists(), path
    assert user.store.requests == []  # Pico has no published weights


SHELL = """
from rfdetr_core import RFDETRNano
RFDETRNano()
model = RFDETRNano(pretrain_weights=None, num_classes=3)
[model.class_names, model.weights]
model.predict(PHOTO, threshold=0.9).class_id
"""


@pytest.mark.slow
def test_a_shell_without_a_network_prints_one_message_and_its_advice_works(user: User) -> None:
    user.environment["ADDRESS"] = "http://127.0.0.1:9/nano.pth"
    done = user.run("-i", "-q", input=SHELL.replace("PHOTO", repr(str(PHOTO))))
    (message,) = (line for line in done.stderr.splitlines() if "UserError: " in line)
    for part in (NAME, user.environment["ADDRESS"], "RF_HOME", user.environment["RF_HOME"], "pretrain_weights=None"):
        assert part in message
    assert done.stderr.count("Traceback") == 1
    assert "urllib" not in done.stderr
    assert done.stdout.splitlines() == ["[['0', '1', '2'], None]", "array([], dtype=int64)"]
    assert user.cached == []


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    shutil.copytree(SAMPLE, user.folder / "data" / "sample")
    (user.folder / "examples").mkdir()
    book = nbformat.read(ROOT / "examples" / "first_steps.ipynb", as_version=4)
    nbformat.validate(book)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book.cells)  # no output is stored
    wrong = "from rfdetr_core import RFDETRPico\nRFDETRPico(resolutoin=64)"
    book.cells.append(nbformat.v4.new_code_cell(wrong, metadata={"tags": ["raises-exception"]}))
    for name, value in user.environment.items():
        monkeypatch.setenv(name, value)
    options = {"timeout": 300, "resources": {"metadata": {"path": str(user.folder / "examples")}}}
    nbclient.NotebookClient(book, kernel_name="python3", **options).execute()
    outputs = {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}
    printed = {
        name: "".join(output.text for output in cell_outputs if output.output_type == "stream")
        for name, cell_outputs in outputs.items()
    }
    for name in ("predict", "look"):
        assert "image/png" in outputs[name][-1].data, name
    assert f"downloading {NAME}" in printed["predict"]
    assert "training from scratch: no pretrain_weights" in printed["train"]
    assert "epoch 1/1" in printed["train"]
    assert float(outputs["load"][-1].data["text/plain"]) >= 0
    assert "resuming after epoch 1 of" in printed["resume"]
    assert re.search(r"training from the weights of /\S+/runs/first/checkpoint_best_total\.pth", printed["again"])
    # An error is only a message, without a traceback.
    (error,) = (output for output in book.cells[-1].outputs if output.output_type == "error")
    (message,) = error.traceback
    assert message.startswith("UserError: ")
    assert "Did you mean resolution?" in message
