from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS, read_manifest
from rfdetr_core.base.metadata import column_name, read_metadata, write_metadata
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.metadata import read_metadata_csv
from rfdetr_core.ingest.records import is_text
from rfdetr_core.ingest.validate import validate_dataset
from tests.ingest.faults import METADATA, Fault
from tests.ingest.samples import MAKERS, edit_coco, make_coco, make_yolo

TABLE = "file_name,site,camera\ntrain_1.png,a,x\ntrain_2.png,b,\nvalid_1.png,a,y\n"
EXPECTED = {
    "train": {"train_1.png": {"site": "a", "camera": "x"}, "train_2.png": {"site": "b"}},
    "valid": {"valid_1.png": {"site": "a", "camera": "y"}},
    "test": {},
}


def outs(root: Path, out: Path, **config: object) -> dict[str, bytes]:
    """The bytes of metadata/<split>.csv after a validation that passes."""
    where = ProjectPaths(root, manifests=out / "manifest", metadata=out / "metadata")
    parsed = parse(ValidateConfig, config, "validate")
    validate_dataset(root, parsed, out / "reports", where.manifests, metadata=where.metadata)
    assert {path.name for path in where.metadata.iterdir()} == {f"{name}.csv" for name in SPLITS}
    return {name: where.metadata_of(name).read_bytes() for name in SPLITS}


def read(out: Path) -> dict[str, dict[str, dict[str, str]]]:
    """The written metadata: split -> base name of the image -> column -> value."""
    tables = {name: read_metadata(out / "metadata" / f"{name}.csv") for name in SPLITS}
    return {name: {path.split("/")[-1]: row for path, row in rows.items()} for name, rows in tables.items()}


