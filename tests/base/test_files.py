from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError


def test_a_written_file_exists_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert files.read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    assert list(files.read_json(path)) == ["b", "a"]
    files.write_text(path, "x\r\ny")
    assert path.read_bytes() == b"x\r\ny"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text(f"half{1 / 0}")
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(path, float("nan"))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_the_target_of_a_link_is_unchanged(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    cached, path, source = tmp_path / "cached", tmp_path / "a", tmp_path / "source"
    cached.write_text("before")
    source.write_text("copied")
    for write in (lambda: files.write_text(path, "written"), lambda: files.copy(source, path)):
        link(cached, path)
        write()
        assert path.read_text() != "before"
        assert not path.is_symlink()
        assert cached.read_text() == "before"
        path.unlink()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/a"):
        files.write_text(tmp_path / "file" / "a", "x")


# Python before 3.13 writes a carriage return without quotes, so that it ends the row for readers.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"))
CELLS = st.none() | st.integers() | st.floats() | TEXT
# pandas renames columns with an empty or repeated name, removes a byte order mark, and skips a line of white space. A
# table of one column may have such a line; the tables of this project have more columns.
NAMES = st.lists(TEXT.filter(lambda name: name != "" and "\ufeff" not in name), min_size=2, max_size=4, unique=True)


def printed(cell: Any) -> str:
    return "" if cell is None or (isinstance(cell, float) and not math.isfinite(cell)) else str(cell)


@given(NAMES.flatmap(lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[CELLS] * len(names))))))
def test_a_table_is_read_back_as_its_cells_were_printed(table: tuple[list[str], list[tuple[Any, ...]]]) -> None:
    names, rows = table
    cells = [[printed(cell) for cell in row] for row in rows]
    text = files.csv_text(rows, names)
    assert list(csv.reader(io.StringIO(text, newline=""))) == [names, *cells]
    assert text.endswith("\n")
    read = pd.read_csv(io.StringIO(text, newline=""), dtype=str, keep_default_na=False)
    assert read.to_numpy().tolist() == cells
    assert list(read) == names


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(allow_nan=False)), min_size=1))
def test_columns_are_in_order_of_first_appearance_and_numbers_keep_every_bit(rows: list[dict[str, float]]) -> None:
    rows = [{"row": float(number)} | row for number, row in enumerate(rows)]
    table = pd.read_csv(io.StringIO(files.csv_text(rows)), float_precision="round_trip", dtype=float)
    assert list(table) == list(dict.fromkeys(name for row in rows for name in row))
    finite_rows = [{name: value.hex() for name, value in row.items() if math.isfinite(value)} for row in rows]
    assert [{name: value.hex() for name, value in row.dropna().items()} for _, row in table.iterrows()] == finite_rows


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("text", ["", "{", b"\xff"])
def test_a_file_that_is_not_json_is_named(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"a\.json.*dvc"):
        files.read_json(path)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b'{"a": 1, "a": 2}', "the key 'a' twice"),
        (b'[{"b": {"a": 1, "a": 1}}]', "the key 'a' twice"),
        (b"[NaN]", "NaN is not a finite number"),
        (b"[-Infinity]", "is not a finite number"),
        (b"[1e999]", "is not a finite number"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[" * 300 + b"]" * 300, "nested too deeply"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested too deeply"),
        (b"1" * 5000, "5000 digits"),
        (b"[" + b"1" * 400 + b"]", "400 digits"),
        (b'["\\ud800"]', "a text has half a character"),
        ('["a"]'.encode("utf-16"), "utf-8"),
        (b'["\xff"]', "utf-8"),
    ],
)
def test_crafted_json_is_one_message(tmp_path: Path, data: bytes, fault: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.json is not readable JSON \(.*{fault}") as error:
        files.read_json(tmp_path / "a.json")
    assert len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        (b'["\\ud83d\\ude00"]', ["\N{GRINNING FACE}"]),
        (b"3", 3),
        (b'"a"', "a"),
        (b"null", None),
    ],
)
def test_a_byte_order_mark_and_escaped_pairs_are_read(data: bytes, value: object) -> None:
    assert files.parse_json(data) == value


def test_digests_are_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(data)
    assert files.sha256_bytes(data) == files.sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_canonical_json_depends_only_on_content() -> None:
    assert files.canonical_json({"b": 1, "a": [1.5, "é"]}) == files.canonical_json({"a": [1.5, "é"], "b": 1})
    assert json.loads(files.canonical_json({"a": [1.5, "é"]})) == {"a": [1.5, "é"]}
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    with pytest.raises(ValueError, match="Out of range"):
        files.canonical_json(float("inf"))
