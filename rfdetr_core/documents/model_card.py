"""The document model_card.md: YAML metadata with the scores, then Markdown, in the format of Hugging Face.

The format: https://huggingface.co/docs/hub/model-cards. Facts that only the provider knows are marked for filling in.
"""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from rfdetr_core.base.markdown import code
from rfdetr_core.documents import tables, training_tables
from rfdetr_core.documents.facts import PROVIDER, Facts
from rfdetr_core.documents.tables import request_to_provider

_TASKS = {"boxes": "object-detection", "masks": "image-segmentation"}
_SCORES = {"map": "AP, IoU 0.50 to 0.95", "map_50": "AP50", "map_75": "AP75", "mar_100": "AR, 100 detections an image"}
_MAIN = (
    *("model.variant", "model.resolution", "model.pretrain_weights", "train.epochs", "train.batch_size"),
    *("train.grad_accum_steps", "train.lr", "train.lr_encoder", "train.weight_decay", "train.optimizer", "train.seed"),
    "train.portable",
)


def model_card(facts: Facts) -> str:
    """The text of the card. `ModelCard` of huggingface_hub can read it."""
    return str(ModelCard(f"---\n{_data(facts).to_yaml()}\n---\n\n{_body(facts)}"))


def _data(facts: Facts) -> ModelCardData:
    evaluation = facts.evaluation
    segments = bool(facts.checkpoint.model_config.get("segmentation_head"))
    results = [
        EvalResult(
            task_type=_TASKS[kind],
            dataset_type="custom",
            dataset_name=f"split {evaluation.split} of the project (revision: SHA-256 of its manifest)",
            dataset_split=evaluation.split,
            dataset_revision=facts.splits[evaluation.split].digests.get(f"manifest/{evaluation.split}.json"),
            metric_type="map" if name.startswith("map") else "mar",
            metric_name=f"{title} ({kind})",
            metric_value=float(metrics[name]),
            metric_args={"interval_95": ends} if (ends := evaluation.intervals.get(kind, {}).get(name)) else None,
        )
        # No results for an exported file: only its checkpoint was scored, and a leaderboard would mix them up.
        for kind, metrics in (evaluation.kinds.items() if evaluation and facts.exported is None else ())
        for name, title in _SCORES.items()
        if evaluation and metrics.get(name) is not None
    ]
    return ModelCardData(
        model_name=str(facts.lineage["variant"] or "RF-DETR"),
        pipeline_tag=_TASKS["masks" if segments else "boxes"],
        tags=["rf-detr", *(_TASKS[kind] for kind in (("boxes", "masks") if segments else ("boxes",)))],
        eval_results=results or None,
    )


def _body(facts: Facts) -> str:
    names = ", ".join(map(code, facts.class_names)) or tables.NOT_KNOWN
    return tables.join_paragraphs(
        f"# Model card: {code(facts.lineage['variant'] or 'RF-DETR')}",
        "`python -m rfdetr_core document` wrote this card from the lineage in the model file and the project's "
        f'history. Missing values are marked "{tables.NOT_KNOWN}" or "{PROVIDER}".',
        "## The model",
        tables.identity(facts),
        f"It detects these classes: {names}.",
        "### Weights that it started from",
        training_tables.parents(facts),
        "## Intended use",
        request_to_provider("who is meant to use the model, for what, and on which kind of images."),
        "### Uses that are out of scope",
        request_to_provider("what the model must not be used for."),
        "## Data",
        tables.splits(facts),
        "### Objects by class",
        tables.classes(facts),
        "### Licences, sources and other metadata of the images",
        tables.metadata(facts),
        "## Training",
        training_tables.parameters(facts, _MAIN),
        training_tables.selection(facts),
        "### Changes in addition to the parameters",
        training_tables.custom(facts),
        "## Evaluation",
        tables.scores(facts),
        tables.exported_scores(facts),
        "### Recommended thresholds",
        tables.thresholds(facts),
        "### Classes",
        tables.per_class(facts),
        "### Slices",
        tables.slices(facts),
        "## Limits",
        tables.limits(facts),
        request_to_provider(
            "risks and biases that the scores do not show, such as places, seasons or people that no image shows."
        ),
        "## Environment",
        training_tables.environment(facts),
        "## How to reproduce it",
        training_tables.commands(facts),
        "### How long the stages ran",
        training_tables.durations(facts),
        "## Licence and contact",
        request_to_provider("the licence of the weights, and whom to ask."),
    )
