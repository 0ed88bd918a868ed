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

_NO_DATA = ("digests", "requirements", "rfdetr_core", "stages")  # starts of deps; older locks name the last two

# How the history knows a file, by `Trace.found_by`. Each text completes the line "FILE  found ...".
_FOUND = {
    "bytes": "by its bytes",
    "tensors": "by its weights: they are in the history, in a file with other bytes",
    "training": "by the training that it names, not by its weights",
    "description": "by the description that it carries, not by its bytes",
    "derived": "by the description that it kept: another tool changed its graph",
    "rounded": "by its weights: they are those of the file named below, rounded",
    None: "nowhere: no dvc.lock in this history names it",
}
_WORD_OF_GIT = "authors and dates are copied from git, where a committer can write any author and date"
_CERTAIN = {
    "bytes": "yes: these bytes are in the history",
    "weights": "yes: these weights are in the history, in a file with other bytes",
    "rounded": "yes: each weight equals that of the file named below, or its rounded value",
    "several": "no: several runs produced these weights",
    "contradicted": "no: the file contradicts its record or itself",
    "word": "no: only the file itself says what produced it",
    "nothing": "no: nothing is known about it",
}
_THESE_BYTES = "  (only these bytes were searched; give the image file, to search its pixels too)"
_THESE_PIXELS = (
    "  (these bytes and these pixels were searched; a copy that was resized or saved with loss is another image)"
)
_WITHOUT_PIXELS = "{} older models have no pixel digests: only the bytes of their images were compared"


def certainty(traced: Trace) -> str:
    """How certain it is which run produced a file: a key of _CERTAIN."""
    if traced.contradicted or traced.runs:
        return "contradicted" if traced.contradicted else "several"
    if traced.found_by in ("bytes", "tensors", "rounded"):
        return "weights" if traced.found_by == "tensors" else traced.found_by
    return "word" if traced.lineage or traced.training else "nothing"


def trace_to_dict(traced: Trace, archive: Archive) -> dict[str, Any]:
    """A trace as the JSON answer of `audit FILE --json`."""
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
            {
                "stage": link.stage,
                "commit": _commit_to_dict(link.commit),
                "deps": link.entry.deps,
                "params": link.entry.params,
            }
            for link in traced.links
        ],
        "dataset": [_commit_to_dict(commit) for commit in _dataset_commit(traced, archive)],
        "lineage": traced.lineage,
        "training": traced.training,
        "record": title_of(traced.record) if traced.record else None,
        "runs": [title_of(record) for record in traced.runs],
        "run": (traced.record or {}).get("run"),
        "evaluations": evaluations_of(traced, archive),
        "trained_from_it": list(traced.children),
    }


def format_trace(path: Path, traced: Trace, archive: Archive) -> list[str]:
    """A trace as lines: the file, then each stage that led to it, from the last stage back to the dataset.

    Args:
        path: The file, as the user named it.
        traced: Its trace.
        archive: The history of the project.
    """
    where = (
        "nowhere: there is no git history here" if isinstance(archive.history, NoHistory) else _FOUND[traced.found_by]
    )
    lines = [
        f"{path}  found {where}",
        f"  certain  {_CERTAIN[certainty(traced)]}",
        f"  sha256   {traced.sha256}",
        f"  md5      {traced.md5}",
    ]
    lines += [f"  tensors  {traced.tensors}"] if traced.tensors else []
    lines += [f"  path     {traced.path}"] if traced.path else []
    lines += [f"  note     {note}" for note in traced.notes]
    details = dict(_details(traced, archive))
    if "export" in details and all(link.stage != "export" for link in traced.links):
        lines += ["", f"{'export':12} from the file itself", *details.pop("export")]
    for link in traced.links:
        lines += ["", f"{link.stage:12} {_format_commit(link.commit)}", *details.pop(link.stage, [])]
    for stage, stage_lines in details.items():
        carrier = "from its record" if traced.record else "from the file itself"
        source = EVALUATION if stage == "evaluate" else carrier
        lines += ["", f"{stage:12} {source}", *stage_lines]
    lines += ["", *_dataset_lines(traced, archive)] if traced.links else []
    run = (traced.record or {}).get("run") or {}
    width = max(map(len, run), default=0)
    facts = {key: f"{len(fact)} files (--json)" if isinstance(fact, Mapping) else fact for key, fact in run.items()}
    lines += ["", "run", *(f"  {key:{width}} {fact}" for key, fact in facts.items())] if run else []
    lines += ["", "trained from it", *(f"  tensors {child}" for child in traced.children)] if traced.children else []
    return [*lines, "", _WORD_OF_GIT] if traced.links else lines


