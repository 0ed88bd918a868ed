"""The command `suspects`: its CSV file, its printed lines and its page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rfdetr_core.audit.seen import CHOSEN, TRAINED, Seen
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import ClassEntry, write_classes
from rfdetr_core.cli import main
from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import evaluate
from rfdetr_core.evaluation.suspects import COLUMNS, suspects
from rfdetr_core.report.suspects import examine, list_suspects
from tests.browser import running
from tests.evaluation.scene import Scene, make_scene

NOTHING = Seen({}, [])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    return {kind: make_scene(tmp_path_factory.mktemp(kind), segmentation=kind == "segm") for kind in ("bbox", "segm")}


@pytest.fixture
def project(scenes: dict[str, Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project without a test split. Commands run in it."""
    folder, scene = tmp_path / "project", scenes["bbox"]
    shutil.copytree(scene.checkpoint.parent, folder)
    dataset = scene.where.dataset.relative_to(scene.checkpoint.parent)
    (folder / "params.yaml").write_text(f"data:\n  dir: {dataset}\n")
    for path in (folder / "annotations" / "train.json", folder / "manifest" / "train.json"):
        shutil.copy(path.with_name("valid.json"), path)
    empty = {"images": [], "annotations": [], "categories": []}
    (folder / "annotations" / "test.json").write_text(json.dumps(empty))
    (folder / "manifest" / "test.json").write_text("[]\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_suspects_equal_those_of_an_evaluation_of_the_split(
    kind: str, scenes: dict[str, Scene], tmp_path: Path
) -> None:
    scene = scenes[kind]
    evaluate(scene.predictor(), scene.where, EvaluateConfig(split="valid"), tmp_path)
    masks = tmp_path / "masks.json" if kind == "segm" else None
    results = Results.read(tmp_path / "detections.json", masks)
    analysis = Analysis.from_results(scene.annotations("valid"), results, "segm" if masks else "bbox")
    examined = examine(scene.predictor(), scene.where, "valid", NOTHING)
    assert examined.analysis.kind == kind
    assert len(examined.table) > 5
    pd.testing.assert_frame_equal(examined.table.drop(columns="seen"), suspects(analysis))


def test_images_that_the_model_has_used_are_marked(scenes: dict[str, Scene]) -> None:
    scene = scenes["bbox"]
    rows = json.loads((scene.where.manifests / "test.json").read_text())
    uses = dict(zip((row["path"] for row in rows), [TRAINED, CHOSEN, *[""] * 10], strict=False))
    uses_by_sha256 = {row["sha256"]: uses[row["path"]] for row in rows if uses[row["path"]]}
    examined = examine(scene.predictor(), scene.where, "test", Seen(uses_by_sha256, []))
    assert set(examined.table.seen) == {TRAINED, CHOSEN, ""}
    assert examined.table.seen.tolist() == [uses[path] for path in examined.table.image]


def test_the_file_has_all_suspects_the_lines_the_first_and_a_note(project: Path) -> None:
    lines = list(list_suspects(Path("model.pth"), "valid", limit=3))
    table = pd.read_csv("reports/suspects/valid.csv", keep_default_na=False)
    assert list(table.columns) == [*COLUMNS[:3], "seen", *COLUMNS[3:]]
    assert len(table) > 3
    assert lines[0].endswith(f", {len(table)} suspects")
    assert lines[1].split() == ["certainty", "suspicion", "image", "annotation", "label", "detected", "score", "seen"]
    for line, row in zip(lines[2:5], table.head(3).to_dict("records"), strict=True):
        assert line.startswith(f"{row['certainty']:.2f}")
        assert all(part in line for part in (row["suspicion"], row["image"], row["label"] or "-"))
    (note,) = (line for line in lines[5:-1])
    assert note.startswith("note: not all images that the model was trained on are known: ")
    assert lines[-1] == "all: reports/suspects/valid.csv"
    list(list_suspects(Path("model.pth"), "valid", Path("again.csv")))
    assert Path("again.csv").read_bytes() == Path("reports/suspects/valid.csv").read_bytes()


def test_a_name_cannot_forge_a_line(project: Path) -> None:
    table = [ClassEntry(id=10 + index, index=index, name=f"class{index}") for index in range(3)]
    write_classes(project / "annotations" / "classes.json", table)
    old, new = "valid/1.png", "valid/1\nnote: all is well.png"
    for path in (project / "annotations" / "valid.json", project / "manifest" / "valid.json"):
        path.write_text(path.read_text().replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1]))
    root = project / files.read_text(Path("params.yaml")).split("dir: ")[1].strip()
    (root / old).rename(root / new)
    lines = list(list_suspects(Path("model.pth"), "valid", limit=1000))
    assert all("\n" not in line for line in lines)
    assert any("valid/1\\nnote: all is well.png" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "validation"), "there is no split 'validation'. Use train, valid or test."),
        (("--split", "test"), "the split test has no image. Splits with images: train, valid."),
        (("--output", "found.html"), "--output found.html must be a CSV file"),
    ],
)
def test_wrong_arguments_give_one_message(project: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["suspects", "model.pth", *arguments])
    assert str(ended.value.code).startswith(f"error: {message}")
    assert "\n" not in str(ended.value.code)


def test_other_classes_and_a_missing_image_are_named_and_nothing_is_written(project: Path) -> None:
    image = next(project.rglob("valid/3.png"))
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(UserError, match=r"valid/3\.png"):
        list(list_suspects(Path("model.pth"), "valid", page=True))
    image.write_bytes(content)
    write_classes(project / "annotations" / "classes.json", [ClassEntry(id=1, index=0, name="tree")])
    with pytest.raises(UserError, match="the model has the classes class0, class1, class2; the dataset has tree"):
        list(list_suspects(Path("model.pth"), "valid", page=True))
    assert not (project / "reports").exists()


def test_the_page_shows_a_crop_of_each_suspect(project: Path) -> None:
    lines = list(list_suspects(Path("model.pth"), "valid", page=True))
    path = project / "reports" / "suspects" / "valid.html"
    table = pd.read_csv(path.with_suffix(".csv"))
    assert lines[-1] == "all: reports/suspects/valid.csv, reports/suspects/valid.html"
    with running() as browser:
        page = browser.open(path)
        page.wait("document.documentElement.dataset.ready === 'yes'")
        assert page.complaints() == []
        assert page.requests() == [path.resolve().as_uri()]
        expected = min(24, len(table))
        assert (
            page.value("[...document.querySelectorAll('img')].filter((one) => one.naturalWidth > 0).length") == expected
        )
        text = page.value("document.body.innerText")
    assert f"certainty {table.certainty[0]:.2f}" in text
    assert "are known" in text
