"""Sections of Markdown about the model, its data and its scores, shared by the model card and Annex IV.

Every value that comes from a file is formatted as code, so the name of a class or image cannot forge a row or a link.
Sections about the training are in `training_tables`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rfdetr_core.base.errors import listed
from rfdetr_core.base.markdown import MOST as MOST_CHARACTERS
from rfdetr_core.base.markdown import code, row
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.files import MODEL_FIELDS
from rfdetr_core.documents.facts import ASKED, MOST, PROVIDER, Facts
from rfdetr_core.documents.limits import limits as known_limits

NOT_KNOWN = "not known"
TO_FILL = f"**{PROVIDER}:**"
# Matches a word that must be written as code: it has a character of Markdown, or a dot inside. GitHub would make a
# link of www.example.org.
_MARKUP = re.compile(r"[^\s,;:]*(?:[`|\\<>&*_\[\]!@#/~^$]|\w\.\w)[^\s,;:]*(?<!\.)")
_NO_ADDRESS = f"{NOT_KNOWN}: there is no public address of the git remote `origin`"
_NOT_DEFINED = "`-`: the score is not defined, for example because there are no objects or no detections."
# The trees over the images of a split, as in `base.manifest`, each with the content of its leaves.
_TREES = {
    "images": "the digest of the image file",
    "labelled": "the digest of the image file and the digest of its labels",
    "pixels": "the digest of the decoded image",
}
METRICS = {
    "map": "AP, IoU 0.50 to 0.95",
    "map_50": "AP50",
    "map_75": "AP75",
    "map_small": "AP, small objects (below 32² pixels)",
    "map_medium": "AP, medium objects",
    "map_large": "AP, large objects (96² pixels and more)",
    "mar_100": "AR, 100 detections an image",
    "precision": "precision at the threshold",
    "recall": "recall at the threshold",
    "f1": "F1 at the threshold",
    "threshold": "score threshold",
}
PER_CLASS = {"ap": "AP", "ap_50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}
PER_SLICE = {"map": "AP", "map_50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}


def request_to_provider(request: str) -> str:
    """A paragraph that asks the provider of the model to fill something in."""
    return f"> {TO_FILL} {request}"


def join_paragraphs(*parts: str) -> str:
    """Join paragraphs; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; NOT_KNOWN if it has no row."""
    lines = [row(*cells) for cells in rows]
    return "\n".join([row(*head), row(*["---"] * len(head)), *lines]) if lines else f"{NOT_KNOWN.capitalize()}."


def bullets(sentences: Iterable[str]) -> str:
    """A Markdown list. Names from files must already be formatted as code."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def identity(facts: Facts) -> str:
    """A table that identifies the model file, its commit and its run record."""
    tensors = facts.lineage["tensors"]
    commit = code(facts.commit.id) if facts.commit else f"no known commit (source: {facts.confirmed_by})"
    rows = [
        ("model", code(facts.lineage["variant"] or "unnamed")),
        *((f"file {code(name)}, SHA-256", code(digest)) for name, digest in facts.digests.items()),
        ("weights only, SHA-256 (`tensors` in the lineage)", code(tensors)),
        ("commit", commit),
        ("repository", code(facts.address) if facts.address else _NO_ADDRESS),
        ("run record", code(facts.record) if facts.record else "not found: the facts come from the model file"),
    ]
    if facts.exported is not None:
        about = facts.exported.description
        rows += [
            ("format", code(f"{facts.exported.format}, {about.precision}")),
            ("exported from the file with SHA-256", code(about.source)),
        ]
    return table(("what", "value"), rows)


def architecture(facts: Facts) -> str:
    """The configuration of the network under upstream's names, and its number of parameters."""
    config = facts.checkpoint.model_config
    rows = [(code(key), format_value(config[key])) for key in ("encoder", *MODEL_FIELDS) if key in config]
    weights = facts.checkpoint.weights
    if weights:
        rows.append(("parameters", f"{sum(tensor.numel() for tensor in weights.values()):,}"))
    return table(("property", "value"), rows)


