"""Audit answers as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from rfdetr_core.audit.exported import exported_lines, plain_description
from rfdetr_core.audit.history import EVALUATION, NOT_COMMITTED, Commit, NoHistory
from rfdetr_core.audit.images import digest_of, evaluations_of, note_on_published, pixels_of
from rfdetr_core.audit.metadata import Selection
from rfdetr_core.audit.paths import versions_of
from rfdetr_core.audit.proofs import has_pixels
from rfdetr_core.audit.selected import SelectedUse, uses_where
from rfdetr_core.audit.trace import Archive, Trace, title_of
from rfdetr_core.audit.uses import Answer, Image, Use, uses_of
from rfdetr_core.base import git
from rfdetr_core.base.provenance import flattened

_NO_DATA = ("digests", "requirements", "rfdetr_core", "stages")  # beginnings of deps; the last two of older locks


_FOUND = {
    "bytes": "by its bytes",
    "tensors": "by its weights: the file itself was renamed, copied or saved again",
    "training": "by the training that it names, and not by its weights",
    "description": "by the description that it carries, and not by its bytes",
    "derived": "by the description that it kept: another tool changed its graph",
    "rounded": "by its weights, which are those of the named file, rounded",
    None: "in no dvc.lock of this history",
}
_WORD_OF_GIT = "authors and dates are what git says: whoever commits can write any"
_CERTAIN = {
    "bytes": "yes: the history has these bytes",
    "weights": "yes: the history has these weights, in a file of other bytes",
    "rounded": "yes: each weight was compared, and is that of the named file or rounded from it",
    "several": "no: several runs made these weights",
    "contradicted": "no: what the file says is contradicted",
    "word": "no: what made it is the file's own word",
    "nothing": "no: nothing is known of it",
}
_THESE_BYTES = "  (these bytes only: give the file, to find its pixels in other bytes as well)"
_THESE_PIXELS = "  (these bytes, and files of the same pixels; saved again with loss or resized, it is another image)"
_WITHOUT_PIXELS = "{} models are older than digests of pixels: of their images only the bytes were compared"


def certainty(traced: Trace) -> str:
    """How sure it is which file this is: a key of _CERTAIN."""
    if traced.contradicted or traced.runs:
        return "contradicted" if traced.contradicted else "several"
    if traced.found_by in ("bytes", "tensors", "rounded"):
        return "weights" if traced.found_by == "tensors" else traced.found_by
    return "word" if traced.lineage or traced.training else "nothing"


def trace_to_dict(traced: Trace, archive: Archive) -> dict[str, Any]:
    """A trace as plain values."""
    return {
        "sha256": traced.sha256,
        "md5": traced.md5,
        "tensors": traced.tensors,
        "found_by": traced.found_by,
        "certainty": certainty(traced),
        "path": traced.path,
        "exported": plain_description(traced.exported) if traced.exported else None,
        "notes": traced.notes,
        "chain": [
            {"stage": link.stage, "commit": _commit(link.commit), "deps": link.entry.deps, "params": link.entry.params}
            for link in traced.links
        ],
        "dataset": [_commit(commit) for commit in _dataset(traced, archive)],
        "lineage": traced.lineage,
        "training": traced.training,
        "record": title_of(traced.record) if traced.record else None,
        "runs": [title_of(record) for record in traced.runs],
        "run": (traced.record or {}).get("run"),
        "evaluations": evaluations_of(traced, archive),
        "trained_from_it": list(traced.children),
    }


def format_trace(path: Path, traced: Trace, archive: Archive) -> list[str]:
    """A trace as lines: the file, then each stage that led to it, from the last to the dataset."""
    where = "nowhere: there is no history here" if isinstance(archive.history, NoHistory) else _FOUND[traced.found_by]
    lines = [
        f"{path}  found {where}",
        f"  certain  {_CERTAIN[certainty(traced)]}",
        f"  sha256   {traced.sha256}",
        f"  md5      {traced.md5}",
    ]
    lines += [f"  tensors  {traced.tensors}"] if traced.tensors else []
    lines += [f"  is       {traced.path}"] if traced.path else []
    lines += [f"  note     {note}" for note in traced.notes]
    details = dict(_details(traced, archive))
    if "export" in details and all(link.stage != "export" for link in traced.links):
        lines += ["", f"{'export':12} as the file itself says", *details.pop("export")]
    for link in traced.links:
        lines += ["", f"{link.stage:12} {_who(link.commit)}", *details.pop(link.stage, [])]
    for stage, told_of in details.items():
        speaker = "as its record says" if traced.record else "as the file itself says"
        source = EVALUATION if stage == "evaluate" else speaker
        lines += ["", f"{stage:12} {source}", *told_of]
    lines += ["", *_dataset_lines(traced, archive)] if traced.links else []
    run = (traced.record or {}).get("run") or {}
    width = max(map(len, run), default=0)
    values = {
        key: f"{len(content)} files (--json)" if isinstance(content, Mapping) else content
        for key, content in run.items()
    }
    lines += ["", "run", *(f"  {key:{width}} {value}" for key, value in values.items())] if run else []
    lines += ["", "trained from it", *(f"  tensors {child}" for child in traced.children)] if traced.children else []
    return [*lines, "", _WORD_OF_GIT] if traced.links else lines


def answer_uses(image: str | None, where: Sequence[str], archive: Archive) -> tuple[dict[str, Any], list[str]]:
    """The models that an image went into, or that saw an image for which all conditions hold: as plain values, and as
    lines.

    image: a file, a path or a SHA-256. where: conditions, each KEY=VALUE.
    """
    if image is not None:
        sha256 = digest_of(image, archive)
        pixels = pixels_of(image, sha256, archive)
        answer: Answer[Any] = uses_of(Image(sha256, pixels), archive)
        # Bytes that were found by their pixels are in the answer.
        answered = {sha256, *(use.sha256 for use in answer.uses)}
        others = [version for version in versions_of(image, archive.history) if version.sha256 not in answered]
        asked: dict[str, Any] = {
            "sha256": sha256,
            "pixels": pixels,
            "other_bytes": [
                {"path": version.path, "sha256": version.sha256, "commit": version.commit.id} for version in others
            ],
        }
        replaced = [f"  note: {version.path} had other bytes, as in commit {version.commit.id}: audit --image {version.sha256}"
                for version in others]  # fmt: skip
        lines, subject, end = [f"image {sha256}"], "it", [_THESE_PIXELS if pixels else _THESE_BYTES, *replaced]
        older = sum(not has_pixels(record["lineage"]["training"]) for record in archive.runs)
        notes = [_WITHOUT_PIXELS.format(older)] if pixels and older else []
    else:
        selection = Selection(where, archive.history)
        answer = uses_where(selection, archive)
        asked = {"where": [vars(condition) for condition in selection.where]}
        lines, subject, end = [f"images with {selection}"], "them", []
        notes = []
    rows = [vars(use) | {"commit": use.commit.id if use.commit else None} for use in answer.uses]
    for one in answer.uses:
        lines += _use(one)
    labels = Counter(use.labels for use in answer.uses if isinstance(use, Use))
    if len(labels) > 1:
        counts = ", ".join(f"{digest} in {count}" for digest, count in labels.items())
        notes.append(f"its labels were changed between these uses; the newest first: {counts}")
    plain = {"uses": rows, "unknown": answer.unknown, "published": answer.published, "notes": archive.notes + notes}
    return asked | plain, [*lines, *_rest(answer, subject), *end, *(f"  note: {note}" for note in plain["notes"])]


def _use(use: Use | SelectedUse) -> list[str]:
    detail = f"as      {use.path}" if isinstance(use, Use) else f"images  {use.images}"
    if isinstance(use, Use) and use.same == "pixels":
        detail += f", the same pixels in other bytes, sha256 {use.sha256}"
    labels = [f"{'':13}labels  {use.labels}"] if isinstance(use, Use) else []
    name = f"tensors {use.tensors}" if use.tensors else f"md5     {use.md5}"
    commit = [f"{'':13}commit  {_who(use.commit)}"] if use.commit else []
    return [f"  {use.role:9}  {name}", *commit, f"{'':13}{detail}", *labels, *_through(use.through)]


def _rest(answer: Answer[Any], subject: str) -> list[str]:
    """What is not known, and that there is nothing."""
    lines = []
    for row in answer.unknown:
        lines += [f"  unknown    {'tensors' if row['tensors'] else 'md5    '} {row['tensors'] or row['md5']}"]
        reason = row.get("reason") or f"the manifest, git blob {row['manifest']}, was never committed"
        if row["ancestor"]:
            reason = f"no record here knows what made {row['ancestor']}"
        lines += [f"{'':13}perhaps {row['role']} on {subject}: {reason}", *_through(row["through"])]
    if not answer.uses:
        other = "other " if answer.unknown else ""
        lines.append(f"  no {other}model of this repository's history was trained, validated or tested on {subject}")
    return lines + ([f"  note: models here {note_on_published(answer.published)}"] if answer.published else [])


def _through(ancestors: Sequence[str]) -> Iterator[str]:
    for whose, tensors in zip(chain(["its"], repeat("and that one's")), ancestors, strict=False):
        yield f"{'':13}through {whose} parent {tensors}"


def _details(traced: Trace, archive: Archive) -> Iterator[tuple[str, list[str]]]:
    """By stage, what the file, its lineage and the newest evaluation say."""
    if traced.exported is not None:
        yield "export", exported_lines(traced.exported)
    for evaluation in evaluations_of(traced, archive)[:1]:
        manifest = f"manifest/{evaluation['split']}.json"
        yield (
            "evaluate",
            [f"  {evaluation['split']:10} {manifest} sha256 {evaluation['inputs'].get(manifest, {}).get('sha256')}"],
        )
    training = traced.training
    if training is None:
        return
    if traced.lineage is not None:
        selection = traced.lineage["selection"]
        tracks = [f"{key} {selection[key]['score']} (epoch {selection[key]['epoch']})" for key in ("ema", "regular")]
        yield "strip", [f"  code       {len(traced.lineage['code'])} files"]
        yield "select_best", [f"  chosen     {selection['winner']} by {selection['key']}: {', '.join(tracks)}"]
    params, parents = training["params"], training["parents"]
    made = {"variant": traced.lineage["variant"], "epochs": selection["epochs"]} if traced.lineage else {}
    shown = {
        **made,
        "seed": params.get("train", {}).get("seed"),
        "machine": _pairs(training["machine"]),
        "packages": _pairs(training["packages"]),
        "weights": "; ".join(f"{key} {parent['name']} sha256 {parent['sha256']}" for key, parent in parents.items())
        or "from scratch",
        "code": f"{len(training['code'])} files; {_count(params)} params (--json has them all)",
    }
    if custom := training.get("custom"):
        shown["custom"] = f"a script chose: {_pairs(flattened(custom))}"
    yield "train", [f"  {key:10} {value}" for key, value in shown.items()]
    inputs, counts = training["inputs"], training["counts"]
    yield "convert", [f"  {name} sha256 {digest}" for name, digest in inputs.items() if name.startswith("annotations/")]
    yield (
        "validate",
        [
            f"  {split:10} {count['images']} images, {count['objects']} objects, "
            f"manifest/{split}.json sha256 {inputs.get(f'manifest/{split}.json')}"
            for split, count in counts.items()
        ],
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _data_of(traced: Trace) -> dict[str, str]:
    """What validate read beside code, with its MD5: the dataset."""
    deps = next((link.entry.deps for link in traced.links if link.stage == "validate"), {})
    return {path: md5 for path, md5 in deps.items() if not path.startswith(_NO_DATA)}


def _dataset(traced: Trace, archive: Archive) -> list[Commit]:
    """The commit that last changed the dataset before the model was committed: of the folder, or of its .dvc file."""
    commit = next((link.commit.id for link in traced.links if link.stage == "validate"), None)
    paths = [name for folder in _data_of(traced) for name in (folder, f"{folder}.dvc")]
    asked = ("log", "-1", "--format=%H%x00%an%x00%ae%x00%aI%x00%s", "HEAD" if commit == NOT_COMMITTED else commit or "")
    fields = ((commit and git.answer(archive.history.root, *asked, "--", *paths)) or "").strip().split("\0")
    return [Commit(fields[0], (), fields[1], fields[2], fields[3], fields[4])] if len(fields) > 1 else []


def _dataset_lines(traced: Trace, archive: Archive) -> list[str]:
    lines = [f"  {path:10} md5 {md5}" for path, md5 in _data_of(traced).items()]
    who = [f"{'dataset':12} {_who(commit)}" for commit in _dataset(traced, archive)] or ["dataset"]
    return [*who, *lines] if lines else []


def _commit(commit: Commit) -> dict[str, str]:
    return {
        "id": commit.id,
        "author": commit.author,
        "email": commit.email,
        "date": commit.date,
        "subject": commit.subject,
    }


def _who(commit: Commit) -> str:
    if commit.id == NOT_COMMITTED:
        return commit.subject
    return f"{commit.id}  {commit.date}  {commit.author} <{commit.email}>  {commit.subject}"


def _count(params: Mapping[str, Any]) -> int:
    return sum(_count(value) if isinstance(value, Mapping) else 1 for value in params.values())
