"""The difference of two models: of their lineages and of their images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rfdetr_core.base.provenance import flattened, short

Rows = Iterable[Mapping[str, Any]]
KINDS = {"moved": "in another split", "pixels": "with other pixels", "labels": "with other labels"}
_MAX_ROWS = 5  # of a kind of change, as text


def compare_lineages(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Every key whose value differs, by topic, with both values.

    Topics without a difference are absent. A key that one lineage lacks has the value None there.

    Topics:
        params: The parameters of the training.
        code: The digests of the source files that train runs.
        code of strip: The digests of the source files that strip runs.
        packages: The versions of the packages that can change the result.
        machine: The machine of the training, and its settings that can change the result.
        weights: The SHA-256 of the files that the training started from.
        custom: The parts of the training that a Python script replaced.
        scores: The content of selection.json.
    """
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
    differences = {}
    schemas = [lineage.get("schema") for lineage in (old, new)]
    if schemas[0] != schemas[1]:  # digests of the bytes in schema 1, of the code without comments in schema 2
        topics = {topic: keys for topic, keys in topics.items() if not topic.startswith("code")}
        differences["code"] = {"not compared: the digests follow different schemas": schemas}
    for topic, keys in topics.items():
        before, after = (flattened(_value_at(lineage, keys)) for lineage in (old, new))
        changed = {key: [before.get(key), after.get(key)] for key in sorted(before.keys() | after.keys())}
        differences[topic] = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
    return {topic: changes for topic, changes in differences.items() if changes}


def compare_images(old: Rows, new: Rows) -> dict[str, list[dict[str, Any]]]:
    """The images that changed, by kind: added, removed, renamed, moved (to another split), pixels, labels.

    An image is identified by its path; if the path is new, by its bytes. Rows of a renamed or moved image have the old
    path or split in the key `was`.
    """
    before, after = ({row["path"]: dict(row) for row in rows} for rows in (old, new))
    changes: dict[str, list[dict[str, Any]]] = {
        key: [] for key in ("added", "removed", "renamed", "moved", "pixels", "labels")
    }
    removed = {path: row for path, row in before.items() if path not in after}
    by_bytes = {row["sha256"]: path for path, row in removed.items()}
    for path, row in sorted(after.items()):
        earlier = before.get(path)
        if earlier is None:
            earlier = removed.pop(by_bytes.pop(row["sha256"], ""), None)
            changes["renamed" if earlier else "added"].append(row | ({"was": earlier["path"]} if earlier else {}))
        if earlier is None:
            continue
        if earlier["split"] != row["split"]:
            changes["moved"].append(row | {"was": earlier["split"]})
        if earlier["sha256"] != row["sha256"]:
            changes["pixels"].append(row)
        if earlier["labels"] != row["labels"]:
            changes["labels"].append(row)
    changes["removed"] = [removed[path] for path in sorted(removed)]
    return {key: rows for key, rows in changes.items() if rows}


def _value_at(value: Any, keys: Iterable[str]) -> Any:
    """The value below nested keys; an empty dict if a key is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value or {}


def format_difference(
    changes: Mapping[str, Mapping[str, list[Any]]], images: Mapping[str, list[dict[str, Any]]], unknown: Iterable[str]
) -> list[str]:
    """The difference of two models as lines. A long list is cut, and its last line says so.

    Args:
        changes: The answer of `compare_lineages`.
        images: The answer of `compare_images`.
        unknown: Why images could not be compared, a sentence for each reason.
    """
    lines = []
    for topic, pairs in changes.items():
        lines += [topic, *(f"  {key}: {short(old)} -> {short(new)}" for key, (old, new) in pairs.items())]
    for kind, rows in images.items():
        lines.append(f"images {KINDS.get(kind, kind)}: {len(rows)}")
        for row in rows[:_MAX_ROWS]:
            was = f" (was {row['was']})" if "was" in row else ""
            lines.append(f"  {row['split']} {row['path']}{was}")
        lines += [f"  and {len(rows) - _MAX_ROWS} more (--json lists them)"] if len(rows) > _MAX_ROWS else []
    lines += [f"images not compared: {reason}" for reason in unknown]
    return lines or ["no difference in data, params, code, packages, weights or scores"]