def splits(facts: Facts) -> str:
    """The splits: their use, and the digests of their files."""
    rows = [
        (code(split.name), ", ".join(split.uses), format_count(split.images), format_count(split.objects))
        for split in facts.splits.values()
    ]
    digests = [
        (code(name), code(digest))
        for name, digest in {n: d for split in facts.splits.values() for n, d in split.digests.items()}.items()
    ]
    trees = [
        (code(split.name), code(tree), format_count(root["size"]), code(root["root"]))
        for split in facts.splits.values()
        for tree, root in split.roots.items()
    ]
    parts = [
        table(("split", "used for", "images", "objects"), rows),
        "The manifest of a split lists each image with its SHA-256. The annotations have COCO's format.",
        table(("file", "SHA-256"), digests),
    ]
    if trees:
        parts.append(
            "The splits of the training have Merkle trees over their images. The root of a tree is a digest of all its "
            "leaves. With the root, a proof can show that an image is in the split, or that it is not in the split. "
            "Each image has one leaf in each tree. Images whose leaves have the same content share one leaf. The trees:"
        )
        parts.append(table(("tree", "content of a leaf"), ((code(tree), content) for tree, content in _TREES.items())))
        parts.append(table(("split", "tree", "leaves", "root"), trees))
    return "\n\n".join(parts)


def classes(facts: Facts) -> str:
    """Objects by class and split."""
    names = list(facts.splits)
    rows = [
        (code(name), *(format_count((split.classes or {}).get(name)) for split in facts.splits.values()))
        for name in facts.class_names
    ]
    return table(("class", *(f"objects in {name}" for name in names)), rows)


def metadata(facts: Facts) -> str:
    """The metadata of the images by column, the most frequent values first.

    If images have no licence or source, a request to the provider is added.
    """
    rows = []
    for split in facts.splits.values():
        columns = {name for values in (split.metadata or {}).values() for name in values}
        for column in sorted({*columns, *ASKED}):
            counts = list(split.values(column).items())
            rows += [
                (code(split.name), code(column), long_code(value), format_count(number))
                for value, number in counts[:MOST]
            ]
            if (left := len(counts) - MOST) > 0:
                images = sum(number for _, number in counts[MOST:])
                rows.append((code(split.name), code(column), f"{left} other values", format_count(images)))
            if lacking := split.without(column):
                missing = NOT_KNOWN if split.metadata is None else "no value"
                rows.append((code(split.name), code(column), missing, format_count(lacking)))
    return join_paragraphs(table(("split", "column", "value", "images"), rows), *_requests_to_provider(facts)).strip()


def _requests_to_provider(facts: Facts) -> Iterator[str]:
    for column in ASKED:
        names = [split.name for split in facts.splits.values() if split.without(column)]
        unread = [split.name for split in facts.splits.values() if split.metadata is None]
        if names:
            why = f" `metadata/` could not be read for {listed(map(code, unread))}." if unread else ""
            yield request_to_provider(
                f"the {column} of each image in {listed(map(code, names))} that has no {column} in `metadata/`.{why}"
            )


def scores(facts: Facts) -> str:
    """The scores of the scored split, each with its interval."""
    evaluation = facts.evaluation
    if evaluation is None:
        notes = "; ".join(code_names(without_stop(note)) for note in facts.notes)
        return f"{NOT_KNOWN.capitalize()}: {notes or 'there is no local evaluation'}."
    rows = []
    for kind, metrics in evaluation.kinds.items():
        ends = evaluation.intervals.get(kind, {})
        rows += [
            (kind, title, _score(metrics[name]), _interval(ends.get(name)))
            for name, title in METRICS.items()
            if name in metrics
        ]
    text = (
        f"The scores were measured with pycocotools on {evaluation.metrics['images']:,} images of the split "
        f"{code(evaluation.split)} with {evaluation.metrics['objects']:,} objects. Each score is the mean over the "
        "classes that have objects. Precision, recall and F1 are at IoU 0.50 and at the score threshold with the "
        "highest F1."
    )
    if evaluation.resamples:
        text += (
            f" The 95 % intervals come from {evaluation.resamples:,} bootstrap samples of the images, computed with "
            "hotcoco."
        )
    text += " `-`: the score is not defined, for example because no object has this size; or no interval was computed."
    return f"{text}\n\n" + table(("kind", "metric", "value", "95 % interval"), rows)


def exported_scores(facts: Facts) -> str:
    """The measured differences between an exported file and its source checkpoint."""
    if facts.exported is None:
        return ""
    parity = facts.exported.description.parity
    rows = [(code(key), format_value(value)) for key, value in flattened(parity).items()]
    above = "The scores above are of the checkpoint. " if facts.evaluation else ""
    return f"{above}When the file was exported, it was compared with the checkpoint:\n\n" + table(
        ("what", "value"), rows
    )


