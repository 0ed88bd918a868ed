"""Exported files in `verify`: changes are reported, and so is what cannot be compared."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnx
import pytest
from onnx import shape_inference

from rfdetr_core.base import files
from rfdetr_core.checkpoint.exported import Exported, onnx_graph, read_exported
from rfdetr_core.cli import main
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.export.onnx_file import versions
from rfdetr_core.export.run import Source, export_draft
from rfdetr_core.verification import exported as checks
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report
from tests.audit.exported import description_of, edit_onnx, export, flip_bit, write_onnx, write_openvino
from tests.audit.repository import Repository
from tests.verification.conftest import IMAGES
from tests.verification.mismatches import verify

SOURCE = "output/checkpoint_best_total.pth"
BIAS = "class_head.bias"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A result with exported files, whose exporter is that of the tests: the real one takes 10 s."""
    repository = Repository(tmp_path / "clone")
    repository.train(1, IMAGES)
    export(repository, "model.onnx", "model.xml")
    repository.commit("Train")

    def export_again(like: Exported, source: Path) -> tuple[dict[str, str], str]:
        write = write_onnx if like.format == "onnx" else write_openvino
        exported = read_exported(write(source, tmp_path / f"again{like.path.suffix}"))
        return exported.constants, exported.graph

    monkeypatch.setattr(checks, "_export_again", export_again)
    return repository


@pytest.fixture
def exported(repository: Repository, tmp_path: Path) -> Path:
    """The .onnx file, away from the project and under another name."""
    return Path(shutil.copy(repository.folder / "output/export/model.onnx", tmp_path / "mine.onnx"))


