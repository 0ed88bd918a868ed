"""What differs between the making of two models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rfdetr_core.provenance import flattened

Rows = Iterable[Mapping[str, Any]]


def compare_lineages(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """By topic (params, code, packages, machine, weights, scores): each key that differs, with both values."""
    topics = {
        "params": ("training", "params"),
        "code": ("training", "code"),
        "code of strip": ("code",),
        "packages": ("training", "packages"),
        "machine": ("training", "machine"),
        "weights": ("training", "weights"),
        "scores": ("selection",),
    }
    found = {}
    for topic, keys in topics.items():
        before, after = (flattened(_at(one, keys)) for one in (old, new))
        changed = {key: [before.get(key), after.get(key)] for key in sorted(before.keys() | after.keys())}
        found[topic] = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
    return {topic: changes for topic, changes in found.items() if changes}


def compare_images(old: Rows, new: Rows) -> dict[str, list[dict[str, Any]]]:
    """Images by what became of them: added, removed, renamed, moved to another split, pixels changed, labels changed.

    An image is followed by its path, and by its bytes where the path is new.
    """
    before, after = ({row["path"]: dict(row) for row in rows} for rows in (old, new))
    found: dict[str, list[dict[str, Any]]] = {
        key: [] for key in ("added", "removed", "renamed", "moved", "pixels", "labels")
    }
    gone = {path: row for path, row in before.items() if path not in after}
    by_bytes = {row["sha256"]: path for path, row in gone.items()}
    for path, row in sorted(after.items()):
        earlier = before.get(path)
        if earlier is None:
            earlier = gone.pop(by_bytes.pop(row["sha256"], ""), None)
            found["renamed" if earlier else "added"].append(row | ({"was": earlier["path"]} if earlier else {}))
        if earlier is None:
            continue
        if earlier["split"] != row["split"]:
            found["moved"].append(row | {"was": earlier["split"]})
        if earlier["sha256"] != row["sha256"]:
            found["pixels"].append(row)
        if earlier["labels"] != row["labels"]:
            found["labels"].append(row)
    found["removed"] = [gone[path] for path in sorted(gone)]
    return {key: rows for key, rows in found.items() if rows}


def _at(value: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value or {}