def answer_uses(image: str | None, where: Sequence[str], archive: Archive) -> tuple[dict[str, Any], list[str]]:
    """The models that used an image, or any image that meets all conditions: as the JSON answer, and as lines.

    Args:
        image: A file, a path or a SHA-256; None to search by conditions.
        where: Conditions such as KEY=VALUE.
        archive: The history of the project.
    """
    if image is not None:
        sha256 = digest_of(image, archive)
        pixels = pixels_of(image, sha256, archive)
        answer: Answer[Any] = uses_of(Image(sha256, pixels), archive)
        # Versions that were found by their pixels are in the answer already.
        answered = {sha256, *(use.sha256 for use in answer.uses)}
        versions = [version for version in versions_of(image, archive.history) if version.sha256 not in answered]
        other_bytes = [
            {"path": version.path, "sha256": version.sha256, "commit": version.commit.id} for version in versions
        ]
        question: dict[str, Any] = {"sha256": sha256, "pixels": pixels, "other_bytes": other_bytes}
        lines, pronoun = [f"image {sha256}"], "it"
        remarks = [_THESE_PIXELS if pixels else _THESE_BYTES]
        remarks += ["  note: {path} had other bytes in commit {commit}. Search for them, too: audit --image {sha256}"
                    .format_map(version) for version in other_bytes]  # fmt: skip
        older = sum(not has_pixels(record["lineage"]["training"]) for record in archive.runs)
        notes = [_WITHOUT_PIXELS.format(older)] if pixels and older else []
    else:
        selection = Selection(where, archive.history)
        answer = uses_where(selection, archive)
        question = {"where": [vars(condition) for condition in selection.where]}
        lines, pronoun, remarks, notes = [f"images with {selection}"], "them", [], []
    rows = [vars(use) | {"commit": use.commit.id if use.commit else None} for use in answer.uses]
    lines += [line for use in answer.uses for line in _use_lines(use)]
    labels = Counter(use.labels for use in answer.uses if isinstance(use, Use))
    if len(labels) > 1:
        counts = ", ".join(f"{digest} {count}" for digest, count in labels.items())
        notes.append(f"its labels changed between these uses. Number of uses by label digest, newest first: {counts}")
    plain = {"uses": rows, "unknown": answer.unknown, "published": answer.published, "notes": archive.notes + notes}
    lines += [*_unknown_lines(answer, pronoun), *remarks, *(f"  note: {note}" for note in plain["notes"])]
    return question | plain, lines


def _use_lines(use: Use | SelectedUse) -> list[str]:
    image = f"as      {use.path}" if isinstance(use, Use) else f"images  {use.images}"
    if isinstance(use, Use) and use.same == "pixels":
        image += f", the same pixels in other bytes, sha256 {use.sha256}"
    labels = [f"{'':13}labels  {use.labels}"] if isinstance(use, Use) else []
    model = f"tensors {use.tensors}" if use.tensors else f"md5     {use.md5}"
    commit = [f"{'':13}commit  {_format_commit(use.commit)}"] if use.commit else []
    return [f"  {use.role:9}  {model}", *commit, f"{'':13}{image}", *labels, *_ancestor_lines(use.through)]


