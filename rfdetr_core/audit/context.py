"""What a reviewer asks of two models beside their difference: classes and sources of the images that changed, scores
with intervals, and commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rfdetr_core.audit.history import NOT_COMMITTED, Commit, cache_path
from rfdetr_core.audit.images import evaluated, made_by
from rfdetr_core.audit.metadata import digests_in
from rfdetr_core.audit.trace import Archive, Trace, evaluations_of
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.base.metadata import parse_metadata
from rfdetr_core.base.schema import check_values
from rfdetr_core.lineage.lock import LOCK

SCORES = {"map": "mAP", "map_50": "AP50", "map_75": "AP75", "mar_100": "AR100", "f1": "F1"}
_EVALUATION = "reports/evaluate"

Images = Mapping[str, list[dict[str, Any]]]  # see `difference.compare_images`


def context_of(traces: Sequence[Trace], images: Images, archive: Archive) -> dict[str, Any]:
    """Facts about the difference of two models, the earlier one first.

    commits: the ids of those that brought them, None where that is not known. scores: of each, see `_scores`.
    sources: by kind of change and value of the column `source`, the number of images. classes: by kind and class, the
    number of objects in these images before and after. notes: why one of these is not known.
    """
    notes: list[str] = []
    commits = [made_by(traced, archive) for traced in traces]
    sources = [_sources(traced, commit, archive) for traced, commit in zip(traces, commits, strict=True)]
    objects: list[dict[str, Counter[str]] | None] = []
    for traced in traces if images else ():
        try:
            objects.append(_objects(traced, archive))
        except UserError as error:
            notes.append(str(error))
            objects.append(None)
    known = [one for one in objects if one is not None]
    return {
        "commits": [commit.id if commit else None for commit in commits],
        "scores": [_scores(traced, archive) for traced in traces],
        "sources": {kind: dict(_by_source(kind, rows, sources)) for kind, rows in images.items()}
        if any(sources)
        else {},
        "classes": {kind: _by_class(kind, rows, known) for kind, rows in images.items()} if len(known) == 2 else {},
        "notes": notes,
    }


def _by_source(kind: str, rows: Sequence[dict[str, Any]], sources: Sequence[Mapping[str, str]]) -> Counter[str]:
    """An image that is gone counts by what was known of it before."""
    known = sources[0 if kind == "removed" else 1]
    return Counter(sorted(known.get(row["path"], "") for row in rows))


def _by_class(
    kind: str, rows: Sequence[dict[str, Any]], objects: Sequence[Mapping[str, Counter[str]]]
) -> dict[str, list[int]]:
    paths = [[row["was"] if kind == "renamed" else row["path"] for row in rows], [row["path"] for row in rows]]
    counts = [
        sum((known.get(path, Counter()) for path in side), Counter())
        for known, side in zip(objects, paths, strict=True)
    ]
    return {name: [side[name] for side in counts] for name in sorted(counts[0] | counts[1])}


def _sources(traced: Trace, commit: Commit | None, archive: Archive) -> dict[str, str]:
    """By image, its source when the model was committed; images without one are absent."""
    found: dict[str, str] = {}
    for split in SPLITS:
        content = _committed(f"metadata/{split}.csv", commit, archive)
        if content is not None:
            rows = parse_metadata(content, f"metadata/{split}.csv of {traced.file}")
            found |= {path: row["source"] for path, row in rows.items() if "source" in row}
    return found


def _objects(traced: Trace, archive: Archive) -> dict[str, Counter[str]]:
    """By image, the number of objects of each class, from the annotations that the model was trained on.

    Raises:
        UserError: they are not at hand.
    """
    outs = _annotations(traced)
    found: dict[str, Counter[str]] = {}
    for split in SPLITS:
        name = f"annotations/{split}.json"
        content = _out(name, outs.get(name), archive)
        if content is None:
            raise UserError(
                f"objects are not counted by class: {name} of {traced.file} is not in DVC's cache here. "
                "Fetch it: dvc fetch --all-commits"
            )
        try:
            told = files.parse_json(content)
            names = {one["id"]: str(one["name"]) for one in told["categories"]}
            paths = {one["id"]: one["file_name"] for one in told["images"]}
            for one in told["annotations"]:
                found.setdefault(paths[one["image_id"]], Counter())[names[one["category_id"]]] += 1
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name} of {traced.file} cannot be read ({error!r}).") from None
    return found


def _annotations(traced: Trace) -> dict[str, str]:
    """What convert wrote for a model: MD5 by path."""
    return next((link.entry.outs for link in traced.links if link.stage == "convert"), {})


def _out(name: str, md5: str | None, archive: Archive) -> bytes | None:
    """An out of DVC, if it is in the cache or the working tree as it was."""
    root = archive.history.root
    for path in (cache_path(root, md5), root / name) if md5 else ():
        if path.is_file() and files.md5_bytes(content := files.read_bytes(path)) == md5:
            return content
    return None


def _scores(traced: Trace, archive: Archive) -> dict[str, Any] | None:
    """The scores of a model's newest evaluation; None: there is none in the history, or it was changed.

    split, images, objects: what it was scored on. manifest: the git blob of that split's manifest. boxes, masks: by
    name, the score and the ends of its 95 % interval, or None.
    """
    for evaluation in evaluations_of(traced, archive)[:1]:
        at = next(commit for commit, one in archive.evaluations if one == evaluation)
        metrics, intervals = (_json(f"{_EVALUATION}/{name}.json", at, archive) for name in ("metrics", "intervals"))
        split = evaluation["split"]
        size = {key: value for key in ("images", "objects") if type(value := metrics.get(key)) is int}
        if metrics:
            kinds = {"boxes": metrics, "masks": metrics.get("masks")}
            return {"split": split, **size, "manifest": evaluated(evaluation).get(split)} | {
                kind: dict(_figures(told, intervals.get(kind)))
                for kind, told in kinds.items()
                if isinstance(told, dict)
            }
    return None


def _figures(told: Mapping[str, Any], intervals: Any) -> Iterator[tuple[str, Any]]:
    for name in SCORES:
        ends = intervals.get(name) if isinstance(intervals, dict) else None
        whole = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
        score = told.get(name)
        yield name, {"score": score if type(score) in (int, float) else None, "interval": ends if whole else None}


def _json(name: str, commit: Commit, archive: Archive) -> dict[str, Any]:
    """A small JSON file of a commit; nothing where it is not what dvc.lock has there."""
    content = _committed(name, commit, archive)
    try:
        told = files.parse_json(content or b"{}")
        check_values(told, name)
    except (ValueError, UserError):
        return {}
    return told if isinstance(told, dict) else {}


def _committed(name: str, commit: Commit | None, archive: Archive) -> bytes | None:
    """A file of a commit, if it is what dvc.lock has there; None: it is not there or another."""
    if commit is None:
        return None
    history = archive.history
    if commit.id == NOT_COMMITTED:
        path = history.root / name
        content = files.read_bytes(path) if path.is_file() else None
    else:
        ((_, content),) = history.read([f"{commit.id}:./{name}"])
    known = digests_in(history.lock_texts.get(commit.changed.get(LOCK, ""), b""), name)
    return content if content is None or not known or known == {files.md5_bytes(content)} else None
