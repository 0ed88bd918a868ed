"""What differs between two models: in what made them, and in their images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rfdetr_core.base.provenance import flattened, short

Rows = Iterable[Mapping[str, Any]]
KINDS = {"moved": "in another split", "pixels": "with other pixels", "labels": "with other labels"}
_MOST = 5


def compare_lineages(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """By topic (params, code, packages, machine, weights, custom, scores): each key that differs, with both values."""
    topics = {
        "params": ("training", "params"),
        "code": ("training", "code"),
        "code of strip": ("code",),
        "packages": ("training", "packages"),
        "machine": ("training", "machine"),
        "weights": ("training", "weights"),
        "custom": ("training", "custom"),
        "scores": ("selection",),
    }
    found = {}
    schemas = [one.get("schema") for one in (old, new)]
    if schemas[0] != schemas[1]:  # digests of bytes are not comparable with digests of meaning
        topics = {topic: keys for topic, keys in topics.items() if not topic.startswith("code")}
        found["code"] = {"not compared, since its digests are of another schema": schemas}
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


def format_difference(
    changes: Mapping[str, Mapping[str, list[Any]]], images: Mapping[str, list[dict[str, Any]]], unknown: Iterable[str]
) -> list[str]:
    """Two comparisons as lines; long lists are cut, and say so."""
    lines = []
    for topic, pairs in changes.items():
        lines += [topic, *(f"  {key}: {short(old)} -> {short(new)}" for key, (old, new) in pairs.items())]
    for kind, rows in images.items():
        lines.append(f"images {KINDS.get(kind, kind)}: {len(rows)}")
        for row in rows[:_MOST]:
            was = f" (was {row['was']})" if "was" in row else ""
            lines.append(f"  {row['split']} {row['path']}{was}")
        lines += [f"  and {len(rows) - _MOST} more (--json lists them)"] if len(rows) > _MOST else []
    lines += [f"images not compared, since unknown: {one}" for one in unknown]
    return lines or ["no difference in data, params, code, packages, weights or scores"]
