"""The facts of a model as sections of Markdown, for the documents that people read.

Every value that comes from a file is set as code: no name of a class or an image forges a row or a link.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from rfdetr_core.base.errors import listed
from rfdetr_core.base.markdown import MOST as MOST_CHARACTERS
from rfdetr_core.base.markdown import block, code, row
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.files import MODEL_FIELDS
from rfdetr_core.documents.facts import ASKED, MOST, PROVIDER, Facts

NOT_KNOWN = "not known from the record"
TO_FILL = f"**{PROVIDER}:**"
_MARKUP = re.compile(r"[^\s,;:]*[`|\\<>&*_\[\]!@#/~^$][^\s,;:]*(?<!\.)")
_METRICS = {
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
_PER_CLASS = {"ap": "AP", "ap_50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}
_PER_SLICE = {"map": "AP", "map_50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}


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
    commit = code(facts.commit.id) if facts.commit else f"{NOT_KNOWN}: no commit vouches for the file"
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


def parents(facts: Facts) -> str:
    """The weights that the training started from."""
    rows = [
        (code(key), code(parent["name"]), code(parent["sha256"]))
        for key, parent in sorted(facts.training["parents"].items())
    ]
    given = (facts.training.get("custom") or {}).get("weights")
    if given:
        rows.append(("a script", "-", code(given)))
    return table(("parameter", "file", "SHA-256"), rows) if rows else "The training started from random weights."


def architecture(facts: Facts) -> str:
    """The numbers that shape the network, under upstream's names, and how many parameters it has."""
    config = facts.checkpoint.model_config
    rows = [(code(key), code(config[key])) for key in ("encoder", *MODEL_FIELDS) if key in config]
    weights = facts.checkpoint.weights
    if weights:
        rows.append(("parameters", f"{sum(tensor.numel() for tensor in weights.values()):,}"))
    return table(("property", "value"), rows)


def parameters(facts: Facts, names: Sequence[str] = ()) -> str:
    """The parameters of the training; names: only these, such as `train.lr`."""
    values = flattened(facts.training["params"])
    chosen = {name: values[name] for name in names if name in values} if names else values
    return table(("parameter", "value"), ((code(name), _value(_own(name, value))) for name, value in chosen.items()))


def selection(facts: Facts) -> str:
    """By which score the weights were chosen among the epochs."""
    found = facts.lineage["selection"]
    winner = found["winner"]
    best = found[winner]
    score = "no score" if best["score"] is None else f"{best['score']:.4f}"
    return (
        f"Of {found['epochs']} epochs, the {code(winner)} weights of epoch {best['epoch']} were chosen, by "
        f"{code(found['key'])} on the split valid: {score}. {code_names(found.get('rule') or '')}".strip()
    )


def splits(facts: Facts) -> str:
    """The splits, what each was used for, and the digests by which its files are known."""
    rows = [
        (code(split.name), ", ".join(split.uses), _count(split.images), _count(split.objects))
        for split in facts.splits.values()
    ]
    digests = [
        (code(name), code(digest))
        for name, digest in {n: d for split in facts.splits.values() for n, d in split.digests.items()}.items()
    ]
    trees = [
        (code(split.name), code(tree), _count(one["size"]), code(one["root"]))
        for split in facts.splits.values()
        for tree, one in split.roots.items()
    ]
    parts = [
        table(("split", "used for", "images", "objects"), rows),
        "The manifest of a split lists each image with its SHA-256; the annotations are in COCO's form.",
        table(("file", "SHA-256"), digests),
    ]
    if trees:
        parts.append("Merkle roots over the images of a split, by which one image can be proved in or out:")
        parts.append(table(("split", "tree", "images", "root"), trees))
    return "\n\n".join(parts)


