"""The stage export: its files, the content of export.json, and the checks that files must pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_manifest
from rfdetr_core.checkpoint.exported import read_exported
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import evaluate
from rfdetr_core.export import run as stage
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.export.onnx_file import OnnxDraft, encoder_products
from rfdetr_core.export.run import export_draft, export_files, export_stage
from rfdetr_core.inference.exported import ExportedPredictor
from tests.data.canonical import several, write_split
from tests.evaluation.scene import Scene, make_scene
from tests.export.small import photograph

pytestmark = pytest.mark.slow
Project = tuple[Path, Scene]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project folder after the stage evaluate, with a segmentation model."""
    folder = tmp_path_factory.mktemp("project")
    scene = make_scene(folder, segmentation=True)
    write_split(folder, several(5), "train")
    (folder / "output").mkdir()
    shutil.move(scene.checkpoint, folder / "output" / "checkpoint_best_total.pth")
    scene = Scene(folder / "output" / "checkpoint_best_total.pth", scene.where)
    evaluate(scene.predictor(), scene.where, EvaluateConfig(), folder / "reports" / "evaluate")
    return folder, scene


@pytest.fixture(scope="module")
def cached() -> Callable[..., Any]:
    """`export_draft`, run once per set of arguments, since it takes seconds."""
    drafts: dict[Any, Any] = {}

    def draft(source: Any, config: ExportConfig, kind: str) -> Any:
        key = source.sha256, config.postprocess, config.images, config.batch_size, kind
        if key not in drafts:
            drafts[key] = export_draft(source, config, kind)  # type: ignore[arg-type]
        return drafts[key]

    return draft


@pytest.fixture
def project(made: Project, cached: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the project. It is the working directory."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "export_draft", cached)
    where = made[1].where
    paths = [tmp_path / path.relative_to(made[0]) for path in (where.dataset, where.annotations, where.manifests)]
    return tmp_path, Scene(tmp_path / "output" / "checkpoint_best_total.pth", type(where)(*paths))


def export(project: Project, *formats: Any, **settings: Any) -> dict[str, Any]:
    export_stage(project[1].where, ExportConfig(formats=formats, **settings), Path("output"))
    content: dict[str, Any] = files.read_json(Path("output/export.json"))
    return content


def listed(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_stage_writes_its_files_and_their_measurements(project: Project) -> None:
    folder, scene = project
    before = {*listed(folder)}
    exported = export(project, "onnx", "openvino", "onnx-int8", postprocess=True, max_drop=100.0)
    names = ["model-int8.onnx", "model.bin", "model.onnx", "model.xml"]
    assert {*listed(folder)} - before == {"output/export.json", *(f"output/export/{name}" for name in names)}
    assert exported["source"]["sha256"] == files.sha256_file(scene.checkpoint)
    assert sorted(exported["files"]) == names
    metrics = files.read_json(Path("reports/evaluate/metrics.json"))
    for name, facts in exported["files"].items():
        path = Path("output/export") / name
        assert facts["sha256"] == files.sha256_file(path)
        assert facts["size"] == path.stat().st_size
        if name == "model.bin":
            assert facts["of"] == "model.xml"
            continue
        described = read_exported(path).description
        assert described.parity == facts["parity"]
        assert described.source == exported["source"]["sha256"]
        ap = facts["parity"]["ap"]
        assert ap["proven"]
        assert (ap["split"], ap["images"], ap["max_drop"]) == ("test", 5, 100.0)
        assert ap["boxes"]["source"] == metrics["map"] > 0.1
        assert ap["masks"]["source"] == metrics["masks"]["map"] > 0.1
        predictor = ExportedPredictor.from_file(path, device="cpu")
        assert evaluate(predictor, scene.where, EvaluateConfig(), folder / "again")["map"] == ap["boxes"]["file"]
        queries = facts["parity"].get("queries")
        if "int8" in name:
            assert queries is None
            assert facts["parity"]["batches"] < 1e-4
            rows = {row.path: row.sha256 for row in read_manifest(scene.where.split("train")[1])}
            assert facts["calibration"]["images"] == rows
        else:
            assert max(queries["boxes"], queries["scores"], queries["masks"]) < 1e-4
            assert queries["batches"] == [1, 3]
            assert ap["boxes"]["file"] == metrics["map"]


def test_int8_quantises_only_the_encoders_layers_and_is_reproducible(project: Project) -> None:
    config = ExportConfig(formats=("onnx-int8",), max_drop=100.0)
    files_of_runs = []
    for number in range(2):
        export_stage(project[1].where, config, Path("output"))
        files_of_runs.append(Path("output/export/model-int8.onnx").read_bytes())
        if number == 0:
            export(project, "onnx", postprocess=True)
    assert files_of_runs[0] == files_of_runs[1]
    model = onnx.load_from_string(files_of_runs[0])
    integer_weights = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2
    }
    architecture = project[1].predictor().architecture
    # Four products per block: two of the attention, where queries, keys and values are one, and two of the MLP.
    assert len(integer_weights) == 4 * architecture.encoder_blocks
    before = stage.export_draft(stage.Source.read(project[1].checkpoint), config, "onnx").model
    assert len({*encoder_products(before)}) == len(integer_weights)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 2 * len(integer_weights)  # in and out


def lower(project: Project, points: float) -> None:
    """Make the recorded scores of the checkpoint better by some points."""
    path = Path("reports/evaluate/metrics.json")
    path.write_text(path.read_text())  # a file of its own, not a link
    metrics = files.read_json(path)
    metrics["map"] += points / 100
    files.write_json(path, metrics)


def check_nothing_changed(project: Project, message: str, *formats: Any, **settings: Any) -> None:
    """Assert that a refused export changes nothing: the files of an earlier export stay."""
    export(project, "onnx", max_drop=100.0)
    before = listed(project[0])
    with pytest.raises(UserError, match=message):
        export(project, *formats, **settings)
    assert listed(project[0]) == before
    assert {path.name for path in Path("output").iterdir()} == {"checkpoint_best_total.pth", "export", "export.json"}


@pytest.mark.parametrize(
    ("kind", "name", "limit"), [("onnx", "model.onnx", 0.1), ("onnx-int8", "model-int8.onnx", 0.5)]
)
def test_a_file_that_loses_more_ap_than_by_default_is_refused(
    project: Project, kind: str, name: str, limit: float
) -> None:
    lower(project, points=20)
    message = (
        rf"^{name} is not exported, .*: on test it loses \d+\.\d\d points of AP "
        r"\(boxes: checkpoint 0\.\d{4}, file 0\.\d{4}\), "
    )
    check_nothing_changed(project, f"{message}more than export.max_drop: {limit:g}. Allow more", kind)


def test_max_drop_limits_what_a_file_may_lose(project: Project) -> None:
    lower(project, points=2)
    ap = export(project, "onnx", max_drop=2.001)["files"]["model.onnx"]["parity"]["ap"]
    assert ap["boxes"]["source"] - ap["boxes"]["file"] == pytest.approx(0.02)
    check_nothing_changed(project, "loses 2.00 points of AP", "onnx", max_drop=1.999)


def test_int8_with_damaged_ranges_is_refused_at_0_and_kept_at_100(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "as_input", dark(stage.as_input))
    check_nothing_changed(project, "model-int8.onnx is not exported, .* loses .* points of AP", "onnx-int8", max_drop=0)
    ap = export(project, "onnx-int8", max_drop=100.0)["files"]["model-int8.onnx"]["parity"]["ap"]
    assert ap["boxes"]["file"] < ap["boxes"]["source"]


def dark(as_input: Callable[..., Any]) -> Callable[..., Any]:
    """Ranges are measured on images without contrast."""
    return lambda pictures, images, resolution: 0.01 * as_input(pictures, images, resolution)


def test_a_checkpoint_without_ap_proves_nothing_and_the_file_says_so(project: Project) -> None:
    path = Path("reports/evaluate/metrics.json")
    files.write_json(path, files.read_json(path) | {"map": 0.0})
    ap = export(project, "onnx", max_drop=0)["files"]["model.onnx"]["parity"]["ap"]
    assert ap["proven"] is False
    assert ap["reason"] == "the checkpoint has an AP of 0 on this split"
    assert read_exported(Path("output/export/model.onnx")).description.parity["ap"] == ap


Change = Callable[[onnx.ModelProto], None]


def set_values(model: onnx.ModelProto, which: str | list[int], change: Callable[[Any], Any]) -> None:
    tensor = next(
        initializer
        for initializer in model.graph.initializer
        if [*initializer.dims] == which or initializer.name.endswith(str(which))
    )
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), tensor.name))


