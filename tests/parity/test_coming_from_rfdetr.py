"""The names, methods and keywords that docs/coming-from-rfdetr.md attributes to rfdetr exist in rfdetr."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rfdetr
from rfdetr.config import RFDETRNanoConfig, TrainConfig

from tests.coming_from import SNIPPETS, rows

# The module of rfdetr for each import of the snippets.
MODULES = {"rfdetr_core": "rfdetr", "rfdetr_core.config": "rfdetr.config", "rfdetr_core.training": "rfdetr.training"}
CODE = [theirs for theirs, _ in rows()] + [code for _, code in SNIPPETS]


@pytest.mark.parametrize("code", CODE)
def test_its_names_and_keywords_are_upstreams(code: str) -> None:
    tree = ast.parse(code)
    for module, name in imported(tree):
        assert name in names_of(module), f"{module} has no {name}"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {keyword.arg for keyword in call.keywords}
        match call.func:
            case ast.Attribute(value=ast.Name("model"), attr=method):
                assert keywords <= accepted(getattr(rfdetr.RFDETR, method), method)
            case ast.Name(name) if name.startswith("RFDETR") and not name.endswith(("Module", "Callback")):
                assert keywords <= RFDETRNanoConfig.model_fields.keys()
            case ast.Name("TrainConfig"):
                assert keywords <= TrainConfig.model_fields.keys()


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The modules of rfdetr and the names that code imports from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rfdetr"):
            for alias in node.names:
                module = MODULES.get(node.module, node.module)
                yield ("rfdetr.assets.coco_classes" if alias.name == "COCO_CLASSES" else module), alias.name


def names_of(module: str) -> set[str]:
    """The names of a module, read from its source: some modules need packages that are not installed."""
    place = Path(rfdetr.__file__).parents[1].joinpath(*module.split("."))
    tree = ast.parse((place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return (
        imported
        | {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        | {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    )


def accepted(method: Any, name: str) -> set[str]:
    """The keywords of a method; for train and evaluate also those of the config."""
    own = {*inspect.signature(method).parameters}
    return own | TrainConfig.model_fields.keys() | {"resolution"} if name in ("train", "evaluate") else own