def text_of(capsys: pytest.CaptureFixture[str], repository: Repository, path: Path) -> str:
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main(["verify", str(path), "--repo", str(repository.folder)])
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "images"), [("onnx", "normalised"), ("onnx", "uint8"), ("openvino", "float")])
def test_a_real_file_is_what_exporting_its_source_gives_bit_by_bit(
    tmp_path: Path,
    kind: Literal["onnx", "openvino"],
    images: Literal["normalised", "uint8", "float"],
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = Repository(tmp_path / "clone")
    source = repository.train(1, IMAGES)
    repository.commit("Train")
    complete = images != "normalised"
    config = ExportConfig(postprocess=complete, images=images if complete else "uint8")
    draft = export_draft(Source.read(source), config, kind)
    described = description_of(source, {}, "") | draft.digests()
    described |= {"packages": versions(draft.packages), "images": images, "postprocess": complete}
    path, *_ = draft.write(tmp_path, described)
    if kind == "onnx":
        name = next(name for name in described["constants"] if name.endswith(".bias"))
        flip_bit(path, name, described=True)
        source_of_truth = "exported again from its source"
    else:
        weights = path.with_suffix(".bin")
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        name, source_of_truth = "", "its description, exported again from its source"
    text = text_of(capsys, repository, path)
    assert text.startswith(f"constant {name}")
    assert f"({source_of_truth})" in text
    assert " 1 mismatch, " in text


def test_an_untouched_file_holds_and_all_of_it_is_compared(
    repository: Repository, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text_of(capsys, repository, exported).endswith(" 0 mismatches, 0 not checked\n")


@pytest.mark.parametrize("described", [False, True])
def test_a_changed_bit_is_named_also_where_its_digest_was_changed_with_it(
    repository: Repository, exported: Path, described: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(exported, BIAS, described=described)
    assert verify(capsys, repository, exported) == [f"constant {BIAS} of {exported}"]
    source = "exported again from its source" if described else "its description, exported again from its source"
    assert f"({source})" in text_of(capsys, repository, exported)


def test_without_its_source_or_its_packages_a_file_is_not_compared_with_it(
    repository: Repository, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_onnx(exported, lambda _, content: content["packages"].update(onnx="0.1", openvino="1"))
    assert verify(capsys, repository, exported) == []
    assert f"other package versions are installed: onnx {onnx.__version__}, exported with 0.1" in text_of(
        capsys, repository, exported
    )
    (repository.folder / SOURCE).unlink()
    text = text_of(capsys, repository, exported)
    assert "it was exported from is neither output/checkpoint_best_total.pth nor in DVC's cache" in text
    assert f"not checked: bytes of {exported} (no output/export.json in the history has their digest)" in text


def test_the_source_is_found_in_the_cache_when_another_model_was_trained(
    repository: Repository, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (repository.folder / SOURCE).read_bytes()
    md5 = files.md5_bytes(content)
    repository.train(2, IMAGES)
    flip_bit(exported, BIAS, described=True)
    assert verify(capsys, repository, exported) == []
    files.write_bytes(repository.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:], content)
    assert verify(capsys, repository, exported) == [f"constant {BIAS} of {exported}"]


def test_another_graph_with_a_description_of_it_is_not_what_exporting_gives(
    repository: Repository, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(model: onnx.ModelProto, content: dict[str, Any]) -> None:
        model.graph.node[0].name = "other"
        content["graph"] = onnx_graph(model)

    edit_onnx(exported, rename)
    assert verify(capsys, repository, exported) == [f"graph of {exported}"]


def test_a_file_that_git_knows_may_be_of_other_code(
    repository: Repository, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def otherwise(_: Exported, source: Path) -> tuple[dict[str, str], str]:
        return {"other": "0" * 64}, "0" * 64

    monkeypatch.setattr(checks, "_export_again", otherwise)
    assert verify(capsys, repository, exported) == []
    assert "the project's code now exports another graph" in text_of(capsys, repository, exported)


def test_a_derived_file_is_noted(repository: Repository, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(shape_inference.infer_shapes(onnx.load(exported)), exported)
    assert verify(capsys, repository, exported) == [f"graph of {exported}"]
    text = text_of(capsys, repository, exported)
    assert f"note: {exported} is derived: an optimiser, a quantiser or another tool changed its graph" in text


@pytest.mark.parametrize(
    ("key", "value", "subjects"),
    [
        ("class_names", ["class 1", "class 0", "class 2"], ["class names"]),
        ("tensors", "0" * 64, ["weights"]),
        ("variant", "RFDETRLarge", ["variant"]),
        ("mean", [0.5, 0.5, 0.5], ["mean"]),
        ("record", "1.json", ["record"]),
    ],
)
def test_a_changed_description_does_not_hold(
    repository: Repository,
    exported: Path,
    key: str,
    value: Any,
    subjects: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit_onnx(exported, lambda _, content: content.update({key: value}))
    assert {*verify(capsys, repository, exported)} == {f"{subject} of {exported}" for subject in subjects}


def test_openvino_files_are_two(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    path = repository.folder / "output/export/model.xml"
    assert verify(capsys, repository, path) == []
    data = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    (name,) = verify(capsys, repository, path)
    assert name.startswith("constant ")
    path.with_suffix(".bin").write_bytes(data[:-1])
    assert verify(capsys, repository, path) == [str(path)]
    path.with_suffix(".bin").unlink()
    assert verify(capsys, repository, path) == [str(path)]


def leave(path: Path) -> None:
    pass


def remove(path: Path) -> None:
    path.unlink()


def add_another(path: Path) -> None:
    shutil.copy(path, path.with_name("more.onnx"))


def change_a_bit(path: Path) -> None:
    flip_bit(path, BIAS)


def speak_of_other_weights(path: Path) -> None:
    content = files.read_json(path.parents[1] / "export.json")
    content["source"]["tensors"] = "0" * 64
    files.write_json(path.parents[1] / "export.json", content)


@pytest.mark.parametrize(
    ("change", "wrong", "gone"),
    [
        (leave, [], []),
        (remove, [], ["output/export/model.onnx"]),
        (add_another, ["output/export/more.onnx"], []),
        (change_a_bit, [f"{key} of output/export/model.onnx" for key in ("sha256", "md5", f"constant {BIAS}")], []),
        (speak_of_other_weights, [f"weights of output/export/model.{suffix}" for suffix in ("onnx", "xml")], []),
    ],
)
def test_the_files_of_a_project_are_compared_with_export_json(
    repository: Repository, change: Callable[[Path], None], wrong: list[str], gone: list[str]
) -> None:
    change(repository.folder / "output/export/model.onnx")
    (repository.folder / "dvc.yaml").write_text("stages: {}\n")
    report = Report()
    checks.check_exports(report, Contents(repository.folder), None, None)
    assert [subject for subject, _, _ in report.mismatches] == wrong
    assert [*report.unchecked] == gone