def swap(values: Any) -> Any:
    return values[[1, 0, *range(2, len(values))]]


def first(value: float) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values.flat[0] = value
        return values

    return change


def swapped(values: Any) -> Any:
    return swap(values) + np.array([0, 0.01, 0, 0])  # the boxes of the tiny model are too similar


def one_query(values: Any) -> Any:
    return values + 0.05 * np.eye(*values.shape)


QUERIES = [12, 16]  # the shape of their features, which have no name of their own
MIDDLE = "box_head.layers.1.bias"
BROKEN: dict[str, tuple[bool, Change]] = {  # name -> whether the file is complete, and how it is broken
    "mean": (True, lambda model: set_values(model, "mean", lambda values: values + 0.004)),
    "classes": (False, lambda model: set_values(model, "network.class_head.bias", swapped)),
    "query": (False, lambda model: set_values(model, QUERIES, one_query)),
    "nan": (False, lambda model: set_values(model, MIDDLE, first(float("nan")))),
    "boxes": (False, lambda model: set_values(model, MIDDLE, lambda values: values + 0.01)),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_file_is_refused_by_its_name(
    defect: str, project: Project, cached: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, change = BROKEN[defect]
    export(project, "onnx", max_drop=100.0)

    def broken(source: Any, config: ExportConfig, kind: Any) -> Any:
        model = onnx.ModelProto()
        model.CopyFrom(cached(source, config, kind).model)
        change(model)
        return OnnxDraft("model.onnx", model)

    before = listed(project[0])
    monkeypatch.setattr(stage, "export_draft", broken)
    message = r"^model\.onnx is not exported, since it differs from its checkpoint: .*(counterpart|differ by)"
    with pytest.raises(UserError, match=message):
        export(project, "onnx", postprocess=complete, max_drop=100.0)
    assert listed(project[0]) == before


def test_a_refused_file_leaves_nothing_in_the_users_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stage.Source.read(project[1].checkpoint)

    def refuse(*_: Any) -> None:
        raise UserError("no")

    monkeypatch.setattr(stage.parity, "compare", refuse)
    Path("mine").mkdir()
    with pytest.raises(UserError, match=r"^model\.onnx is not exported"):
        export_files(source, ExportConfig(), Path("mine"), pictures=[photograph(64, 48)])
    assert [*Path("mine").iterdir()] == []


@pytest.mark.parametrize("images", ["uint8", "float"])
def test_a_file_for_a_fixed_number_of_images_is_compared_and_scored(project: Project, images: str) -> None:
    entry = export(project, "onnx", postprocess=True, images=images, batch_size=2)["files"]["model.onnx"]
    assert entry["batch_size"] == 2
    assert entry["parity"]["queries"]["batches"] == [2]
    assert entry["parity"]["ap"]["proven"]
