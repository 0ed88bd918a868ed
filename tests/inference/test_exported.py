from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import read_exported
from rfdetr_core.inference import sessions
from rfdetr_core.inference.exported import ExportedPredictor, load_predictor
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.inference.sessions import Session, open_session
from tests.evaluation.scene import NAMES, Scene, write_tiny_checkpoint
from tests.inference.exporting import bare, redescribed, write_onnx, write_openvino

PHOTOGRAPHS = sorted((ROOT / "data" / "sample" / "test").glob("*.jpg"))[:3]
SLOW = pytest.param("complete.onnx", marks=pytest.mark.slow)  # seconds to export
SEED = 1  # all three classes are among the best
KINDS = ("raw.onnx", SLOW, "raw.xml")


@dataclass(frozen=True)
class Exports:
    """The exported files of a checkpoint, a segmenter with three classes. A file is made at its first use."""

    folder: Path
    checkpoint: Predictor

    def path(self, kind: str) -> Path:
        path = self.folder / kind
        if not path.exists() and kind == "raw.xml":
            write_openvino(self.path("raw.onnx"), path)
        elif not path.exists():
            write_onnx(self.folder / "model.pth", path, postprocess=kind == "complete.onnx")
        return path

    def open(self, kind: str) -> ExportedPredictor:
        return ExportedPredictor.from_file(self.path(kind), device="cpu")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    folder = tmp_path_factory.mktemp("exported")
    path = write_tiny_checkpoint(folder / "model.pth", segmentation=True, seed=SEED)
    return Exports(folder, Predictor.from_checkpoint(path, device="cpu"))


def require_alike(actual: Any, expected: Any, pixels: float = 0.01) -> None:
    assert actual.class_id.tolist() == expected.class_id.tolist()
    assert actual.data["class_name"].tolist() == expected.data["class_name"].tolist()
    assert np.abs(actual.confidence - expected.confidence).max(initial=0) <= 1e-5
    assert np.abs(actual.xyxy - expected.xyxy).max(initial=0) <= pixels
    assert actual.mask.shape == expected.mask.shape
    assert np.mean(actual.mask != expected.mask) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_finds_in_photographs_what_its_checkpoint_finds(exports: Exports, kind: str) -> None:
    predictor, expected = exports.open(kind), exports.checkpoint.predict(PHOTOGRAPHS, 0.3)
    results = predictor.predict(PHOTOGRAPHS, 0.3)
    assert len(results) == len(expected) == 3
    assert all(len(detections) for detections in expected)
    for detections, other in zip(results, expected, strict=True):
        require_alike(detections, other)
    alone = predictor.predict(Image.open(PHOTOGRAPHS[1]), 0.3)
    require_alike(alone, expected[1])


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_three_classes_has_its_own_name(exports: Exports, kind: str) -> None:
    """Compared with the checkpoint's scores, column by column."""
    picture = Image.open(PHOTOGRAPHS[0]).convert("RGB")
    results = exports.open(kind).predict(picture, 0.0)
    inputs = exports.checkpoint._prepare(picture, (exports.checkpoint.architecture.resolution,) * 2)
    best = exports.checkpoint._run(inputs[None]).logits.sigmoid()[0]  # (Q, K + 1)
    assert {*results.class_id} >= {0, 1, 2}
    for label, name in enumerate(NAMES):
        scores = results.confidence[results.data["class_name"] == name]
        expected = best[:, label].sort(descending=True).values[: len(scores)]
        assert len(scores)
        assert np.allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [2, 5])
