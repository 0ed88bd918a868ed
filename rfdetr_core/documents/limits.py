"""What a reader has to know before a model is relied on, as far as its record can tell."""

from __future__ import annotations

from collections.abc import Iterator

from rfdetr_core.base.provenance import short
from rfdetr_core.documents.evaluation import without_root
from rfdetr_core.documents.facts import CHOSEN, Facts
from rfdetr_core.documents.parents import ancestors
from rfdetr_core.evaluation.operating import FEW_IMAGES


def limits(facts: Facts) -> list[str]:
    """A sentence each, without markup."""
    return [*_of_history(facts), *_of_data(facts), *_of_scores(facts)]


def _of_history(facts: Facts) -> Iterator[str]:
    if not facts.confirmed:
        yield "No commit vouches for this file: what is written here is its own word."
    elif facts.commit is None:
        yield "The history has the record of this file, and no dvc.lock that names the file."
    for note in facts.history_facts.traced.notes if facts.history_facts else ():
        yield f"Of the history: {without_root(note, facts.root).removesuffix('.')}."


def _of_data(facts: Facts) -> Iterator[str]:
    for split in facts.splits.values():
        if split.classes and (absent := [name for name, count in split.classes.items() if not count]):
            yield f"No object of these classes is in {split.name}: {', '.join(absent)}."
    for one in ancestors(facts.training):
        weights = f"the weights {one.name} ({one.parameter}, SHA-256 {short(one.sha256)})"
        back = "that it started from" if one.steps == 1 else f"{one.steps} trainings back"
        if one.training is None:
            yield f"This record knows nothing of the training of {weights} {back}."
        else:
            images = ", ".join(f"{split} with {counts['images']} images" for split, counts, _ in one.splits())
            yield (
                f"It learned from the data of {weights} {back}, too: {images}. Whether images that were scored are "
                "among them was not compared."
            )
    custom = facts.training.get("custom") or {}
    if custom:
        yield "A script changed its training beside the parameters; the record names what, under `custom`."
    if given := custom.get("weights"):
        yield f"A script gave it the weights {short(given)}, of whose training this record knows nothing."


def _of_scores(facts: Facts) -> Iterator[str]:
    evaluation = facts.evaluation
    if evaluation is None:
        yield "No evaluation of these weights is at hand, so nothing is said of their quality."
        return
    if facts.exported is not None:
        yield (
            "The scores are those of the checkpoint that this file was exported from "
            f"(SHA-256 {short(facts.exported.description.source)}): this file itself was not scored."
        )
    if CHOSEN in facts.splits[evaluation.split].uses:
        note = evaluation.about.get("note")
        yield (
            f"The scores are of {evaluation.split}, by which the weights were chosen, so they are too high"
            + (f": {note}." if note else ".")
        )
    if any(scores.get("threshold") is not None for scores in evaluation.kinds.values()):
        yield (
            f"The threshold of the score was chosen on {evaluation.split}, and precision, recall and F1 at it are of "
            "the same images, so they are too high."
        )
    images = int(evaluation.metrics["images"])
    if images < FEW_IMAGES:
        yield f"Only {images} images were scored: with fewer than {FEW_IMAGES}, the intervals too are uncertain."
    if missing := evaluation.about.get("not_measured"):
        yield f"Not measured: {missing}."
    if not evaluation.intervals:
        yield "The scores have no intervals here: how much they depend on the images is not known."
