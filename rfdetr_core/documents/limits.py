"""The known limits of a model, for a reader who wants to rely on it."""

from __future__ import annotations

from collections.abc import Iterator

from rfdetr_core.base.provenance import short
from rfdetr_core.documents.evaluation import without_root
from rfdetr_core.documents.facts import CHOSEN, Facts
from rfdetr_core.documents.parents import ancestors
from rfdetr_core.evaluation.operating import FEW_IMAGES


def limits(facts: Facts) -> list[str]:
    """The limits as sentences without markup."""
    return [*_history_limits(facts), *_data_limits(facts), *_score_limits(facts)]


def _history_limits(facts: Facts) -> Iterator[str]:
    if not facts.confirmed:
        yield "No commit confirms this file. The facts in this document come from the file only."
    elif facts.commit is None:
        yield "The history has the run record of this file, but no committed dvc.lock names the file."
    for note in facts.history_facts.traced.notes if facts.history_facts else ():
        yield f"From the history: {without_root(note, facts.root).removesuffix('.')}."


def _data_limits(facts: Facts) -> Iterator[str]:
    for split in facts.splits.values():
        if split.classes and (absent := [name for name, count in split.classes.items() if not count]):
            yield f"{split.name} has no object of these classes: {', '.join(absent)}."
    for ancestor in ancestors(facts.training):
        weights = f"the weights {ancestor.name} (parameter {ancestor.parameter}, SHA-256 {short(ancestor.sha256)})"
        place = (
            "The training of this model started from these weights."
            if ancestor.steps == 1
            else f"These weights are an ancestor of the model, in generation {ancestor.steps}."
        )
        if ancestor.training is None:
            yield f"The training data of {weights} is not known. {place}"
        else:
            images = ", ".join(f"{split} with {counts['images']} images" for split, counts, _ in ancestor.splits())
            yield (
                f"The model also learned from the data of {weights}: {images}. {place} It was not checked whether "
                "scored images are among these images."
            )
    custom = facts.training.get("custom") or {}
    if custom:
        yield "A script changed the training in addition to the parameters. See `custom` in the training record."
    if script_weights := custom.get("weights"):
        yield f"A script supplied the weights {short(script_weights)}. Their training data is not known."


def _score_limits(facts: Facts) -> Iterator[str]:
    evaluation = facts.evaluation
    if evaluation is None:
        yield "There is no local evaluation of these weights, so their quality is not known."
        return
    if facts.exported is not None:
        yield (
            "The scores are those of the checkpoint that this file was exported from "
            f"(SHA-256 {short(facts.exported.description.source)}). This file itself was not scored."
        )
    if CHOSEN in facts.splits[evaluation.split].uses:
        note = evaluation.about.get("note")
        yield (
            "The scores are probably higher than on new images: the weights were chosen by their scores on the same "
            f"split, {evaluation.split}" + (f": {note}." if note else ".")
        )
    if any(scores.get("threshold") is not None for scores in evaluation.kinds.values()):
        yield (
            "Precision, recall and F1 are probably higher than on new images: the score threshold was chosen on the "
            f"same images of {evaluation.split}."
        )
    images = int(evaluation.metrics["images"])
    if images < FEW_IMAGES:
        yield f"Only {images} images were scored. With fewer than {FEW_IMAGES}, the intervals are uncertain."
    if missing := evaluation.about.get("not_measured"):
        yield f"These scores of metrics.json were not measured: {missing}."
    if not evaluation.intervals:
        yield "The scores have no intervals, so how much they depend on the choice of images is not known."
