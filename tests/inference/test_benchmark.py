from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.cli import main
from rfdetr_core.inference import benchmark as module
from rfdetr_core.inference.benchmark import Contender, Pictures, benchmark, load_pictures, measure, noise
from rfdetr_core.inference.optimised import OptimisedDetector
from rfdetr_core.inference.sessions import Session
from rfdetr_core.model.detector import Detector
from tests.evaluation.scene import write_tiny_checkpoint
from tests.inference.exporting import redescribed, write_onnx, write_openvino

FORMS = [("exact", "fp32"), ("optimised", "fp32"), ("optimised", "bf16")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("benchmark") / "model.pth", segmentation=True)


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> dict[str, Path]:
    """Exported files of the checkpoint, by runtime and form."""
    raw = write_onnx(checkpoint, checkpoint.with_name("raw.onnx"))
    return {
        "onnxruntime raw": raw,
        "onnxruntime complete": write_onnx(checkpoint, checkpoint.with_name("complete.onnx"), postprocess=True),
        "openvino raw": write_openvino(raw, checkpoint.with_name("raw.xml")),
    }


@pytest.fixture
def calls() -> Iterator[list[tuple[str, int, int]]]:
    """For each call of a model: its class, the number of images, and torch's number of threads."""
    runs: list[tuple[str, int, int]] = []

    def note(model: nn.Module, inputs: Any) -> None:
        if isinstance(model, Detector | OptimisedDetector):
            runs.append((type(model).__name__, len(inputs[0]), torch.get_num_threads()))

    hook = register_module_forward_pre_hook(note)
    yield runs
    hook.remove()


def contender(name: str, call: Callable[[str, Pictures], object]) -> Contender:
    """A contender whose calls are reported as `NAME model` and `NAME predict`."""
    return Contender(
        *(name, "exact", "none", "fp32", "cpu", 1),
        model=lambda pictures: lambda: call(f"{name} model", pictures),
        predict=lambda pictures: call(f"{name} predict", pictures),
    )