@pytest.mark.parametrize("make", MAKERS)
def test_images_of_every_layout_are_named_by_their_base_names(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    root = make(tmp_path / "data")
    (root / "metadata.csv").write_text(TABLE)
    tables_csv = outs(root, tmp_path)
    assert read(tmp_path) == EXPECTED
    folder = {make_coco: "train/", make_yolo: "images/train/"}.get(make)
    if folder:
        rows = f"path,camera,site\n{folder}train_1.png,x,a\n{folder}train_2.png,,b\n"
        assert tables_csv["train"] == rows.encode()
        (root / "metadata.csv").write_text(f"file name,site\n./{folder}train_1.png,a\n")
        assert outs(root, tmp_path)["train"] == f"path,site\n{folder}train_1.png,a\n".encode()


def test_without_metadata_there_is_the_header_alone(tmp_path: Path) -> None:
    assert outs(make_coco(tmp_path / "data"), tmp_path) == dict.fromkeys(SPLITS, b"path\n")
    (tmp_path / "data" / "metadata.csv").write_text("file_name,site\ntrain_1.png, \n,\n\n")
    assert outs(tmp_path / "data", tmp_path) == dict.fromkeys(SPLITS, b"path\n")


def test_the_licence_and_date_of_coco_are_columns_and_the_csv_wins(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")

    def change(content: dict) -> None:  # type: ignore[type-arg]
        content["licenses"] = [{"id": 1, "name": " CC0-1.0 "}, {"id": 0, "name": ""}]
        content["images"][0].update(license=1, date_captured="2024-05-01")
        content["images"][1].update(license="1", date_captured=0)
        content["images"][2].update(license=0, date_captured="")

    edit_coco(root, "train", change)
    outs(root, tmp_path)
    cc0 = {"licence": "CC0-1.0"}
    assert read(tmp_path)["train"] == {"train_1.png": cc0 | {"date": "2024-05-01"}, "train_2.png": cc0}
    (root / "metadata.csv").write_text("file_name,License,Date_Captured\ntrain_1.png,MIT,\ntrain_3.png,,2020\n")
    outs(root, tmp_path)
    assert read(tmp_path)["train"] == {
        "train_1.png": {"licence": "MIT", "date": "2024-05-01"},
        "train_2.png": cc0,
        "train_3.png": {"date": "2020"},
    }


def test_cells_are_kept_as_text(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    values = ["007", "NA", "1.50", "=1+1", 'a "b", c', "nan", "é 🌳", "True", "<script>", "1e3"]
    with (root / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as file:  # as Excel writes it
        csv.writer(file).writerows([["file_name", *(f"c{k}" for k in range(len(values)))], ["train_1.png", *values]])
    outs(root, tmp_path)
    assert list(read(tmp_path)["train"]["train_1.png"].values()) == values


def test_metadata_follows_the_manifest(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    names = [path.name for path in root.rglob("*.png")]
    (root / "metadata.csv").write_text("file_name,site\n" + "".join(f"{name},a\n" for name in names))
    (root / "valid").rename(tmp_path / "away")
    (root / "train" / "train_3.png").write_bytes(b"broken")
    outs(root, tmp_path, on_error="drop", split={"valid": 0.5})
    kept = {name: {row.path for row in read_manifest(tmp_path / "manifest" / f"{name}.json")} for name in SPLITS}
    assert kept["valid"]
    assert {name: set(read_metadata(tmp_path / "metadata" / f"{name}.csv")) for name in SPLITS} == kept
    assert not any(path.endswith("train_3.png") for paths in kept.values() for path in paths)


@pytest.mark.parametrize(
    "fault", [fault for fault in METADATA.values() if fault.file == "metadata.csv"], ids=lambda fault: fault.code
)
def test_what_cannot_be_used_is_left_out_and_no_image_with_it(tmp_path: Path, fault: Fault) -> None:
    root = fault.make(tmp_path / "data")
    fault.plant(root)
    outs(root, tmp_path, on_error="drop")
    rows = {path: row for name in SPLITS for path, row in read_metadata(tmp_path / "metadata" / f"{name}.csv").items()}
    assert all(row.items() <= {"site": "a", "note": "b"}.items() for row in rows.values())
    assert rows.keys() <= {"train/train_1.png", "train/train_2.png", "train/b/x.png"}
    assert sum(len(read_manifest(tmp_path / "manifest" / f"{name}.json")) for name in SPLITS) == 6


def test_a_repeated_row_is_not_a_finding(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data")
    (root / "metadata.csv").write_text("file_name,site\ntrain_1.png,a\ntrain/train_1.png, a\n")
    assert outs(root, tmp_path)["train"] == b"path,site\ntrain/train_1.png,a\n"


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
RESERVED = ("path", "file_name", "file name")
NAMES = WORDS.map(column_name).filter(lambda name: is_text(name) and name.casefold() not in RESERVED)
VALUES = st.dictionaries(NAMES, WORDS.map(str.strip), max_size=4)
IMAGES = [f"train/{name}.png" for name in "abcd"]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(IMAGES), VALUES))
def test_written_metadata_is_read_back(rows: dict[str, dict[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "train.csv")
        write_metadata(path, rows)
        filled = {image: {name: value for name, value in row.items() if value} for image, row in rows.items()}
        assert read_metadata(path) == {image: row for image, row in filled.items() if row}
        content = path.read_bytes()
        write_metadata(path, read_metadata(path))
        assert path.read_bytes() == content


@settings(max_examples=50, deadline=None)
@given(st.lists(NAMES, max_size=4, unique_by=str.casefold), st.data())
def test_order_and_white_space_of_the_csv_change_nothing(columns: list[str], data: st.DataObject) -> None:
    rows = {image: [data.draw(WORDS) for _ in columns] for image in IMAGES}
    order = data.draw(st.permutations(range(len(columns) + 1)))

    def cell(text: str) -> str:
        return data.draw(st.sampled_from(["", " ", "\t"])) + text + data.draw(st.sampled_from(["", "  "]))

    def written(lines: list[list[str]], end: str) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator=end).writerows(lines)
        return text.getvalue().encode()

    table = [["file_name", *columns], *([image, *values] for image, values in rows.items())]
    head, *body = [[cell(line[k]) for k in order] for line in table]
    outs = set()
    with TemporaryDirectory() as folder:
        for content in (written(table, "\n"), written([head, *data.draw(st.permutations(body))], "\r\n")):
            Path(folder, "metadata.csv").write_bytes(content)
            findings = Findings(ValidateConfig())
            write_metadata(Path(folder, "out.csv"), read_metadata_csv(Path(folder), IMAGES, findings))
            assert not findings.all
            outs.add(Path(folder, "out.csv").read_bytes())
    assert len(outs) == 1


@pytest.mark.parametrize(
    "content", [b"", b"image,site\na,b\n", b"path,site\na,b,c,d\n", b"path,site\na,\xff\n", b'path\n"a']
)
def test_a_file_that_is_not_a_metadata_table_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.csv"
    with pytest.raises(UserError, match=r"train\.csv does not exist. Run .*dvc repro"):
        read_metadata(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.csv .*dvc repro"):
        read_metadata(path)
