"""The facts of a model as sections of Markdown, for the documents that people read.

Every value that comes from a file is set as code: no name of a class or an image forges a row or a link.
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

NOT_KNOWN = "not known from the record"
TO_FILL = f"**{PROVIDER}:**"
# A dot within a word, too: GitHub makes a link of www.example.org.
_MARKUP = re.compile(r"[^\s,;:]*(?:[`|\\<>&*_\[\]!@#/~^$]|\w\.\w)[^\s,;:]*(?<!\.)")
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
    "threshold": "threshold of the score",
}
PER_CLASS = {"ap": "AP", "ap_50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}
PER_SLICE = {"map": "AP", "map_50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}


def to_fill(what: str) -> str:
    """A paragraph that marks what only the provider of the model can say."""
    return f"> {TO_FILL} {what}"


def joined(*parts: str) -> str:
    """Paragraphs as the text of a document; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; NOT_KNOWN where it has no row."""
    lines = [row(*cells) for cells in rows]
    return "\n".join([row(*head), row(*["---"] * len(head)), *lines]) if lines else f"{NOT_KNOWN.capitalize()}."


def bullets(sentences: Iterable[str]) -> str:
    """A list of sentences of our own, whose names out of files were set as code before."""
    return "\n".join(f"- {one}" for one in sentences)


def identity(facts: Facts) -> str:
    """Which file the document is about, and where its making is recorded."""
    tensors = facts.lineage["tensors"]
    commit = code(facts.commit.id) if facts.commit else f"{NOT_KNOWN} (vouched for by {facts.confirmed_by})"
    rows = [
        ("model", code(facts.lineage["variant"] or "unnamed")),
        *((f"file {code(name)}, SHA-256", code(digest)) for name, digest in facts.digests.items()),
        ("weights, SHA-256 of their tensors", code(tensors)),
        ("commit", commit),
        ("repository", code(facts.address) if facts.address else NOT_KNOWN),
        ("record", code(facts.record) if facts.record else "the file itself"),
    ]
    if facts.exported is not None:
        about = facts.exported.description
        rows += [
            ("format", code(f"{facts.exported.format}, {about.precision}")),
            ("exported from the file with SHA-256", code(about.source)),
        ]
    return table(("what", "value"), rows)


def architecture(facts: Facts) -> str:
    """The numbers that shape the network, under upstream's names, and how many parameters it has."""
    config = facts.checkpoint.model_config
    rows = [(code(key), shown(config[key])) for key in ("encoder", *MODEL_FIELDS) if key in config]
    weights = facts.checkpoint.weights
    if weights:
        rows.append(("parameters", f"{sum(tensor.numel() for tensor in weights.values()):,}"))
    return table(("property", "value"), rows)


def splits(facts: Facts) -> str:
    """The splits, what each was used for, and the digests by which its files are known."""
    rows = [
        (code(split.name), ", ".join(split.uses), counted(split.images), counted(split.objects))
        for split in facts.splits.values()
    ]
    digests = [
        (code(name), code(digest))
        for name, digest in {n: d for split in facts.splits.values() for n, d in split.digests.items()}.items()
    ]
    trees = [
        (code(split.name), code(tree), counted(one["size"]), code(one["root"]))
        for split in facts.splits.values()
        for tree, one in split.roots.items()
    ]
    parts = [
        table(("split", "used for", "images", "objects"), rows),
        "The manifest of a split lists each image with its SHA-256; the annotations are in COCO's form.",
        table(("file", "SHA-256"), digests),
    ]
    if trees:
        parts.append(
            "Merkle roots over the images of a split, with which it can be proved of one image that "
            "it is in the split, or that it is not:"
        )
        parts.append(table(("split", "tree", "images", "root"), trees))
    return "\n\n".join(parts)


def classes(facts: Facts) -> str:
    """Objects by class and split."""
    names = list(facts.splits)
    rows = [
        (code(name), *(counted((split.classes or {}).get(name)) for split in facts.splits.values()))
        for name in facts.class_names
    ]
    return table(("class", *(f"objects in {name}" for name in names)), rows)


def metadata(facts: Facts) -> str:
    """What metadata/ has of the images: licence, source and every other column, the most frequent values first; and a
    mark for each of licence and source that some images lack."""
    rows = []
    for split in facts.splits.values():
        known = {name for values in (split.metadata or {}).values() for name in values}
        for column in sorted({*known, *ASKED}):
            counts = list(split.values(column).items())
            rows += [(code(split.name), code(column), whole(value), counted(number)) for value, number in counts[:MOST]]
            if (left := len(counts) - MOST) > 0:
                rest = sum(number for _, number in counts[MOST:])
                rows.append((code(split.name), code(column), f"{left} other values", counted(rest)))
            if lacking := split.without(column):
                missing = NOT_KNOWN if split.metadata is None else "no value"
                rows.append((code(split.name), code(column), missing, counted(lacking)))
    return joined(table(("split", "column", "value", "images"), rows), *_asked(facts)).strip()


def _asked(facts: Facts) -> Iterator[str]:
    for column in ASKED:
        names = [split.name for split in facts.splits.values() if split.without(column)]
        unread = [split.name for split in facts.splits.values() if split.metadata is None]
        if names:
            why = f" `metadata/` could not be read of {listed(map(code, unread))}." if unread else ""
            yield to_fill(
                f"the {column} of the images in {listed(map(code, names))} that have none in `metadata/`.{why}"
            )


