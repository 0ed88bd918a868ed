"""The document annex_iv.md: Annex IV of Regulation (EU) 2024/1689 (the AI Act), points 2(b) to (g), prefilled.

The text of the regulation: https://eur-lex.europa.eu/eli/reg/2024/1689/oj. Each section begins with a summary of what
its point requires.
"""

from __future__ import annotations

from rfdetr_core.base.markdown import code
from rfdetr_core.documents import tables, training_tables
from rfdetr_core.documents.facts import Facts
from rfdetr_core.documents.tables import request_to_provider


def annex_iv(facts: Facts) -> str:
    """The text of the document."""
    return tables.join_paragraphs(
        "# Technical documentation: Annex IV of Regulation (EU) 2024/1689, points 2(b) to (g)",
        "`python -m rfdetr_core document` prefilled this document from the lineage in the model file and the "
        "project's history. It is only a part of the technical documentation of a high-risk AI system: points 1, "
        "2(a), 2(h) and 3 to 9 are missing. It describes how the model was made. It says nothing about the system "
        "around the model or its purpose.",
        tables.identity(facts),
        *_design(facts),
        *_architecture(facts),
        *_data(facts),
        *_oversight(facts),
        *_changes(facts),
        *_testing(facts),
        "## Known limits",
        tables.limits(facts) or "No limits are recorded.",
    )


def _design(facts: Facts) -> list[str]:
    names = ", ".join(map(code, facts.class_names)) or tables.NOT_KNOWN
    masks = " and a mask" if facts.checkpoint.model_config.get("segmentation_head") else ""
    return [
        "## 2(b) Design specifications",
        "Asked for: the general logic of the system and its algorithms; key design choices with their rationale and "
        "assumptions, also about the persons on whom the system is used; the main classification choices; what it is "
        "designed to optimise for, and the relevance of the parameters; the expected output and its quality; "
        "trade-offs.",
        "### General logic and expected output",
        f"The model is an RF-DETR detector, a transformer of the DETR family. For each image it gives a box{masks} and "
        f"a score for every object that it finds, without a step that removes duplicates. Its classes: {names}.",
        "### What it is optimised for, and its parameters",
        _losses(facts),
        training_tables.selection(facts),
        training_tables.parameters(facts),
        "### Changes in addition to the parameters",
        training_tables.custom(facts),
        request_to_provider(
            "the rationale of these choices, assumptions about the persons or groups that the system is used on, and "
            "trade-offs that were made to comply with Chapter III, Section 2."
        ),
    ]


def _losses(facts: Facts) -> str:
    masks = (
        ", a cross-entropy loss of the masks, a Dice loss of the masks"
        if facts.checkpoint.model_config.get("segmentation_head")
        else ""
    )
    return (
        "The training minimises a weighted sum of losses over pairs of predicted and labelled objects: a loss of the "
        f"class, the L1 distance of the boxes, a loss of the generalised IoU of the boxes{masks}. The parameters "
        "`train.*_loss_coef` are the weights of the losses."
    )


def _architecture(facts: Facts) -> list[str]:
    count = len(facts.training["code"])
    return [
        "## 2(c) System architecture and computational resources",
        "Asked for: how the software components build on each other; the resources used to develop, train, test and "
        "validate the system.",
        "### The network",
        tables.architecture(facts),
        "### The software",
        f"The training record has the digests of the {count} source files that influence the weights, and the versions "
        "of the packages.",
        training_tables.environment(facts),
        "### Weights that it started from",
        training_tables.parents(facts),
        "### How long the stages ran",
        training_tables.durations(facts),
        request_to_provider(
            "how the model fits into the system around it, and the resources of experiments that are not in this "
            "project's history."
        ),
    ]


def _data(facts: Facts) -> list[str]:
    stages = [link.stage for link in facts.history_facts.traced.links] if facts.history_facts else []
    checked = (
        f"The stage `validate` checked every image and annotation before the training. Its findings are in "
        f"`reports/dataset/findings.csv` of the commit {code(facts.commit.id)}."
        if facts.commit and "validate" in stages
        else ""
    )
    return [
        "## 2(d) Data requirements",
        "Asked for: datasheets of the training data: training methodologies, provenance, scope and main "
        "characteristics; how the data was obtained and selected; how it was labelled and cleaned.",
        "### The data sets",
        tables.splits(facts),
        "### Objects by class",
        tables.classes(facts),
        "### Provenance: licences, sources and other metadata of the images",
        tables.metadata(facts),
        "### Cleaning",
        checked or f"{tables.NOT_KNOWN.capitalize()}.",
        request_to_provider(
            "how images were obtained and selected, who labelled them by which rules, and what was left out."
        ),
    ]


def _oversight(facts: Facts) -> list[str]:
    return [
        "## 2(e) Human oversight",
        "Asked for: an assessment of the oversight measures under Article 14, and of the technical measures by which "
        "deployers can interpret the output (Article 13(3), point (d)).",
        "A deployer can set the score threshold: detections with a lower score are dropped. Recommended thresholds:",
        tables.thresholds(facts),
        request_to_provider(
            "who oversees the system, how they intervene, and which measures help them to interpret its output."
        ),
    ]


def _changes(facts: Facts) -> list[str]:
    return [
        "## 2(f) Pre-determined changes",
        "Asked for: changes to the system and its performance that were determined beforehand, and the technical "
        "solutions by which it stays compliant.",
        "A retraining makes a new model with a new run record: `python -m rfdetr_core audit --diff OLD NEW` lists "
        "what changed in data, parameters, code and scores. The file of this model does not change: the model does not "
        "learn while it is used.",
        request_to_provider(
            "which changes are determined beforehand, and within which limits of performance they are accepted."
        ),
    ]


def _testing(facts: Facts) -> list[str]:
    return [
        "## 2(g) Validation and testing",
        "Asked for: the procedures; the data used and its main characteristics; the metrics of accuracy, "
        "robustness and compliance with other relevant requirements of Chapter III, Section 2, and potentially "
        "discriminatory impacts; logs and reports, dated and signed.",
        "### Accuracy",
        tables.scores(facts),
        tables.exported_scores(facts),
        "### Accuracy by class",
        tables.per_class(facts),
        "### Accuracy of parts of the data",
        tables.slices(facts),
        "### Procedure",
        "These commands reproduce and test the model:",
        training_tables.commands(facts),
        request_to_provider(
            "robustness beyond these slices, compliance with other relevant requirements of Chapter III, Section 2, "
            "potentially discriminatory impacts, and the test reports with date and "
            "signature of the responsible persons. `python -m rfdetr_core attest FILE --documents DIR --sign-key "
            "KEY.pem` signs a statement with the digests of this document and of the model."
        ),
    ]