def test_every_form_of_every_file_has_a_row_at_every_batch_size(checkpoint: Path) -> None:
    rows = benchmark([checkpoint, checkpoint], batches=(1, 3), seconds=0, device="cpu").rows
    expected = [(batch, *form) for batch in (1, 3) for _ in range(2) for form in FORMS]
    assert [(row.batch, row.form, row.precision) for row in rows] == expected
    for row in rows:
        assert (row.file, row.device, row.runtime.split()[0]) == (str(checkpoint), "cpu", "torch")
        for timing in (row.model, row.predict):
            assert 0 < timing.p50_ms <= timing.p95_ms
            assert timing.calls >= 1
            assert timing.images_per_second > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_models_run_with_the_batch_and_the_threads_of_their_row(
    checkpoint: Path, calls: list[tuple[str, int, int]], threads: int
) -> None:
    before = torch.get_num_threads()
    result = benchmark([checkpoint], batches=(5,), precisions=["fp32"], threads=threads, seconds=0, device="cpu")
    assert {row.threads for row in result.rows} == {threads}
    outer = {run for run in calls if run[0] == "OptimisedDetector"}
    assert outer == {("OptimisedDetector", 5, threads)}
    assert {run for run in calls if run not in outer} == {("Detector", 5, threads)}
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_exported_files_have_a_row_in_their_runtime_beside_the_checkpoint(
    checkpoint: Path, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shapes, run = set[tuple[str, int, tuple[int, ...]]](), Session.run

    def noting_run(session: Session, inputs: Any) -> Any:
        shapes.add((session.path.name, session.threads, next(iter(inputs.values())).shape))
        return run(session, inputs)

    monkeypatch.setattr(Session, "run", noting_run)
    paths = [*exported.values(), checkpoint]
    result = benchmark(paths, batches=(1, 3), precisions=["fp32"], threads=2, seconds=0, device="cpu")
    assert [row.batch for row in result.rows] == [1] * 5 + [3] * 5
    for rows in (result.rows[:5], result.rows[5:]):
        assert [f"{row.runtime.split()[0]} {row.form}" for row in rows[:3]] == [*exported]
        assert {(row.precision, row.threads, row.device) for row in rows} == {("fp32", 2, "cpu")}
    for batch in (1, 3):
        for name in ("raw.onnx", "raw.xml"):
            assert (name, 2, (batch, 3, 32, 32)) in shapes
        assert ("complete.onnx", 2, (batch, 480, 640, 3)) in shapes
    assert {shape[0] for _, _, shape in shapes} == {1, 3}


@pytest.mark.slow
def test_a_complete_file_is_measured_with_images_of_several_sizes(exported: dict[str, Path], tmp_path: Path) -> None:
    for number in range(3):
        noise(number).resize((40 + 10 * number, 50)).save(tmp_path / f"{number}.png")
    path = exported["onnxruntime complete"]
    (row,) = benchmark([path], batches=(3,), images=tmp_path, seconds=0, device="cpu").rows
    assert (row.batch, row.form) == (3, "complete")


@pytest.mark.slow
def test_a_file_with_a_fixed_batch_size_is_measured_only_with_it(exported: dict[str, Path], tmp_path: Path) -> None:
    path = redescribed(exported["onnxruntime raw"], tmp_path / "fixed.onnx", batch_size=2)
    (row,) = benchmark([path], batches=(2,), seconds=0, device="cpu").rows
    assert row.batch == 2
    with pytest.raises(UserError, match=r"fixed\.onnx takes batches of 2, not of 3"):
        benchmark([path], batches=(2, 3), seconds=0, device="cpu")


def test_contenders_take_turns_and_get_the_same_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = [0.0], list[tuple[str, tuple[int, ...]]]()

    def call(name: str, pictures: Pictures) -> None:
        clock[0] += 0.15
        log.append((name, tuple(map(id, pictures))))

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    pictures = [Image.new("RGB", (4, 4)) for _ in range(5)]
    rows = measure([contender(name, call) for name in "ab"], pictures, 2, seconds=0.7)
    turns = [name for name, _ in itertools.groupby(log, key=lambda call: call[0])]
    cycle = ["a model", "a predict", "b model", "b predict"]
    assert turns == cycle * 4  # once to warm up, then 0.3 s a turn until each has 0.7 s
    assert [(row.model.calls, row.predict.calls) for row in rows] == [(6, 6)] * 2
    batches = [{pictures_of_call for name, pictures_of_call in log if name == task} for task in cycle]
    assert all(batch == batches[0] for batch in batches)
    assert all(len(pictures_of_call) == 2 for pictures_of_call in batches[0])
    assert len({picture for pictures_of_call in batches[0] for picture in pictures_of_call}) == 5


def test_the_measurements_are_of_the_timed_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spent = [0.0], dict[str, list[float]]()

    def call(name: str, pictures: Pictures) -> None:
        durations = spent.setdefault(name, [])
        durations.append((1 + len(durations) % 7) * (2 if "predict" in name else 1) / 1000)
        clock[0] += durations[-1]

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    (row,) = measure([contender("a", call)], [Image.new("RGB", (4, 4))], 3, seconds=0.1)
    for name, timing in (("a model", row.model), ("a predict", row.predict)):
        timed = spent[name][module._WARM + 1 :]  # one turn, whose first call is not timed
        assert timing.calls == len(timed)
        assert timing.p50_ms == pytest.approx(1e3 * np.percentile(timed, 50))
        assert timing.p95_ms == pytest.approx(1e3 * np.percentile(timed, 95))
        assert timing.images_per_second == pytest.approx(3 * len(timed) / sum(timed))


def test_the_table_has_the_figures_of_the_json(checkpoint: Path) -> None:
    result = benchmark([checkpoint], batches=(1, 2), seconds=0, device="cpu")
    text, plain = result.text(), json.loads(json.dumps(result.to_dict()))
    head, *table = text.split("\n\n")[1].split("\n")
    assert {len(line) for line in table} == {len(head)}
    cells = [re.split(r"\s{2,}", line.strip()) for line in table]
    assert len(cells) == len(plain["rows"]) == 6
    for row, row_cells in zip(plain["rows"], cells, strict=True):
        words = [str(row[key]) for key in ("file", "form", "runtime", "precision", "device", "threads", "batch")]
        for timing in (row["model"], row["predict"]):
            words += [f"{timing['p50_ms']:.1f}", f"{timing['p95_ms']:.1f}", f"{timing['images_per_second']:.2f}"]
            words.append(str(timing["calls"]))
        assert row_cells == words
    assert plain["machine"]["cpu"] in text
    assert plain["images"]["sizes"][0] in text


def test_the_command_prints_a_table_or_json_and_writes_the_same_figures(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "speed.json"
    command = ["benchmark", str(checkpoint), "--batch", "2", "--precision", "bf16", "--seconds", "0"]
    main([*command, "--json", "--output", str(output), "--device", "cpu"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == files.read_json(output)
    assert [(row["batch"], row["form"], row["precision"]) for row in printed["rows"]] == [(2, "optimised", "bf16")]
    main([*command, "--device", "cpu"])
    assert "images/s" in capsys.readouterr().out


def test_images_come_from_a_folder_or_are_noise(tmp_path: Path) -> None:
    pictures, description = load_pictures(None, 3)
    assert {picture.size for picture in pictures} == {(640, 480)}
    assert noise(0).tobytes() == pictures[0].tobytes() != pictures[1].tobytes()
    for number, name in enumerate(("b/two.png", "a.jpg")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (10 + number, 20)).save(tmp_path / name)
    pictures, description = load_pictures(tmp_path, 1)
    assert sorted(picture.size for picture in pictures) == [(10, 20), (11, 20)]
    assert (description["count"], sorted(description["sizes"])) == (2, ["10 x 20", "11 x 20"])


def test_a_folder_without_images_and_a_file_that_is_not_a_model_are_errors(checkpoint: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="not a folder with images"):
            benchmark([checkpoint], images=folder)
    with pytest.raises(UserError, match=r"none\.pth does not exist"):
        benchmark([tmp_path / "none.pth"])
