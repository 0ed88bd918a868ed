"""The effect of findings: stop, drop and other severities. What is printed. No annotation crashes validation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.ingest import survey
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.meanings import MEANINGS
from rfdetr_core.ingest.rules import RULES
from tests.ingest.samples import SPLITS, coco_content, edit_coco, ingest, make_coco, places, validate, write_coco

JSON = "train/_annotations.coco.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_coco(tmp_path / "data")


def test_drop_leaves_out_just_what_is_named(root: Path, tmp_path: Path) -> None:
    edit_coco(root, "train", lambda content: content["annotations"][2].update(id=77))
    before = ingest(root, tmp_path / "before")

    def spoil(content: dict[str, Any]) -> None:
        content["annotations"].append(content["annotations"][0] | {"id": 50, "bbox": [1, 1, 0, 5]})
        content["annotations"].append(content["annotations"][0] | {"id": 51, "image_id": 4})
        content["images"].append(content["images"][0] | {"id": 4, "file_name": "missing.png"})

    edit_coco(root, "train", spoil)
    findings, error = validate(root, tmp_path / "stopped")
    assert error
    assert "on_error: drop" in error
    findings, error = validate(root, tmp_path / "dropped", on_error="drop")
    assert error is None
    assert [(finding["code"], finding["effect"]) for finding in findings] == [
        ("box-without-area", "left out"),
        ("image-missing", "left out"),
    ]
    assert ingest(root, tmp_path / "after", on_error="drop") == before


def test_dropping_everything_still_stops(root: Path, tmp_path: Path) -> None:
    for path in (root / "train").glob("*.png"):
        path.unlink()
    findings, error = validate(root, tmp_path, on_error="drop")
    assert error
    assert places(findings)[0] == ("split-empty", "error", JSON, None)


def test_a_leak_as_an_error_is_dropped_from_train(root: Path, tmp_path: Path) -> None:
    (root / "train" / "train_2.png").write_bytes((root / "test" / "test_1.png").read_bytes())
    config = {"severities": {"leakage": "error"}}
    assert validate(root, tmp_path, **config)[1]
    files = ingest(root, tmp_path, on_error="drop", **config)
    assert [image["file_name"] for image in json.loads(files["annotations/train.json"])["images"]] == [
        "train/train_1.png",
        "train/train_3.png",
    ]
    assert json.loads(files["annotations/test.json"])["images"]


@pytest.mark.parametrize("severity", ["warning", "ignore"])
def test_what_is_unusable_is_left_out_at_any_severity(root: Path, tmp_path: Path, severity: str) -> None:
    edit_coco(root, "train", lambda content: content["annotations"][1].update(bbox=[1, 1, -2, 5]))
    config = {"severities": {"box-without-area": severity}}
    findings, error = validate(root, tmp_path, **config)
    assert error is None
    assert [finding["effect"] for finding in findings] == ["left out"] * (severity == "warning")
    assert len(json.loads(ingest(root, tmp_path, **config)["annotations/train.json"])["annotations"]) == 2


def test_a_bad_polygon_as_a_warning_leaves_the_box(root: Path, tmp_path: Path) -> None:
    before = ingest(root, tmp_path / "before")
    edit_coco(root, "train", lambda content: content["annotations"][1].update(segmentation=[[1, 2]]))
    assert ingest(root, tmp_path / "after", severities={"segmentation-malformed": "warning"}) == before


def test_a_code_that_is_unknown_or_always_an_error_is_refused() -> None:
    with pytest.raises(UserError, match="box-tall is not a finding code"):
        parse(ValidateConfig, {"severities": {"box-tall": "error"}}, "params.yaml: validate")
    with pytest.raises(UserError, match="labels-unreadable always stops"):
        parse(ValidateConfig, {"severities": {"labels-unreadable": "ignore"}}, "params.yaml: validate")
    with pytest.raises(UserError, match="severities"):
        parse(ValidateConfig, {"severities": {"leakage": "fatal"}}, "params.yaml: validate")


def test_every_rule_says_what_to_do() -> None:
    assert all(rule.advice.endswith((".", "?")) for rule in RULES.values())
    assert MEANINGS.keys() == RULES.keys()


def test_the_table_shows_the_first_few_of_each_code(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [{"id": 100 + k, "image_id": 1, "category_id": 3, "bbox": [0, 0, 0, 0]} for k in range(50)]
    edit_coco(root, "train", lambda content: content["annotations"].extend(more))
    findings, _ = validate(root, tmp_path)
    printed = capsys.readouterr().out
    assert "error box-without-area: 50" in printed
    assert "and 47 more" in printed
    assert printed.count("annotation 1") == 3
    with (tmp_path / "reports" / "findings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: "" if v is None else str(v) for k, v in finding.items()} for finding in findings] == rows
    assert len(rows) == 50


def test_statistics_count_what_is_kept(root: Path, tmp_path: Path) -> None:
    validate(root, tmp_path)
    content = json.loads((tmp_path / "reports" / "statistics.json").read_text())
    assert {split: content[split]["objects"] for split in content} == {
        split: sum(map(len, images)) for split, images in SPLITS.items()
    }
    train = content["train"]
    assert (train["images"], train["images_without_objects"]) == (3, 1)
    assert train["objects_of_class"] == {"cat": 1, "dog": 2}
    widths = sorted(box[2] for image in SPLITS["train"] for _, box in image)
    assert (train["box_width"]["0%"], train["box_width"]["100%"]) == (widths[0], widths[-1])


def test_many_processes_give_the_same_findings(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "train" / "train_2.png").write_bytes(b"no image")
    in_one_process = validate(root, tmp_path)
    monkeypatch.setattr(survey, "_WORTH_PROCESSES", 0)
    assert validate(root, tmp_path) == in_one_process


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 80), st.integers(), st.floats(), st.text(max_size=6),
    st.lists(st.floats(-10, 90), max_size=8), st.lists(st.lists(st.integers(-9, 99), max_size=9), max_size=2),
    st.dictionaries(st.sampled_from(["size", "counts", "id"]), st.lists(st.integers(0, 64), max_size=3)),
)  # fmt: skip
MUTATIONS = st.lists(
    st.tuples(st.integers(0), st.sampled_from(["set", "remove", "copy"]), LEAVES), min_size=1, max_size=4
)


def mutate(content: Any, where: int, how: str, value: Any) -> None:
    """Change one node of a tree of dicts and lists, chosen by a number."""
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            nodes.append((node, key))
            walk(node[key])

    walk(content)
    if not nodes:
        return
    parent, key = nodes[where % len(nodes)]
    if how == "set":
        parent[key] = value
    elif how == "remove":
        del parent[key]
    elif isinstance(parent, list):
        parent.append(parent[key])


@pytest.mark.slow
@settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS, split=st.sampled_from(sorted(SPLITS)), on_error=st.sampled_from(["stop", "drop"]))
def test_no_annotations_crash_validation_and_what_passes_is_sound(
    root: Path, tmp_path: Path, mutations: list[tuple[int, str, Any]], split: str, on_error: str
) -> None:
    content = coco_content(split)
    for mutation in mutations:
        mutate(content, *mutation)
    for name in SPLITS:
        write_coco(root, name, content if name == split else coco_content(name))
    findings, error = validate(root, tmp_path, on_error=on_error)
    assert error is None or any(finding["effect"] == "stop" for finding in findings)
    if error is None:
        sound(ingest(root, tmp_path, on_error=on_error))


def sound(files: dict[str, bytes]) -> None:
    classes = json.loads(files["annotations/classes.json"])
    for split in SPLITS:
        content = json.loads(files[f"annotations/{split}.json"])
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            assert 0 <= x < x + width <= sizes[annotation["image_id"]][0]
            assert 0 <= y < y + height <= sizes[annotation["image_id"]][1]
            assert annotation["area"] > 0
            assert annotation["category_id"] in range(len(classes))