def scores(facts: Facts) -> str:
    """The scores of the split that was scored, each with its interval."""
    evaluation = facts.evaluation
    if evaluation is None:
        notes = "; ".join(code_names(without_stop(note)) for note in facts.notes)
        return f"{NOT_KNOWN.capitalize()}: {notes or 'no evaluation is at hand'}."
    rows = []
    for kind, metrics in evaluation.kinds.items():
        ends = evaluation.intervals.get(kind, {})
        rows += [
            (kind, title, _score(metrics[name]), _interval(ends.get(name)))
            for name, title in METRICS.items()
            if name in metrics
        ]
    text = (
        f"On {evaluation.metrics['images']:,} images of the split {code(evaluation.split)} with "
        f"{evaluation.metrics['objects']:,} objects, by pycocotools. Each score is the mean over the classes that have "
        "objects. Precision, recall and F1 are at IoU 0.50, and at the threshold of the score with the highest F1."
    )
    if evaluation.resamples:
        text += (
            f" The 95 % intervals are those of {evaluation.resamples:,} draws of images with replacement, by hotcoco."
        )
    return f"{text}\n\n" + table(("kind", "metric", "value", "95 % interval"), rows)


def exported_scores(facts: Facts) -> str:
    """What was measured of an exported file against the checkpoint that it was made of."""
    if facts.exported is None:
        return ""
    found = facts.exported.description.parity
    rows = [(code(key), shown(one)) for key, one in flattened(found).items()]
    above = "The scores above are of the checkpoint. " if facts.evaluation else ""
    return f"{above}Of the exported file, this was measured when it was written:\n\n" + table(("what", "value"), rows)


def per_class(facts: Facts) -> str:
    """Scores of each class."""
    rows, evaluation = [], facts.evaluation
    for kind in evaluation.kinds if evaluation else ():
        prefix = "mask_" if kind == "masks" else ""
        for one in evaluation.classes if evaluation else ():
            values = (_score(one.get(f"{prefix}{name}")) for name in PER_CLASS)
            rows.append((kind, code(one["class"]), counted(one["instances"]), *values))
    text = (
        "Of each class alone, by pycocotools. Precision, recall and F1 are at IoU 0.50, and at the threshold that is "
        "best for all classes together.\n\n"
    )
    return (text if rows else "") + table(("kind", "class", "objects", *PER_CLASS.values()), rows)


def slices(facts: Facts) -> str:
    """Scores of parts of the split."""
    rows = [
        (
            *(kind, code(one["slice"]), code(one["value"]), counted(one["images"]), counted(one["objects"])),
            *(_score(one[name]) for name in PER_SLICE),
        )
        for kind, parts in (facts.evaluation.slices if facts.evaluation else {}).items()
        for one in parts
    ]
    evaluation = facts.evaluation
    at = " and ".join(f"{_score(one)} ({kind})" for kind, one in (evaluation.slices_at if evaluation else {}).items())
    text = (
        f"By hotcoco. Precision, recall and F1 are at IoU 0.50 and the threshold {at}. They count the objects of all "
        "classes together, so that they can differ from the means over the classes above.\n\n"
    )
    return (text if rows else "") + table(("kind", "cut by", "part", "images", "objects", *PER_SLICE.values()), rows)


def limits(facts: Facts) -> str:
    """What a reader has to know before the model is relied on, and what was not used here."""
    notes = (f"{without_stop(note)}." for note in facts.notes)
    return bullets(map(code_names, [*known_limits(facts), *notes]))


def thresholds(facts: Facts) -> str:
    """The score from which a detection is recommended to count, of all classes and of each."""
    found = facts.evaluation.thresholds if facts.evaluation else None
    if found is None:
        return table((), ())
    target = "the best F1" if found.target is None else " ".join(f"{k} {v}" for k, v in found.target.items())
    points = {"all classes": found.all} | {code(name): point for name, point in found.classes.items()}
    rows = [
        (name, _score(one.threshold), _score(one.precision), _score(one.recall), _score(one.f1))
        for name, one in points.items()
    ]
    return f"Chosen for {target} on the split {code(found.split)}, of {found.of}.\n\n" + table(
        ("class", "threshold", "precision", "recall", "F1"), rows
    )


def code_names(sentence: str) -> str:
    """A sentence on one line, its words that Markdown could read as markup set as code."""
    return _MARKUP.sub(lambda found: code(found[0]), " ".join(sentence.split()))


def whole(text: str) -> str:
    """A long text as code, in pieces where `code` would cut it: a licence counts to its last word."""
    pieces = (text[start : start + MOST_CHARACTERS] for start in range(0, len(text), MOST_CHARACTERS))
    return " ".join(code(piece) for piece in pieces)


def shown(value: Any) -> str:
    """A value as params.yaml has it."""
    return code(json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, bool | list) else value)


def without_stop(text: str) -> str:
    """A sentence, for one that goes on."""
    return text.removesuffix(".")


def counted(value: Any) -> str:
    """A number of images or objects."""
    return "-" if value is None else f"{int(value):,}"


def _score(value: Any) -> str:
    return "-" if value is None else f"{float(value):.4f}"


def _interval(ends: Sequence[float | None] | None) -> str:
    return f"{_score(ends[0])} to {_score(ends[1])}" if ends else "-"
