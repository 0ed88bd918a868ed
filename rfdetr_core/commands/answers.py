"""The answers of audit, verify and plan in JSON, as `docs/schemas/` has them: `python -m rfdetr_core.config.reference`.

Within a version of the schema keys are added, and none is removed or changes its meaning.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from rfdetr_core.base.schema import Count, FileSchema, Md5, Sha256
from rfdetr_core.checkpoint.schema import Evaluation, Lineage, TrainingRecord
from rfdetr_core.commands.output import SCHEMA

Role = Literal["trained", "validated", "tested"]


class Answer(FileSchema):
    """What every answer has: the version of its schema."""

    schema_: Annotated[Literal[1], Field(alias="schema")]


class CommitAnswer(FileSchema):
    """A commit; author, email and date are what git says. id: zeros for what is not committed yet."""

    id: str
    author: str
    email: str
    date: str
    subject: str


class LinkAnswer(FileSchema):
    """A stage that led to the file: the commit that brought its result, its deps (MD5 by path) and its params."""

    stage: str
    commit: CommitAnswer
    deps: dict[str, str]
    params: dict[str, Any]


class FileAnswer(Answer):
    """audit FILE --json: what made a file.

    found_by: see certainty for how sure that is: "bytes" or "weights" (the history has them), "rounded" (each weight is
    that of a model of the history, or rounded from it), "several" (several runs made these weights), "contradicted",
    "word" (the file's own), "nothing". path: its name in the pipeline. chain: from the stage that wrote it backwards.
    lineage, training: what the record says, else the file itself. record, runs: names in records/. run: facts of the
    run. trained_from_it: digests of the weights of models that were trained from it.
    """

    sha256: Sha256
    md5: Md5
    tensors: Sha256 | None
    found_by: Literal["bytes", "tensors", "rounded", "training", "description", "derived"] | None
    certainty: Literal["bytes", "weights", "rounded", "several", "contradicted", "word", "nothing"]
    path: str | None
    exported: dict[str, Any] | None
    notes: list[str]
    chain: list[LinkAnswer]
    dataset: list[CommitAnswer]
    lineage: Lineage | None
    training: TrainingRecord | None
    record: str | None
    runs: list[str]
    run: dict[str, Any] | None
    evaluations: list[Evaluation]
    trained_from_it: list[Sha256]


class ImageAnswer(FileSchema):
    """An image behind a model. labels: the digest of its annotations. pixels: that of the decoded image, which older
    manifests do not have. through: the digest of the weights of the ancestor that was trained with it, or empty."""

    split: Literal["train", "valid", "test"]
    path: str
    sha256: Sha256
    width: Count
    height: Count
    labels: str
    pixels: Sha256 | None = None
    through: str


class ImagesAnswer(Answer):
    """audit FILE --images --json: every image behind a model; unknown: a sentence for each part that is not known."""

    images: list[ImageAnswer]
    unknown: list[str]
    notes: list[str]


class ModelUseAnswer(FileSchema):
    """A model that images were used for. commit: the one that brought it. through: digests of the weights from the
    model's parent to the ancestor that the images were used for."""

    role: Role
    tensors: Sha256 | None
    md5: Md5 | None
    commit: str | None
    through: list[Sha256]


class ImageUseAnswer(ModelUseAnswer):
    """The use of one image. same: what it has in common with what was asked for. labels: the digest of its annotations
    then, so that models from before and after a correction differ."""

    path: str
    sha256: Sha256
    same: Literal["bytes", "pixels"]
    labels: str


class SelectedUseAnswer(ModelUseAnswer):
    """The use of selected images; images: how many."""

    images: Count


class UnknownUseAnswer(FileSchema):
    """A model that may have used the images. manifest: a git blob that is missing. ancestor: the file of one of which
    nothing is known. reason: why, where it is neither."""

    role: Role
    tensors: Sha256 | None
    md5: Md5 | None = None
    manifest: str | None
    ancestor: str | None
    through: list[Sha256]
    reason: str | None = None


class _Uses(Answer):
    unknown: list[UnknownUseAnswer]
    published: list[str]
    notes: list[str]


class OtherBytesAnswer(FileSchema):
    """Other bytes that the path of the image had, as in a commit."""

    path: str
    sha256: Sha256
    commit: str


class ImageUsesAnswer(_Uses):
    """audit --image IMAGE --json: every model that an image went into, the newest first."""

    sha256: Sha256
    pixels: Sha256 | None
    other_bytes: list[OtherBytesAnswer] = Field(default_factory=list)
    uses: list[ImageUseAnswer]


class ConditionAnswer(FileSchema):
    """A condition on the metadata of images."""

    column: str
    sign: Literal["=", "<", "<=", ">", ">="]
    value: str


class SelectedUsesAnswer(_Uses):
    """audit --where CONDITION --json: every model that saw images for which all conditions hold."""

    where: list[ConditionAnswer]
    uses: list[SelectedUseAnswer]


class FigureAnswer(FileSchema):
    """A score, 0 to 1, and the ends of its 95 % interval."""

    score: float | None
    interval: list[float] | None


class ScoresAnswer(FileSchema):
    """The scores of an evaluation, by name. manifest: the git blob of the split's manifest."""

    split: str
    images: Count | None = None
    objects: Count | None = None
    manifest: str | None
    boxes: dict[str, FigureAnswer]
    masks: dict[str, FigureAnswer] | None = None


class DifferenceAnswer(Answer):
    """audit --diff A B --json.

    making: by topic and key, both values. images: by kind (added, removed, renamed, moved, pixels, labels) the rows.
    commits: that brought A and B. sources: by kind and source, the number of images. classes: by kind and class, the
    number of objects before and after. scores: of the evaluation of each.
    """

    making: dict[str, dict[str, list[Any]]]
    images: dict[str, list[dict[str, Any]]]
    unknown: list[str]
    commits: list[str | None]
    scores: list[ScoresAnswer | None]
    sources: dict[str, dict[str, Count]]
    classes: dict[str, dict[str, list[Count]]]
    notes: list[str]


class MismatchAnswer(FileSchema):
    """What differs; by: who said what was expected."""

    what: str
    expected: str
    found: str
    by: list[str]


class UncheckedAnswer(FileSchema):
    """What could not be checked."""

    what: str
    why: str


class VerifyAnswer(Answer):
    """verify --json, with any of its options. holds: nothing that was checked differs. checked: comparisons."""

    holds: bool
    mismatches: list[MismatchAnswer]
    unchecked: list[UncheckedAnswer]
    notes: list[str]
    checked: Count


class ReasonAnswer(FileSchema):
    """Why a stage runs. what: the param, module, file or folder. before, after: values of a param, numbers of files of
    a folder, else digests. files: how many of a folder were added, changed and removed, where that is known."""

    kind: Literal["param", "code", "data", "file", "pipeline", "other"]
    what: str
    before: str | None
    after: str | None
    files: dict[str, Count] | None
    text: str


class LastRunAnswer(FileSchema):
    """The last run of a stage. entry: in journal/."""

    began: str
    machine: str
    entry: str


class PlannedStageAnswer(FileSchema):
    """A stage that is not up to date. seconds: by its last run; None: not known. resumes_after: the epochs that an
    interrupted training has finished."""

    stage: str
    verdict: Literal["runs", "may run", "cached"]
    reasons: list[ReasonAnswer]
    seconds: float | None
    last: LastRunAnswer | None
    resumes_after: Count | None


class SecondsAnswer(FileSchema):
    """Of the stages that run, and of these and those that may run, as far as durations are known."""

    runs: float
    all: float


class PlanAnswer(Answer):
    """plan --json: what `dvc repro` will run, in its order. unknown: the stages of which no duration is known."""

    stages: list[PlannedStageAnswer]
    seconds: SecondsAnswer
    unknown: list[str]
    notes: list[str]


class SubjectAnswer(FileSchema):
    """A file that a statement is about."""

    name: str
    digest: dict[str, str]


class Statement(FileSchema):
    """attest FILE: the statement beside the model, in-toto's v1 with SLSA's provenance v1 as the predicate."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: list[SubjectAnswer]
    predicateType: Literal["https://slsa.dev/provenance/v1"]  # noqa: N815
    predicate: dict[str, Any]


ANSWERS: dict[str, type[FileSchema]] = {
    "audit-file": FileAnswer,
    "audit-images": ImagesAnswer,
    "audit-image": ImageUsesAnswer,
    "audit-where": SelectedUsesAnswer,
    "audit-diff": DifferenceAnswer,
    "verify": VerifyAnswer,
    "plan": PlanAnswer,
    "attest": Statement,
}


def generated() -> dict[str, str]:
    """The JSON Schemas, by the path of their file."""
    found = {}
    for name, answer in ANSWERS.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **answer.model_json_schema(by_alias=True)}
        found[f"docs/schemas/{name}-{SCHEMA}.json"] = json.dumps(schema, indent=2) + "\n"
    return found
