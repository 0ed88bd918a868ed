"""An exported file in an audit: its bytes confirm it, its own description does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import shape_inference
from onnxscript import optimizer

from rfdetr_core.cli import main
from tests.audit.exported import edit_onnx, export, flip_bit, write_onnx
from tests.audit.repository import Images, Repository, audit, audit_json

IMAGES: Images = {
    "train": {"train/a.jpg": "a", "train/b.jpg": "b"},
    "valid": {"valid/c.jpg": "c"},
    "test": {"test/d.jpg": "d"},
}
FILES = ("model.onnx", "model.xml")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One result on the branch main, and its exported files."""
    repository = Repository(tmp_path / "clone")
    repository.train(1, IMAGES)
    export(repository, *FILES)
    repository.commit("Train")
    return repository


def moved(repository: Repository, name: str, to: Path) -> Path:
    """A copy of an exported file under another name, elsewhere."""
    source = repository.folder / "output" / "export" / name
    if source.suffix == ".xml":
        shutil.copy(source.with_suffix(".bin"), to / "mine.bin")
    return Path(shutil.copy(source, to / f"mine{source.suffix}"))


@pytest.mark.parametrize("name", FILES)
def test_a_renamed_copy_is_found_by_its_bytes_in_a_clone_without_any_file(
    repository: Repository, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.git("clone", "-q", ".", str(tmp_path / "other"))
    clone = Repository.__new__(Repository)
    clone.folder = tmp_path / "other"
    answer = audit_json(capsys, clone, moved(repository, name, tmp_path))
    assert (answer["found_by"], answer["path"]) == ("bytes", f"output/export/{name}")
    assert [link["stage"] for link in answer["chain"]] == ["export", "strip", "train", "validate"]
    assert answer["chain"][0]["commit"]["id"] == repository.git("rev-parse", "HEAD")
    assert answer["record"] == f"records/{answer['exported']['record']}"
    assert answer["notes"] == []
    assert "tensors  " in audit(capsys, clone, tmp_path / f"mine{Path(name).suffix}")


def test_where_export_json_is_not_committed_the_cache_knows_the_file(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(repository, *FILES, cached=True)
    repository.git("rm", "-q", "--cached", "output/export.json")
    (repository.folder / "output" / "export.json").unlink()
    repository.git("commit", "-q", "--amend", "-m", "Train")
    answer = audit_json(capsys, repository, moved(repository, "model.onnx", tmp_path))
    assert (answer["found_by"], answer["chain"][0]["stage"]) == ("bytes", "export")


def test_an_export_that_git_does_not_know_is_traced_and_not_confirmed(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx(repository.folder / "output/checkpoint_best_total.pth", tmp_path / "own.onnx", parity={"x": 0})
    answer = audit_json(capsys, repository, path, status=1)
    assert (answer["found_by"], answer["path"]) == ("description", None)
    assert [link["stage"] for link in answer["chain"]] == ["strip", "train", "validate"]
    assert "only the file itself says" in answer["notes"][0]
    # An initializer that was changed together with its digest looks the same. So a description confirms nothing.
    flip_bit(path, described=True)
    assert audit_json(capsys, repository, path, status=1)["notes"] == answer["notes"]


def test_a_changed_constant_is_named(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = moved(repository, "model.onnx", tmp_path)
    flip_bit(path)
    assert "were changed: class_head.weight" in audit_json(capsys, repository, path, status=1)["notes"][0]
    path = moved(repository, "model.xml", tmp_path)
    data = bytearray(path.with_suffix(".bin").read_bytes())
    data[-1] ^= 1
    path.with_suffix(".bin").write_bytes(data)
    answer = audit_json(capsys, repository, path, status=1)  # though the bytes of the .xml file are known
    assert "were changed: " in answer["notes"][0]


def swapped(content: dict[str, Any]) -> None:
    content["class_names"].reverse()


def other_weights(content: dict[str, Any]) -> None:
    content["tensors"] = "0" * 64


def other_rate(content: dict[str, Any]) -> None:
    content["checkpoint"]["lineage"]["training"]["params"]["train"]["lr"] = 5


def other_classes(content: dict[str, Any]) -> None:
    content["class_names"] = content["checkpoint"]["args"]["class_names"] = ["x", "y", "z"]


def other_variant(content: dict[str, Any]) -> None:
    content["variant"] = "RFDETRLarge"


def other_size(content: dict[str, Any]) -> None:
    content["resolution"] = 64


def other_record(content: dict[str, Any]) -> None:
    content["record"] = "1.json"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (swapped, "its description says class names ["),
        (other_weights, "the weights in the file differ from those that its lineage names"),
        (other_rate, "the file and its run record have different values of training.params.train.lr"),
        (other_classes, "classes or configuration in the file differ from those that its lineage names"),
        (other_variant, "its description says variant RFDETRLarge, but its source says TinyDetector"),
        (other_size, "its description says resolution 64, but its source says 32"),
        (other_record, "its description says record 1.json, but its source says"),
    ],
)
def test_a_changed_description_is_contradicted(
    repository: Repository,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    note: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = moved(repository, "model.onnx", tmp_path)
    edit_onnx(path, lambda _, content: change(content))
    assert note in audit_json(capsys, repository, path, status=1)["notes"][0]


def by_onnxruntime(path: Path, to: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(to)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def by_shapes(path: Path, to: Path) -> None:
    onnx.save(shape_inference.infer_shapes(onnx.load(path)), to)


def by_onnxscript(path: Path, to: Path) -> None:
    onnx.save(optimizer.optimize(onnx.load(path)), to)


@pytest.mark.parametrize("tool", [by_onnxruntime, by_shapes, by_onnxscript])
def test_an_optimised_file_is_traced_as_derived(
    repository: Repository, tmp_path: Path, tool: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "optimised.onnx"
    tool(moved(repository, "model.onnx", tmp_path), path)
    answer = audit_json(capsys, repository, path, status=1)
    assert answer["found_by"] == "derived"
    assert [link["stage"] for link in answer["chain"]] == ["strip", "train", "validate"]
    assert (
        answer["lineage"] == audit_json(capsys, repository, repository.folder / "output/export/model.onnx")["lineage"]
    )
    assert answer["notes"][0].startswith("derived: an optimiser, a quantiser or another tool changed its graph")
    text = audit(capsys, repository, path, status=1)
    assert "found by the description that it kept" in text


def test_a_file_whose_description_was_removed_says_so_and_is_derived_when_it_was_copied_back(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = moved(repository, "model.onnx", tmp_path)
    exported = onnx.load(path)
    optimised = shape_inference.infer_shapes(exported)
    del optimised.metadata_props[:]
    onnx.save(optimised, path)
    with pytest.raises(SystemExit, match="has no description of its model"):
        main(["audit", str(path), "--repo", str(repository.folder)])
    optimised.metadata_props.extend(exported.metadata_props)
    onnx.save(optimised, path)
    assert audit_json(capsys, repository, path, status=1)["found_by"] == "derived"


@pytest.mark.parametrize("length", [0, 10, 1000, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_one_message(repository: Repository, tmp_path: Path, name: str, length: int) -> None:
    path = moved(repository, name, tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SystemExit, match=r"Export (it|the file) again"):
        main(["audit", str(path), "--repo", str(repository.folder)])


def test_missing_or_truncated_constants_are_one_message(repository: Repository, tmp_path: Path) -> None:
    path = moved(repository, "model.xml", tmp_path)
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    for message in ("is cut", "cannot be read"):
        with pytest.raises(SystemExit, match=rf"mine\.bin {message}"):
            main(["audit", str(path), "--repo", str(repository.folder)])
        weights.unlink(missing_ok=True)


def test_images_and_differences_are_those_of_the_source(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, source = moved(repository, "model.onnx", tmp_path), repository.folder / "output/checkpoint_best_total.pth"
    assert audit(capsys, repository, path, "--images") == audit(capsys, repository, source, "--images")
    first = Path(shutil.copy(source, tmp_path / "first.pth"))
    repository.train(2, {**IMAGES, "train": {"train/a.jpg": "a"}})
    repository.commit("Retrain")
    second = moved(repository, "model.xml", tmp_path)
    difference = audit(capsys, repository, "--diff", first, second)
    assert difference == "no difference in data, params, code, packages, weights or scores\n"
    assert "images removed: 1" in audit(capsys, repository, "--diff", path, source)
