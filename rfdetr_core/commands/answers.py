"""The schemas of the JSON answers of audit, verify, plan and attest.

`python -m rfdetr_core.config.reference` writes them to docs/schemas/. A version of the schema may add keys. It removes
no key and changes the meaning of no key.
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
    """An answer. It has the version of its schema."""

    schema_: Annotated[Literal[1], Field(alias="schema")]


class CommitAnswer(FileSchema):
    """A commit. Author, email and date are those of git. id: zeros for changes that are not committed yet."""

    id: str
    author: str
    email: str
    date: str
    subject: str


class LinkAnswer(FileSchema):
    """A stage that led to the file: the commit that added its result, its deps (MD5 by path) and its params."""

    stage: str
    commit: CommitAnswer
    deps: dict[str, str]
    params: dict[str, Any]


class FileAnswer(Answer):
    """audit FILE --json: how a file was made.

    found_by: how the file was found in the history.
    certainty: how sure the answer is.
        "bytes", "weights": the history has the same bytes or weights.
        "rounded": each weight equals that of a model of the history, or is rounded from it.
        "several": several runs made these weights.
        "contradicted": the history contradicts the file.
        "word": unconfirmed, only the file itself says so.
        "nothing": nothing is known.
    path: the path of the file in the pipeline.
    chain: the stages, from the stage that wrote the file backwards.
    lineage, training: from the run record, else from the file.
    record, runs: names of files in records/.
    run: facts of the run.
    trained_from_it: the digests of the weights of models that were trained from the file.
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
    """An image that a model was made from. labels: the digest of its annotations. pixels: the digest of the decoded
    image; older manifests lack it. through: the digest of the weights of the ancestor that was trained with the image;
    empty for the model itself."""

    split: Literal["train", "valid", "test"]
    path: str
    sha256: Sha256
    width: Count
    height: Count
    labels: str
    pixels: Sha256 | None = None
    through: str


class ImagesAnswer(Answer):
    """audit FILE --images --json: every image that a model was made from. unknown: a sentence for each unknown part."""

    images: list[ImageAnswer]
    unknown: list[str]
    notes: list[str]


class ModelUseAnswer(FileSchema):
    """A model that images were used for. commit: the commit that added it. through: digests of the weights, from the
    model's parent to the ancestor that the images were used for."""

    role: Role
    tensors: Sha256 | None
    md5: Md5 | None
    commit: str | None
    through: list[Sha256]


class ImageUseAnswer(ModelUseAnswer):
    """The use of one image. same: whether bytes or only pixels equal those of the image in question. labels: the digest
    of its annotations at that time, so that models from before and after a correction differ."""

    path: str
    sha256: Sha256
    same: Literal["bytes", "pixels"]
    labels: str


class SelectedUseAnswer(ModelUseAnswer):
    """The use of selected images. images: their number."""

    images: Count


class UnknownUseAnswer(FileSchema):
    """A model that may have used the images. manifest: a git blob that is missing. ancestor: the file of an unknown
    ancestor. reason: any other reason."""

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
    """Another version of the image: other bytes that a commit has under the same path."""

    path: str
    sha256: Sha256
    commit: str


class ImageUsesAnswer(_Uses):
    """audit --image IMAGE --json: every model that used an image, the newest first."""

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
    """audit --where CONDITION --json: every model that used images for which all conditions hold."""

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

    making: each difference of the lineages, by topic and key, with the values of A and B.
    images: the rows, by kind (added, removed, renamed, moved, pixels, labels).
    commits: the commits that added A and B.
    sources: the number of images, by kind and source.
    classes: the numbers of objects before and after, by kind and class.
    scores: from the evaluations of A and B.
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
    """A difference. what: the place. by: the sources of the expected value."""

    subject: Annotated[str, Field(alias="what")]
    expected: str
    actual: Annotated[str, Field(alias="found")]
    by: list[str]


class UncheckedAnswer(FileSchema):
    """A part that could not be checked, and the reason."""

    subject: Annotated[str, Field(alias="what")]
    why: str


class VerifyAnswer(Answer):
    """verify --json, with any of its options.

    holds: whether each checked value is equal to the computed one.
    checked: the number of comparisons.
    """

    holds: bool
    mismatches: list[MismatchAnswer]
    unchecked: list[UncheckedAnswer]
    notes: list[str]
    checked: Count


class ReasonAnswer(FileSchema):
    """Why a stage runs. what: the param, module, file or folder. before, after: the values of a param, the numbers of
    files of a folder, else digests. files: numbers of added, changed and removed files of a folder, where known."""

    kind: Literal["param", "code", "data", "file", "pipeline", "other"]
    subject: Annotated[str, Field(alias="what")]
    before: str | None
    after: str | None
    files: dict[str, Count] | None
    text: str


class LastRunAnswer(FileSchema):
    """The last run of a stage. entry: its file in journal/."""

    began: str
    machine: str
    entry: str


class PlannedStageAnswer(FileSchema):
    """A stage that is not up to date. seconds: the duration of its last run; None: unknown. resumes_after: the epochs
    that an interrupted training has finished."""

    stage: str
    verdict: Literal["runs", "may run", "cached"]
    reasons: list[ReasonAnswer]
    seconds: float | None
    last: LastRunAnswer | None
    resumes_after: Count | None


class SecondsAnswer(FileSchema):
    """Sums of the known durations.

    runs: the sum for the stages that will run.
    all: the sum for the stages that will or may run.
    """

    runs: float
    all: float


class PlanAnswer(Answer):
    """plan --json: what `dvc repro` will run, in its order. unknown: the stages whose duration is unknown."""

    stages: list[PlannedStageAnswer]
    seconds: SecondsAnswer
    unknown: list[str]
    notes: list[str]


class SubjectAnswer(FileSchema):
    """A file that a statement is about."""

    name: str
    digest: dict[str, str]


class Statement(FileSchema):
    """attest FILE: the statement beside the model: in-toto v1, with SLSA provenance v1 as the predicate."""

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
    schemas = {}
    for name, answer in ANSWERS.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **answer.model_json_schema(by_alias=True)}
        schemas[f"docs/schemas/{name}-{SCHEMA}.json"] = json.dumps(schema, indent=2) + "\n"
    return schemas
