"""Every public name of the installed `rfdetr`, read from its source without importing or running it.

`python -m tests.parity.upstream_names` prints a line for each owner.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

_CONFIGS = ("ModelConfig", "TrainConfig", "SegmentationTrainConfig", "KeypointTrainConfig")
_CALLS = ("__init__", "from_checkpoint", "predict", "evaluate", "inference", "export", "deploy_to_roboflow")
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def public_names() -> dict[str, set[str]]:
    """The names by owner: a module, the class RFDETR, one of its methods (arguments), or a config (fields).

    A module's names are those in its __all__; without __all__, the classes, functions and constants that it defines.
    The top level also has classes that it imports, or loads when they are first used, but does not list.
    """
    trees = modules()
    by_owner = {name: _of_module(tree) for name, tree in trees.items()}
    by_owner["rfdetr"] |= _unlisted(trees["rfdetr"])
    model, config = trees["rfdetr.detr"], trees["rfdetr.config"]
    by_owner["RFDETR"] = _of_class(_class(model, "RFDETR"))
    for call in _CALLS:
        by_owner[f"RFDETR.{call}()"] = _arguments(_class(model, "RFDETR"), call)
    for name in _CONFIGS:
        by_owner[name] = _fields(_class(config, name)) - {"model_config"}  # pydantic's own
    by_owner["from_checkpoint()"] = by_owner.pop("RFDETR.from_checkpoint()")
    by_owner["RFDETR()"] = by_owner.pop("RFDETR.__init__()")
    return {owner: names for owner, names in by_owner.items() if names}


def modules() -> dict[str, ast.Module]:
    """The public modules by their dotted names."""
    spec = importlib.util.find_spec("rfdetr")
    assert spec is not None
    assert spec.origin is not None
    root, trees = Path(spec.origin).parent, {}
    for path in sorted(root.rglob("*.py")):
        parts = ("rfdetr", *path.relative_to(root).with_suffix("").parts)
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            trees[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


def _of_module(tree: ast.Module) -> set[str]:
    constants = {name: value for node in tree.body for name, value in _assigned(node)}
    if "__all__" in constants:
        return _texts(constants["__all__"], constants)
    defined = {node.name for node in tree.body if isinstance(node, (*_Function, ast.ClassDef))}
    defined |= {name for name in constants if name == name.upper()}
    return {name for name in defined if not name.startswith("_")}


def _unlisted(tree: ast.Module) -> set[str]:
    constants = {name: value for node in tree.body for name, value in _assigned(node)}
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    imported = {alias.name for node in imports if (node.module or "").startswith("rfdetr.") for alias in node.names}
    return imported | _texts(constants["_LAZY_TRAINING"], constants) | _texts(constants["_PLUS_EXPORTS"], constants)


def _texts(value: ast.expr, constants: dict[str, ast.expr]) -> set[str]:
    """The texts of a list, and of the lists that it names."""
    nodes = list(ast.walk(value))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = [constants[node.id] for node in nodes if isinstance(node, ast.Name) and node.id in constants]
    return texts.union(*(_texts(listed_elsewhere, constants) for listed_elsewhere in named))


def _of_class(node: ast.ClassDef) -> set[str]:
    """Methods, class attributes, and attributes that methods set on self."""
    names = {member.name for member in node.body if isinstance(member, _Function)}
    names |= {name for member in node.body for name, _ in _assigned(member)} | _fields(node)
    for member in ast.walk(node):
        targets = member.targets if isinstance(member, ast.Assign) else [getattr(member, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                names.add(target.attr)
    return {name for name in names if not name.startswith("_")}


def _assigned(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.Assign):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value


def _fields(node: ast.ClassDef) -> set[str]:
    own = [member.target for member in node.body if isinstance(member, ast.AnnAssign)]
    return {target.id for target in own if isinstance(target, ast.Name) and not target.id.startswith("_")}


def _arguments(node: ast.ClassDef, method: str) -> set[str]:
    (function,) = [member for member in node.body if isinstance(member, _Function) and member.name == method]
    given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {argument.arg for argument in given} - {"self", "cls"}


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    (definition,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return definition


if __name__ == "__main__":
    for owner, names in public_names().items():
        print(owner, *sorted(names))