def _unknown_lines(answer: Answer[Any], pronoun: str) -> list[str]:
    """The models that may also have used the images; a sentence if no model surely used them; a note on parents.

    Args:
        answer: The answer.
        pronoun: How a sentence refers to the images: it (one image) or them (several).
    """
    lines = []
    for row in answer.unknown:
        lines += [f"  unknown    {'tensors' if row['tensors'] else 'md5    '} {row['tensors'] or row['md5']}"]
        reason = row.get("reason") or f"its manifest (git blob {row['manifest']}) was never committed"
        if row["ancestor"]:
            reason = f"no run record here names the training that produced {row['ancestor']}"
        lines += [f"{'':13}perhaps {row['role']} on {pronoun}: {reason}", *_ancestor_lines(row["through"])]
    if not answer.uses:
        other = "other " if answer.unknown else ""
        lines.append(f"  no {other}model in this history was trained, validated or tested on {pronoun}")
    return lines + ([f"  note: models here {note_on_published(answer.published)}"] if answer.published else [])


def _ancestor_lines(through: Sequence[str]) -> Iterator[str]:
    for start, tensors in zip(chain(["through its"], repeat("then through that model's")), through, strict=False):
        yield f"{'':13}{start} parent {tensors}"


def _details(traced: Trace, archive: Archive) -> Iterator[tuple[str, list[str]]]:
    """The lines for each stage, from the file, its lineage and the newest evaluation."""
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
        yield "select_best", [f"  winner     {selection['winner']} by {selection['key']}: {', '.join(tracks)}"]
    params, parents = training["params"], training["parents"]
    result = {"variant": traced.lineage["variant"], "epochs": selection["epochs"]} if traced.lineage else {}
    facts = {
        **result,
        "seed": params.get("train", {}).get("seed"),
        "machine": _format_pairs(training["machine"]),
        "packages": _format_pairs(training["packages"]),
        "weights": "; ".join(f"{key} {parent['name']} sha256 {parent['sha256']}" for key, parent in parents.items())
        or "from scratch",
        "code": f"{len(training['code'])} files; {_count_params(params)} params (--json has them all)",
    }
    if custom := training.get("custom"):
        facts["custom"] = f"chosen by a script: {_format_pairs(flattened(custom))}"
    yield "train", [f"  {key:10} {value}" for key, value in facts.items()]
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


def _format_pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _dataset_digests(traced: Trace) -> dict[str, str]:
    """The MD5 of each path of the dataset: the inputs of validate except for code."""
    deps = next((link.entry.deps for link in traced.links if link.stage == "validate"), {})
    return {path: md5 for path, md5 in deps.items() if not path.startswith(_NO_DATA)}


def _dataset_commit(traced: Trace, archive: Archive) -> list[Commit]:
    """The last commit that changed the dataset, up to the commit of validate's result; empty if there is none.

    A commit counts if it changed a file in the dataset's folder, or the .dvc file of that folder.
    """
    commit = next((link.commit.id for link in traced.links if link.stage == "validate"), None)
    paths = [name for folder in _dataset_digests(traced) for name in (folder, f"{folder}.dvc")]
    query = ("log", "-1", "--format=%H%x00%an%x00%ae%x00%aI%x00%s", "HEAD" if commit == NOT_COMMITTED else commit or "")
    fields = ((commit and git.answer(archive.history.root, *query, "--", *paths)) or "").strip().split("\0")
    return [Commit(fields[0], (), fields[1], fields[2], fields[3], fields[4])] if len(fields) > 1 else []


def _dataset_lines(traced: Trace, archive: Archive) -> list[str]:
    lines = [f"  {path:10} md5 {md5}" for path, md5 in _dataset_digests(traced).items()]
    title = [f"{'dataset':12} {_format_commit(commit)}" for commit in _dataset_commit(traced, archive)] or ["dataset"]
    return [*title, *lines] if lines else []


def _commit_to_dict(commit: Commit) -> dict[str, str]:
    return {
        "id": commit.id,
        "author": commit.author,
        "email": commit.email,
        "date": commit.date,
        "subject": commit.subject,
    }


def _format_commit(commit: Commit) -> str:
    if commit.id == NOT_COMMITTED:
        return commit.subject
    return f"{commit.id}  {commit.date}  {commit.author} <{commit.email}>  {commit.subject}"


def _count_params(params: Mapping[str, Any]) -> int:
    return sum(_count_params(value) if isinstance(value, Mapping) else 1 for value in params.values())
