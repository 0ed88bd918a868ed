from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert files.read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    assert list(files.read_json(path)) == ["b", "a"]
    files.write_text(path, "x\r\ny")
    assert path.read_bytes() == b"x\r\ny"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text(f"half{1 / 0}")
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(path, float("nan"))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/a"):
        files.write_text(tmp_path / "file" / "a", "x")


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("text", ["", "{", b"\xff"])
def test_what_is_no_json_is_named(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"a\.json.*dvc"):
        files.read_json(path)


def test_digests_are_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(data)
    assert files.sha256_bytes(data) == files.sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_canonical_json_depends_on_content_alone() -> None:
    assert files.canonical_json({"b": 1, "a": [1.5, "é"]}) == files.canonical_json({"a": [1.5, "é"], "b": 1})
    assert json.loads(files.canonical_json({"a": [1.5, "é"]})) == {"a": [1.5, "é"]}
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    with pytest.raises(ValueError, match="Out of range"):
        files.canonical_json(float("inf"))