def classes(facts: Facts) -> str:
    """Objects by class and split."""
    names = list(facts.splits)
    rows = [
        (code(name), *(_count((split.classes or {}).get(name)) for split in facts.splits.values()))
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
            rows += [(code(split.name), code(column), whole(value), _count(count)) for value, count in counts[:MOST]]
            if (left := len(counts) - MOST) > 0:
                rest = sum(count for _, count in counts[MOST:])
                rows.append((code(split.name), code(column), f"{left} other values", _count(rest)))
            if lacking := split.without(column):
                missing = NOT_KNOWN if split.metadata is None else "no value"
                rows.append((code(split.name), code(column), missing, _count(lacking)))
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
        notes = "; ".join(code_names(_sentence(note)) for note in facts.notes)
        return f"{NOT_KNOWN.capitalize()}: {notes or 'no evaluation is at hand'}."
    rows = []
    for kind, metrics in evaluation.kinds.items():
        ends = evaluation.intervals.get(kind, {})
        rows += [
            (kind, title, _score(metrics[name]), _interval(ends.get(name)))
            for name, title in _METRICS.items()
            if name in metrics
        ]
    drawn = f"the 95 % interval is that of {evaluation.resamples:,} draws of images, with replacement"
    text = (
        f"On {evaluation.metrics['images']:,} images of the split {code(evaluation.split)} with "
        f"{evaluation.metrics['objects']:,} objects, by pycocotools"
    )
    return f"{text}{f'; {drawn}' if evaluation.resamples else ''}.\n\n" + table(
        ("of", "metric", "value", "95 % interval"), rows
    )


def exported_scores(facts: Facts) -> str:
    """What was measured of an exported file against the checkpoint that it was made of."""
    if facts.exported is None:
        return ""
    found = facts.exported.description.parity
    rows = [(code(key), _value(value)) for key, value in flattened(found).items()]
    return (
        "The scores above are of the checkpoint. Of the exported file, this was measured when it was written:\n\n"
        + table(("what", "value"), rows)
    )


def per_class(facts: Facts) -> str:
    """Scores of each class."""
    rows, evaluation = [], facts.evaluation
    for kind in evaluation.kinds if evaluation else ():
        prefix = "mask_" if kind == "masks" else ""
        for one in evaluation.classes if evaluation else ():
            values = (_score(one.get(f"{prefix}{name}")) for name in _PER_CLASS)
            rows.append((kind, code(one["class"]), _count(one["instances"]), *values))
    return table(("of", "class", "objects", *_PER_CLASS.values()), rows)


def slices(facts: Facts) -> str:
    """Scores of parts of the split."""
    rows = [
        (
            *(kind, code(one["slice"]), code(one["value"]), _count(one["images"]), _count(one["objects"])),
            *(_score(one[name]) for name in _PER_SLICE),
        )
        for kind, parts in (facts.evaluation.slices if facts.evaluation else {}).items()
        for one in parts
    ]
    return table(("of", "cut by", "part", "images", "objects", *_PER_SLICE.values()), rows)


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


def environment(facts: Facts) -> str:
    """Packages and machine of the training."""
    training = facts.training
    rows = [("package", code(name), code(version)) for name, version in facts.packages.items()]
    if training.get("lock"):
        rows.append(("lock", code("requirements/numeric.lock"), code(training["lock"])))
    rows += [("machine", code(name), code(value)) for name, value in _plain(training["machine"]).items()]
    rows += [("run", code(name), code(facts.run[name])) for name in ("gpu", "cpus", "started") if facts.run.get(name)]
    return table(("of", "name", "value"), rows)


def durations(facts: Facts) -> str:
    """How long each stage ran, on the machine that ran it last."""
    rows = [(code(stage), f"{seconds:,.1f}") for stage, seconds in facts.durations.items()]
    return table(("stage", "seconds"), rows)


def commands(facts: Facts) -> str:
    """The commands that make the model again."""
    known = facts.commands()
    if not known:
        return f"{NOT_KNOWN.capitalize()}: no commit vouches for the file."
    lead = "" if facts.address else "ADDRESS: where the project's repository is. "
    portable = facts.training["params"].get("train", {}).get("portable")
    limit = (
        "The training is portable: equal bytes are expected on other machines as well."
        if portable
        else "Equal bytes are expected on a machine of the same kind; on another one, compare the scores."
    )
    lines = block("\n".join(f"{command}  # {why}" for why, command in known))
    return f"{lines}\n\n{lead}{limit}"


def limits(facts: Facts) -> str:
    """What a reader has to know before the model is relied on, and what was not used here."""
    found = [*facts.limits(), *(f"Not used here: {_sentence(note)}." for note in facts.notes)]
    return bullets(code_names(one) for one in found) if found else ""


def code_names(sentence: str) -> str:
    """A sentence on one line, its words that Markdown could read as markup set as code."""
    return _MARKUP.sub(lambda found: code(found[0]), " ".join(sentence.split()))


def _value(value: Any) -> str:
    """A value as params.yaml has it."""
    return code("null" if value is None else str(value).lower() if isinstance(value, bool) else value)


def _own(name: str, value: Any) -> Any:
    """A value without the folders of the machine that the training ran on: of a file, its name."""
    is_file = name.rpartition(".")[2] in ("pretrain_weights", "resume") and isinstance(value, str)
    return PurePosixPath(value).name if is_file else value


def whole(text: str) -> str:
    """A long text as code, in pieces where `code` would cut it: a licence counts to its last word."""
    pieces = (text[start : start + MOST_CHARACTERS] for start in range(0, len(text), MOST_CHARACTERS))
    return " ".join(code(piece) for piece in pieces)


def _sentence(text: str) -> str:
    return text.removesuffix(".")


def _count(value: Any) -> str:
    return "-" if value is None else f"{int(value):,}"


def _score(value: Any) -> str:
    return "-" if value is None else f"{float(value):.4f}"


def _interval(ends: Sequence[float | None] | None) -> str:
    return f"{_score(ends[0])} to {_score(ends[1])}" if ends else "-"


def _plain(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The machine without what is empty there."""
    return {name: value for name, value in machine.items() if value not in (None, {}, "")}
