"""Every requested package is pinned, has a reason in docs/dependencies.md, and is declared in pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from rfdetr_core.base.code import PACKAGES, ROOT
from tests.architecture import CODE

PARTS = ("numeric", "runtime", "report", "export", "documents", "dev", "audit")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(name: str) -> dict[str, str]:
    """The versions in a requirements/*.lock."""
    rows = re.findall(r"^([\w.-]+)(?:\[[\w,-]*\])?==(\S+)", (ROOT / "requirements" / f"{name}.lock").read_text(), re.M)
    return {normal(package): version for package, version in rows}


def requested(name: str) -> set[str]:
    """The packages of a requirements/*.in, without versions and extras."""
    lines = (ROOT / "requirements" / f"{name}.in").read_text().splitlines()
    return {normal(re.split(r"[\[=<>~! ]", line)[0]) for line in lines if line.strip() and line[0] != "#"}


@pytest.mark.parametrize("name", PARTS)
def test_every_requested_package_is_pinned(name: str) -> None:
    assert requested(name) <= pinned(name).keys()


@pytest.mark.parametrize("name", PARTS)
def test_a_package_has_one_version_in_all_locks(name: str) -> None:
    here = pinned(name)
    assert here
    for other_part in PARTS:
        elsewhere = pinned(other_part)
        assert {
            package: (here[package], elsewhere[package])
            for package in here.keys() & elsewhere.keys()
            if here[package] != elsewhere[package]
        } == {}


def test_no_package_of_exported_files_affects_a_number() -> None:
    assert not requested("export") & (requested("numeric") | pinned("numeric").keys())


def test_every_requested_package_has_a_reason() -> None:
    table = (ROOT / "docs" / "dependencies.md").read_text().partition("Each package has a reason")[2]
    words = {normal(word) for word in re.findall(r"[\w.-]+", table)}
    assert {name for part in PARTS for name in requested(part) if name not in words} == set()


def test_every_import_of_the_core_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(requirement for extra in project["optional-dependencies"].values() for requirement in extra),
    ]
    declared = {normal(re.split(r"[\[=<>~! ]", requirement)[0]) for requirement in requirements}
    owners = packages_distributions()
    for module, path in CODE.modules.items():
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        for name in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, *PACKAGES}:
            assert declared & {normal(owner) for owner in owners.get(name, [name])}, f"{module} imports {name}"
