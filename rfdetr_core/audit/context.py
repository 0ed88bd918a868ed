"""Facts about two models for the review of a change: classes and sources of changed images, scores, commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rfdetr_core.audit.history import NOT_COMMITTED, Commit, cache_path
from rfdetr_core.audit.images import commit_of_file, evaluation_manifests, evaluations_of
from rfdetr_core.audit.metadata import digests_in
from rfdetr_core.audit.trace import Archive, Trace
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
    """Facts about the difference of two models, the earlier model first.

    Keys of the result:
        commits: The ids of the commits that added the models; None if a commit is not known.
        scores: The scores of each model (see `_scores`).
        sources: By kind of change and value of the column `source`: the number of images.
        classes: By kind of change and class: the number of objects in these images, before and after.
        notes: Why one of these facts is not known.

    Args:
        traces: The two models.
        images: Their images that differ; empty if the images were not compared.
        archive: The history of the project.
    """
    notes: list[str] = []
    commits = [commit_of_file(traced, archive) for traced in traces]
    sources = [_sources(traced, commit, archive) for traced, commit in zip(traces, commits, strict=True)]
    objects: list[dict[str, Counter[str]] | None] = []
    for traced in traces if images else ():
        try:
            objects.append(_objects(traced, archive))
        except UserError as error:
            notes.append(str(error))
            objects.append(None)
    counted = [counts for counts in objects if counts is not None]
    return {
        "commits": [commit.id if commit else None for commit in commits],
        "scores": [_scores(traced, archive) for traced in traces],
        "sources": {kind: dict(_by_source(kind, rows, sources)) for kind, rows in images.items()}
        if any(sources)
        else {},
        "classes": {kind: _by_class(kind, rows, counted) for kind, rows in images.items()} if len(counted) == 2 else {},
        "notes": notes,
    }


def _by_source(kind: str, rows: Sequence[dict[str, Any]], sources: Sequence[Mapping[str, str]]) -> Counter[str]:
    """The number of images by source. A removed image counts with the source that it had before."""
    source_by_path = sources[0 if kind == "removed" else 1]
    return Counter(sorted(source_by_path.get(row["path"], "") for row in rows))


def _by_class(
    kind: str, rows: Sequence[dict[str, Any]], objects: Sequence[Mapping[str, Counter[str]]]
) -> dict[str, list[int]]:
    paths = [[row["was"] if kind == "renamed" else row["path"] for row in rows], [row["path"] for row in rows]]
    counts = [
        sum((by_path.get(path, Counter()) for path in side), Counter())
        for by_path, side in zip(objects, paths, strict=True)
    ]
    return {name: [side[name] for side in counts] for name in sorted(counts[0] | counts[1])}


def _sources(traced: Trace, commit: Commit | None, archive: Archive) -> dict[str, str]:
    """The source of each image when the model was committed. Images without a source are absent."""
    sources: dict[str, str] = {}
    for split in SPLITS:
        content = _read_committed(f"metadata/{split}.csv", commit, archive)
        if content is not None:
            rows = parse_metadata(content, f"metadata/{split}.csv of {traced.file}")
            sources |= {path: row["source"] for path, row in rows.items() if "source" in row}
    return sources


def _objects(traced: Trace, archive: Archive) -> dict[str, Counter[str]]:
    """The number of objects of each class in each image, from the annotations that the model was trained on.

    Raises:
        UserError: The annotations are not in DVC's cache here.
    """
    outs = _annotation_digests(traced)
    counts: dict[str, Counter[str]] = {}
    for split in SPLITS:
        name = f"annotations/{split}.json"
        content = _read_out(name, outs.get(name), archive)
        if content is None:
            raise UserError(
                f"objects are not counted by class, since {name} of {traced.file} is not in DVC's cache here. "
                "Fetch it: dvc fetch --all-commits"
            )
        try:
            dataset = files.parse_json(content)
            names = {category["id"]: str(category["name"]) for category in dataset["categories"]}
            paths = {image["id"]: image["file_name"] for image in dataset["images"]}
            for annotation in dataset["annotations"]:
                counts.setdefault(paths[annotation["image_id"]], Counter())[names[annotation["category_id"]]] += 1
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name} of {traced.file} cannot be read ({error!r}).") from None
    return counts


def _annotation_digests(traced: Trace) -> dict[str, str]:
    """The MD5 of each file that convert wrote for a model, by path."""
    return next((link.entry.outs for link in traced.links if link.stage == "convert"), {})


def _read_out(name: str, md5: str | None, archive: Archive) -> bytes | None:
    """An out of DVC with this MD5, from the cache or the working tree; None if neither has it."""
    root = archive.history.root
    for path in (cache_path(root, md5), root / name) if md5 else ():
        if path.is_file() and files.md5_bytes(content := files.read_bytes(path)) == md5:
            return content
    return None


def _scores(traced: Trace, archive: Archive) -> dict[str, Any] | None:
    """The scores of a model's newest evaluation; None if the history has none, or if its files were changed.

    Keys of the result:
        split, images, objects: The split that was scored, and how many images and objects it has.
        manifest: The git blob of that split's manifest.
        boxes, masks: By metric: the score, and the two ends of its 95 % interval or None.
    """
    for evaluation in evaluations_of(traced, archive)[:1]:
        commit = next(commit for commit, lineage in archive.evaluations if lineage == evaluation)
        metrics, intervals = (_json(f"{_EVALUATION}/{name}.json", commit, archive) for name in ("metrics", "intervals"))
        split = evaluation["split"]
        size = {key: value for key in ("images", "objects") if type(value := metrics.get(key)) is int}
        if metrics:
            kinds = {"boxes": metrics, "masks": metrics.get("masks")}
            return {"split": split, **size, "manifest": evaluation_manifests(evaluation).get(split)} | {
                kind: dict(_scores_with_intervals(scores, intervals.get(kind)))
                for kind, scores in kinds.items()
                if isinstance(scores, dict)
            }
    return None


def _scores_with_intervals(scores: Mapping[str, Any], intervals: Any) -> Iterator[tuple[str, Any]]:
    for name in SCORES:
        ends = intervals.get(name) if isinstance(intervals, dict) else None
        valid = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
        score = scores.get(name)
        yield name, {"score": score if type(score) in (int, float) else None, "interval": ends if valid else None}


def _json(name: str, commit: Commit, archive: Archive) -> dict[str, Any]:
    """A small JSON file of a commit; empty if it is missing, damaged, or not the one that dvc.lock names."""
    content = _read_committed(name, commit, archive)
    try:
        values = files.parse_json(content or b"{}")
        check_values(values, name)
    except (ValueError, UserError):
        return {}
    return values if isinstance(values, dict) else {}


def _read_committed(name: str, commit: Commit | None, archive: Archive) -> bytes | None:
    """A file of a commit; None if it is missing, or if it is not the one that the commit's dvc.lock names."""
    if commit is None:
        return None
    history = archive.history
    if commit.id == NOT_COMMITTED:
        path = history.root / name
        content = files.read_bytes(path) if path.is_file() else None
    else:
        ((_, content),) = history.read([f"{commit.id}:./{name}"])
    in_lock = digests_in(history.lock_texts.get(commit.changed.get(LOCK, ""), b""), name)
    return content if content is None or not in_lock or in_lock == {files.md5_bytes(content)} else None
