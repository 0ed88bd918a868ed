from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import Config, load_params, load_yaml, read_section


class Inner(Config):
    depth: int = 1


class Section(Config):
    rate: float = 0.5
    count: int = 2
    fast: bool = False
    name: str = "x"
    sides: tuple[int, ...] = ()
    extra: float | None = None
    inner: Inner = Inner()
    size: int | Literal["auto"] = 1


def section(tmp_path: Path, text: str) -> Section:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    return read_section(Section, "part", tmp_path / "params.yaml")


def test_a_section_that_is_missing_or_empty_has_the_defaults(tmp_path: Path) -> None:
    for text in ("other: {}\n", "part:\n", "part: {}\n"):
        assert section(tmp_path, text) == Section()


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("1E-05", 1e-5), ("3", 3.0), ("0.25", 0.25)])
def test_numbers_are_read_as_yaml_1_2_has_them(tmp_path: Path, text: str, value: float) -> None:
    assert section(tmp_path, f"part: {{rate: {text}}}").rate == value


def test_off_and_no_are_text_and_010_is_ten(tmp_path: Path) -> None:
    assert section(tmp_path, "part: {name: off, count: 010}") == Section(name="off", count=10)


def test_values_of_every_type_are_taken(tmp_path: Path) -> None:
    read = section(tmp_path, "part: {fast: true, sides: [1, 2], extra: null, inner: {depth: 3}, name: é}")
    assert read == Section(fast=True, sides=(1, 2), inner=Inner(depth=3), name="é")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("part: {coun: 3}", ["part.coun", "Did you mean count?", "Known keys: count, extra, fast"]),
        ("part: {inner: {depht: 3}}", ["inner.depht", "Did you mean depth?"]),
        ("part: {count: 2.5}", ["part.count", "2.5"]),
        ("part: {count: '2'}", ["part.count", "'2'"]),
        ("part: {count: true}", ["part.count"]),
        ("part: {fast: 1}", ["part.fast"]),
        ("part: {name: 3}", ["part.name"]),
        ("part: {rate: fast}", ["part.rate", "'fast'"]),
        ("part: {rate: .nan}", ["part.rate"]),
        ("part: {rate: .inf}", ["part.rate"]),
        ("part: {rate: null}", ["part.rate"]),
        ("part: {count: 2026-01-01}", ["part.count"]),
        ("part: {2: 3}", ["part.2"]),
        ("part: {[1, 2]: 3}", ["part"]),
        ("part: [1]", ["part", "mapping"]),
        ("part: &a {inner: *a}", ["part"]),
        ("[1, 2]", ["mapping"]),
        ("part: {count: 1, count: 2}", ["count"]),
        ("part: {count: 1", ["not readable as YAML"]),
        ("part: !!python/object/apply:os.system [ls]", ["not readable as YAML"]),
        ("part: " + "[" * 400, ["params.yaml"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        section(tmp_path, text)
    for word in ["params.yaml", *words]:
        assert word in str(raised.value)


def test_all_mistakes_of_a_section_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)part\.count.*part\.colour"):
        section(tmp_path, "part: {count: x, colour: red}")


@pytest.mark.parametrize("value", ["'2'", "1.5", "true", "[1]"])
def test_a_field_of_two_types_has_one_line_that_names_both(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError) as raised:
        section(tmp_path, f"part: {{size: {value}}}")
    (line,) = str(raised.value).splitlines()
    assert "part.size is" in line
    assert "integer" in line
    assert "'auto'" in line


def test_few_aliases_are_fine_and_many_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a [1]\nb: [*a, *a]\nc: '*'\n")
    assert load_yaml(path) == {"a": [1], "b": [[1], [1]], "c": "*"}
    path.write_text("a: &a [1]\nb: [" + ", ".join(["*a"] * 30) + "]\n")
    with pytest.raises(UserError, match="30 aliases"):
        load_yaml(path)


def test_a_byte_order_mark_is_ignored_and_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffa: 1".encode())
    assert load_yaml(path) == {"a": 1}
    path.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.yaml"):
        load_yaml(path)
    with pytest.raises(UserError, match="does not exist"):
        load_yaml(tmp_path / "b.yaml")


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Section().count = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "a ${b} c", "[1, [x, '${c}']]", "{deep: {er: '${'}}", "{'${k}': 1}"]
)
def test_an_interpolation_is_refused_by_its_key_in_every_section_and_its_value_is_not_shown(
    tmp_path: Path, value: str
) -> None:
    for text, key in ((f"part: {{name: {value}}}", "part.name"), (f"other: {value}\npart: {{}}", "other")):
        quoted = text if value[0] in "[{" else text.replace(value, f"'{value}'")
        with pytest.raises(
            UserError, match=rf"params\.yaml: {key}.* has an interpolation.*Write the value itself"
        ) as raised:
            section(tmp_path, quoted)
        assert "oc.env" not in str(raised.value)


def test_dollars_and_braces_apart_are_values_and_a_loop_of_aliases_ends(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: $HOME\nb: {c: '{$}'}\nd: &d [*d]\n")
    assert load_params(tmp_path / "a.yaml")["a"] == "$HOME"