def per_class(facts: Facts) -> str:
    """Scores of each class."""
    rows, evaluation = [], facts.evaluation
    for kind in evaluation.kinds if evaluation else ():
        prefix = "mask_" if kind == "masks" else ""
        for class_row in evaluation.classes if evaluation else ():
            values = (_score(class_row.get(f"{prefix}{name}")) for name in PER_CLASS)
            rows.append((kind, code(class_row["class"]), format_count(class_row["instances"]), *values))
    text = (
        "Scores of each class, computed with pycocotools. Precision, recall and F1 are at IoU 0.50 and at the score "
        f"threshold that is best for all classes together. {_NOT_DEFINED}\n\n"
    )
    return (text if rows else "") + table(("kind", "class", "objects", *PER_CLASS.values()), rows)


def slices(facts: Facts) -> str:
    """Scores of slices of the split."""
    rows = [
        (
            *(
                kind,
                code(part["slice"]),
                code(part["value"]),
                format_count(part["images"]),
                format_count(part["objects"]),
            ),
            *(_score(part[name]) for name in PER_SLICE),
        )
        for kind, parts in (facts.evaluation.slices if facts.evaluation else {}).items()
        for part in parts
    ]
    evaluation = facts.evaluation
    used_thresholds = " and ".join(
        f"{_score(threshold)} ({kind})" for kind, threshold in (evaluation.slices_at if evaluation else {}).items()
    )
    text = (
        "Scores of parts of the split, computed with hotcoco. A part is a group of images or of objects; the column "
        "`grouped by` names the property that divides the split into parts. Precision, recall and F1 are at IoU 0.50 "
        f"and at the score threshold {used_thresholds}. They count the objects of all classes together. The scores of "
        "the whole split are means over classes. So the two can differ. `size, COCO's` uses COCO's limits of size. "
        "`size, quarters of this split` divides the objects into four parts, from the smallest to the largest. An "
        f"object of the shape `neither` is not tall and not wide. {_NOT_DEFINED}\n\n"
    )
    return (text if rows else "") + table(
        ("kind", "grouped by", "part", "images", "objects", *PER_SLICE.values()), rows
    )


def limits(facts: Facts) -> str:
    """The known limits of the model, and a note for each input that was not used."""
    notes = (f"{without_stop(note)}." for note in facts.notes)
    return bullets(map(code_names, [*known_limits(facts), *notes]))


def thresholds(facts: Facts) -> str:
    """The recommended score thresholds, for all classes and for each class."""
    recommended = facts.evaluation.thresholds if facts.evaluation else None
    if recommended is None:
        return table((), ())
    target = (
        "the best F1" if recommended.target is None else " ".join(f"{k} {v}" for k, v in recommended.target.items())
    )
    points = {"all classes": recommended.all} | {code(name): point for name, point in recommended.classes.items()}
    rows = [
        (name, _score(point.threshold), _score(point.precision), _score(point.recall), _score(point.f1))
        for name, point in points.items()
    ]
    lead = (
        f"These score thresholds were chosen for {target} of {recommended.of} on the split {code(recommended.split)}."
    )
    return f"{lead}\n\n" + table(("class", "threshold", "precision", "recall", "F1"), rows)


def code_names(sentence: str) -> str:
    """A sentence on one line; words that Markdown could read as markup are formatted as code."""
    return _MARKUP.sub(lambda match: code(match[0]), " ".join(sentence.split()))


def long_code(text: str) -> str:
    """A long text as code, in several pieces, because `code` cuts long texts: a licence must be complete."""
    pieces = (text[start : start + MOST_CHARACTERS] for start in range(0, len(text), MOST_CHARACTERS))
    return " ".join(code(piece) for piece in pieces)


def format_value(value: Any) -> str:
    """A value as in params.yaml."""
    return code(json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, bool | list) else value)


def without_stop(text: str) -> str:
    """Remove the full stop, so that the sentence can be continued."""
    return text.removesuffix(".")


def format_count(value: Any) -> str:
    """Format a number of images or objects; "-" if it is not known."""
    return "-" if value is None else f"{int(value):,}"


def _score(value: Any) -> str:
    return "-" if value is None else f"{float(value):.4f}"


def _interval(ends: Sequence[float | None] | None) -> str:
    return f"{_score(ends[0])} to {_score(ends[1])}" if ends else "-"