def test_a_list_gives_the_same_detections_as_its_images_alone_in_their_order(
    exports: Exports, scene: Scene, kind: str, batch_size: int
) -> None:
    """Two of the five images have equal sizes. Only these can go through a complete file together."""
    paths: list[Any] = [scene.image(image) for image in scene.annotations()["images"]]
    predictor = exports.open(kind)
    batched = predictor.predict(paths, 0.3, batch_size=batch_size)
    for detections, path in zip(batched, paths, strict=True):
        require_alike(detections, predictor.predict(path, 0.3))
    assert predictor.predict([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_keeps_the_source_image_and_refuses_another_shape(exports: Exports, kind: str) -> None:
    predictor, side = exports.open(kind), exports.checkpoint.architecture.resolution
    actual, expected = (model.predict(PHOTOGRAPHS[0], 0.3, (side, side)) for model in (predictor, exports.checkpoint))
    require_alike(actual, expected)
    assert np.array_equal(actual.metadata["source_image"], expected.metadata["source_image"])
    assert np.array_equal(actual.data["source_shape"], expected.data["source_shape"])
    with pytest.raises(
        UserError,
        match=rf"shape is .*, but {side} x {side} pixels are needed: .*{kind} only takes .*\. Leave shape out",
    ):
        predictor.predict(PHOTOGRAPHS[0], 0.3, (side, 2 * side))


class Watched(Session):
    """A session that changes its input, and keeps it for the test."""

    def __init__(self, inner: Session, change: Callable[[Any], Any] = lambda images: images) -> None:
        self.__dict__ |= inner.__dict__
        self.inner, self.change, self.seen = inner, change, list[Any]()

    def _run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ((name, images),) = inputs.items()
        self.seen.append(images)
        return self.inner._run({name: self.change(images)})


def watched(exports: Exports, kind: str, change: Any = None, **changes: Any) -> tuple[ExportedPredictor, Watched]:
    """A predictor of a file whose description differs."""
    made = exports.open(kind)
    session = Watched(made.session, *([change] if change else []))
    description = made.description.model_copy(update=changes)
    return ExportedPredictor(session, description, made.architecture), session


@pytest.mark.parametrize("kind", ["raw.onnx", SLOW])
def test_a_file_that_takes_a_fixed_number_of_images_is_given_that_number(
    exports: Exports, scene: Scene, kind: str
) -> None:
    paths: list[Any] = [scene.image(image) for image in scene.annotations()["images"]]
    predictor, session = watched(exports, kind, batch_size=2)
    assert predictor.batch_size == 2
    expected = exports.open(kind).predict(paths, 0.3)
    for size in (None, 1, 3, 5):
        results = predictor.predict(paths, 0.3, batch_size=size)
        for detections, other in zip(results, expected, strict=True):
            require_alike(detections, other)
    assert {len(images) for images in session.seen} == {2}


@pytest.mark.slow
def test_images_of_one_size_go_through_a_complete_file_together(exports: Exports, scene: Scene) -> None:
    paths: list[Any] = [scene.image(image) for image in scene.annotations()["images"]]
    predictor, session = watched(exports, "complete.onnx")
    predictor.predict(paths, 0.3, batch_size=5)
    assert sorted(len(images) for images in session.seen) == [1, 1, 1, 2]
    assert all(images.dtype == np.uint8 and images.shape[3] == 3 for images in session.seen)


@pytest.mark.slow
def test_a_file_for_floats_is_given_photographs_from_0_to_1(exports: Exports) -> None:
    def to_uint8(images: Any) -> Any:
        return (images * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)

    predictor, session = watched(exports, "complete.onnx", to_uint8, images="float")
    require_alike(predictor.predict(PHOTOGRAPHS[0], 0.3), exports.open("complete.onnx").predict(PHOTOGRAPHS[0], 0.3))
    (images,) = session.seen
    assert (images.dtype, images.shape[:2]) == (np.float32, (1, 3))
    assert 0 <= images.min() < 0.5 < images.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_cut_as_those_of_a_checkpoint(exports: Exports, kind: str) -> None:
    predictor, path = exports.open(kind), PHOTOGRAPHS[0]
    everything = predictor.predict(path, 0.0)
    assert len(everything) == exports.checkpoint.architecture.queries
    middle = float(everything.confidence[4])
    assert len(predictor.predict(path, middle)) == sum(everything.confidence > middle)
    by_class = {"class0": 1.0, "class1": 0.0, "class2": 1.0}
    assert {*predictor.predict(path, by_class).data["class_name"]} == {"class1"}
    with pytest.raises(UserError, match="threshold is"):
        predictor.predict(path, 1.5)


def test_a_file_has_the_fields_of_its_checkpoint(exports: Exports, tmp_path: Path) -> None:
    path = exports.path("raw.onnx")
    predictor = load_predictor(path, device="cpu")
    assert isinstance(predictor, ExportedPredictor)
    assert isinstance(load_predictor(exports.folder / "model.pth", device="cpu"), Predictor)
    assert predictor.class_names == exports.checkpoint.class_names == NAMES
    assert predictor.tensors == exports.checkpoint.tensors
    assert predictor.source == path
    assert predictor.threshold == exports.checkpoint.threshold
    fields = read_exported(path).description.checkpoint
    other = redescribed(path, tmp_path / "other.onnx", checkpoint=fields | {"threshold": 0.37})
    assert load_predictor(other, device="cpu").threshold == 0.37
    # feedforward_width comes from the variant of the file, and the tiny model has no variant.
    expected = exports.checkpoint.architecture
    assert replace(predictor.architecture, feedforward_width=expected.feedforward_width) == expected


def test_results_do_not_depend_on_threads_or_on_the_batch(exports: Exports) -> None:
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    for kind in ("raw.onnx", "raw.xml"):
        expected = open_session(exports.path(kind), threads=1).run({"input": images})
        assert [*expected] == ["dets", "labels", "masks"]
        two = open_session(exports.path(kind), threads=2)
        assert two.threads == 2
        for name, values in two.run({"input": images}).items():
            assert np.abs(values - expected[name]).max() <= 1e-5
        for name, values in two.run({"input": images[1:2]}).items():
            assert np.abs(values[0] - expected[name][1]).max() <= 1e-5


def test_the_arrays_of_a_session_are_copies(exports: Exports) -> None:
    for kind in ("raw.onnx", "raw.xml"):
        session = open_session(exports.path(kind))
        first = session.run({"input": np.zeros((1, 3, 32, 32), np.float32)})
        copies = {name: values.copy() for name, values in first.items()}
        session.run({"input": np.ones((1, 3, 32, 32), np.float32)})
        assert all(np.array_equal(first[name], values) for name, values in copies.items())


def test_a_session_says_its_precision(exports: Exports) -> None:
    onnx, openvino = (open_session(exports.path(kind)) for kind in ("raw.onnx", "raw.xml"))
    assert onnx.runtime.startswith("onnxruntime 1.")
    assert openvino.runtime.startswith("openvino 20")
    assert (onnx.precision, onnx.device) == (openvino.precision, openvino.device) == ("f32", "cpu")
    compiled: Any = vars(openvino)["_compiled"]
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


TWO_SESSIONS = """
import signal, sys
from pathlib import Path
from rfdetr_core.inference.sessions import open_session

signal.signal(signal.SIGINT, lambda *_: print("handled"))
first, second = open_session(Path(sys.argv[1])), open_session(Path(sys.argv[1]))
del first
del second
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize("kind", ["raw.onnx", "raw.xml"])
def test_after_two_sessions_a_signal_is_handled(exports: Exports, kind: str) -> None:
    command = [sys.executable, "-c", TWO_SESSIONS, str(exports.path(kind))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def test_openvino_in_another_precision_is_refused(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    class Narrow:
        def get_property(self, name: str) -> Any:
            assert name == "INFERENCE_PRECISION_HINT"
            return openvino.Type.bf16

    monkeypatch.setattr(openvino.Core, "compile_model", lambda *_: Narrow())
    with pytest.raises(UserError, match="in bf16, not in f32"):
        exports.open("raw.xml")


def test_a_file_with_another_precision_than_its_description_is_refused(exports: Exports, tmp_path: Path) -> None:
    mislabelled = redescribed(exports.path("raw.onnx"), tmp_path / "wrong.onnx", precision="int8")
    with pytest.raises(UserError, match=r"the precision int8, but it computes in f32.*[Ee]xport it again"):
        load_predictor(mislabelled, device="cpu")
    with pytest.raises(UserError, match=r"does not match its description\. Its inputs and outputs are"):
        load_predictor(redescribed(exports.path("raw.onnx"), mislabelled, postprocess=True), device="cpu")


@pytest.mark.parametrize(
    ("kind", "package", "install"),
    [
        ("raw.onnx", "onnxruntime", r"pip install -e '\.\[onnx\]'"),
        ("raw.onnx", "onnx", r"pip install -e '\.\[onnx\]'"),
        ("raw.xml", "openvino", r"pip install -e '\.\[openvino\]'"),
    ],
)
def test_a_missing_runtime_is_one_message_with_the_command_that_installs_it(
    exports: Exports, kind: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=install) as raised:
        exports.open(kind)
    assert package in str(raised.value)
    assert "\n" not in str(raised.value)


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("raw.onnx", lambda path: _cut(path, 5000), "damaged"),
        ("raw.onnx", lambda path: path.write_bytes(b""), "no graph"),
        ("raw.onnx", lambda path: path.write_text("an error page"), "damaged"),
        ("raw.onnx", lambda path: path.unlink(), "No such file"),
        ("raw.xml", lambda path: _cut(path, 5000), "not an OpenVINO model"),
        ("raw.xml", lambda path: _cut(path.with_suffix(".bin"), 5000), "cannot be loaded by openvino"),
        ("raw.xml", lambda path: path.with_suffix(".bin").unlink(), r"raw\.bin cannot be read"),
    ],
)
def test_a_damaged_file_is_one_message(
    exports: Exports, kind: str, damage: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    exports.path("raw.xml")
    for part in (kind, "raw.bin"):
        (tmp_path / part).write_bytes((exports.path(part)).read_bytes())
    damage(tmp_path / kind)
    with pytest.raises(UserError, match=message) as raised:
        load_predictor(tmp_path / kind, device="cpu")
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_another_tool_is_one_message(exports: Exports, tmp_path: Path) -> None:
    model = bare(read_exported(exports.path("raw.onnx")).content)
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="has no description"):
        load_predictor(tmp_path / "bare.onnx", device="cpu")
    assert open_session(tmp_path / "bare.onnx").outputs == ("dets", "labels", "masks")
    with pytest.raises(UserError, match=r"must end in \.onnx or \.xml"):
        open_session(tmp_path / "model.pth")


def test_an_exported_file_instead_of_a_checkpoint_is_an_error(exports: Exports) -> None:
    with pytest.raises(UserError, match="is an exported file, not a checkpoint"):
        Predictor.from_checkpoint(exports.path("raw.onnx"), device="cpu")


@pytest.mark.parametrize(("kind", "device"), [("raw.onnx", "cuda"), ("raw.onnx", "mps"), ("raw.xml", "cuda")])
def test_a_device_that_the_runtime_lacks_is_refused(exports: Exports, kind: str, device: str) -> None:
    with pytest.raises(UserError, match=f"device '{device}' is not available.*cpu"):
        ExportedPredictor.from_file(exports.path(kind), device=device)


def test_devices_of_a_package_with_cuda() -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    devices = [sessions._onnx_device(device, providers) for device in ("auto", "cpu", "cuda", "cuda:1")]
    assert devices == ["cuda", "cpu", "cuda", "cuda:1"]
    assert sessions._onnx_device("auto", providers[1:]) == "cpu"
    for bad_name in ("cuda:", "cuda:x", "mps", ""):
        with pytest.raises(UserError, match="not available"):
            sessions._onnx_device(bad_name, providers)


def test_an_input_that_the_file_does_not_take_is_one_message(exports: Exports) -> None:
    for kind in ("raw.onnx", "raw.xml"):
        with pytest.raises(UserError, match=r"raw\.\w+ cannot be run by o") as raised:
            open_session(exports.path(kind)).run({"input": np.zeros((1, 2, 32, 32), np.float32)})
        assert "\n" not in str(raised.value)


def test_numbers_that_are_not_finite_are_refused(exports: Exports) -> None:
    predictor, _ = watched(exports, "raw.onnx", lambda images: images * np.float32(np.nan))
    with pytest.raises(UserError, match="numbers that are not finite"):
        list(predictor.detect([Image.open(PHOTOGRAPHS[0]).convert("RGB")]))
