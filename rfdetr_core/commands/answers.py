"""The schemas of the JSON answers of audit, verify, plan and attest.

`python -m rfdetr_core.config.reference` writes them to docs/schemas/. Within a version, new keys may be added. No key
is removed or changes its meaning.
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
    """A commit of git. The committer sets author, email and date freely. id: for uncommitted changes, 40 zeros."""

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

    tensors: the weights digest of the file.

    found_by: how the file was found. "bytes": the history has these bytes. "tensors": the history has these weights, in
    a file with other bytes. "rounded": each weight equals the weight of a model file in the history, or equals it after
    rounding. "training": a run record has the training that the file names, but no run record has these weights.
    "description": the description in an exported file names recorded weights. "derived": as "description", but the
    graph was changed after the export. null: the history does not know the file.

    certainty: how certain the answer is. If found_by is "bytes", it is "bytes". If found_by is "tensors", it is
    "weights". If found_by is "rounded", it is "rounded". With any other found_by it is "word" (only the file itself
    names its training) or "nothing" (nothing is known). Two values replace these. "several": several runs made these
    weights. "contradicted": the file contradicts its run record or its own weights.

    path: the file's path in the project. chain: the stages that led to the file, the last stage first. lineage,
    training: from the run record if `record` is not null, else from the file. record, runs: names of files in records/.
    runs: the runs that may have made the file, if it is not known which. run: facts of the run. trained_from_it:
    weights digests of the models that were trained from this file.
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
    """An image that a model was made from. labels: the digest of the image's annotations. pixels: the digest of the
    decoded image; older manifests lack it. through: the weights digest of the ancestor that was trained with the image.
    It is empty if the model itself was trained with the image."""

    split: Literal["train", "valid", "test"]
    path: str
    sha256: Sha256
    width: Count
    height: Count
    labels: str
    pixels: Sha256 | None = None
    through: str


class ImagesAnswer(Answer):
    """audit FILE --images --json: every image that a model was made from. unknown: a sentence for each list of images
    that is not known."""

    images: list[ImageAnswer]
    unknown: list[str]
    notes: list[str]


class ModelUseAnswer(FileSchema):
    """A model that was trained, validated or tested on the images. tensors: its weights digest. commit: the commit that
    added the model. through: the ancestors between the model and the images, as weights digests. The first is the
    model's parent. The last is the ancestor that was trained, validated or tested on the images. The list is empty if
    the model itself was trained, validated or tested on them."""

    role: Role
    tensors: Sha256 | None
    md5: Md5 | None
    commit: str | None
    through: list[Sha256]


class ImageUseAnswer(ModelUseAnswer):
    """The use of one image. same: what is equal to the searched image: its bytes, or only its pixels. labels: the
    digest of the image's annotations at that time. It shows which models used corrected labels. through: the ancestors
    between the model and the image, as weights digests, the model's parent first. It is empty if the model itself used
    the image."""

    path: str
    sha256: Sha256
    same: Literal["bytes", "pixels"]
    labels: str


class SelectedUseAnswer(ModelUseAnswer):
    """The use of selected images. images: the number of these images. through: the ancestors between the model and the
    images, as weights digests, the model's parent first. It is empty if the model itself used the images."""

    images: Count


class UnknownUseAnswer(FileSchema):
    """A model that may have used the images. One of three keys says why this is not known. manifest: the git blob id of
    a manifest that is missing. ancestor: the file of an ancestor whose training is not known. reason: a sentence."""

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
    """Other bytes that the image's path had. commit: a commit in which it had them."""

    path: str
    sha256: Sha256
    commit: str


class ImageUsesAnswer(_Uses):
    """audit --image IMAGE --json: every model that used an image, the newest first. published: upstream's weights that
    models here started from; which images these weights were trained on is not known. other_bytes: other versions of
    the image under the same path, which were not searched."""

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
    """audit --where CONDITION --json: every model that used images that meet all conditions. published: upstream's
    weights that models here started from; which images these weights were trained on is not known."""

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

    making: how the trainings of A and B differ. It has the two values, in A and in B, by topic (such as params) and by
    key.

    images: the images that differ, by kind of change. The kinds are: added (only B has the image), removed (only A has
    it), renamed (its path changed), moved (it is in another split), pixels (its pixels changed) and labels (its labels
    changed).

    unknown: why images could not be compared. commits: the commits that added A and B. sources: the number of changed
    images, by kind of change and by the column `source` in metadata/. classes: the number of objects in the changed
    images, in A and in B, by kind of change and class. scores: the scores of the evaluations of A and B.
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
    """A mismatch. what: the file and the value that differ. by: where the expected value comes from."""

    subject: Annotated[str, Field(alias="what")]
    expected: str
    actual: Annotated[str, Field(alias="found")]
    by: list[str]


class UncheckedAnswer(FileSchema):
    """A comparison that was not possible. what: the file or value. why: the reason."""

    subject: Annotated[str, Field(alias="what")]
    why: str


class VerifyAnswer(Answer):
    """verify --json, with any of its options. holds: true if there is no mismatch. Entries in `unchecked` do not change
    it. checked: the number of comparisons."""

    holds: bool
    mismatches: list[MismatchAnswer]
    unchecked: list[UncheckedAnswer]
    notes: list[str]
    checked: Count


class ReasonAnswer(FileSchema):
    """Why a stage runs. what: the param, module, file or folder that changed. before, after: the old
    and the new state. If a param changed, they are its values. If a folder changed, they are its numbers of files. In
    all other cases they are digests. files: for a folder, the numbers of added, changed and removed files, if they are
    known."""

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
    """A stage that is not up to date. seconds: the duration of its last run; null: unknown. resumes_after: for an
    interrupted training, the number of finished epochs."""

    stage: str
    verdict: Literal["runs", "may run", "cached"]
    reasons: list[ReasonAnswer]
    seconds: float | None
    last: LastRunAnswer | None
    resumes_after: Count | None


class SecondsAnswer(FileSchema):
    """Sums of the known durations. runs: the stages that will run. all: the stages that will run or may run."""

    runs: float
    all: float


class PlanAnswer(Answer):
    """plan --json: what `dvc repro` will run, in its order. unknown: the stages whose duration is unknown."""

    stages: list[PlannedStageAnswer]
    seconds: SecondsAnswer
    unknown: list[str]
    notes: list[str]


class SubjectAnswer(FileSchema):
    """A file whose digest the statement has: a model file, or a document about it."""

    name: str
    digest: dict[str, str]


class Statement(FileSchema):
    """The file FILE.intoto.json, which attest FILE writes: an in-toto statement, version 1.

    predicate: SLSA provenance, version 1. externalParameters: the params of the training. internalParameters: packages,
    machine, counts, selection, Merkle roots and the heads of the journal. resolvedDependencies: the commit, and the
    files that the training read, with digests. runDetails: the signing key, the run record, when the training began and
    ended, and the weights digest. See docs/audit.md, Signatures.
    """

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
