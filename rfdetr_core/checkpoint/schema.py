"""The fields that are read from model files, lineages, records and scores, with types and limits. Without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rfdetr_core.base.schema import Blob, Count, FileSchema, Md5, Name, Sha256, Text
from rfdetr_core.model.config import Channels, Classes, Groups, Number, Queries, Resolution, Scale

Score = Annotated[float, Field(allow_inf_nan=True)]
Listed = BeforeValidator(lambda value: list(value) if isinstance(value, tuple) else value)


class Args(FileSchema):
    """The training parameters of a model file: those that are read."""

    resolution: Resolution | None = None
    num_classes: Classes | None = None
    num_queries: Queries | None = None
    group_detr: Groups | None = None
    class_names: Annotated[list[Text], Listed] | None = None


class ModelFields(FileSchema):
    """Upstream's model_config: the fields that are read.

    encoder: upstream's name, or a name made of the encoder's width, blocks and heads.
    """

    encoder: Annotated[str, Field(max_length=100)]
    resolution: Resolution
    patch_size: Number
    num_windows: Number
    positional_encoding_size: Annotated[int, Field(ge=1, le=1024)]
    out_feature_indexes: Annotated[list[Number], Listed, Field(min_length=1, max_length=64)]
    projector_scale: Annotated[list[Scale], Listed, Field(min_length=1, max_length=4)]
    hidden_dim: Annotated[int, Field(ge=1, le=4096)]
    dec_layers: Number
    sa_nheads: Number
    ca_nheads: Number
    dec_n_points: Number
    num_queries: Queries
    group_detr: Groups
    num_classes: Classes
    num_channels: Channels
    segmentation_head: bool
    mask_downsample_ratio: Number


class Track(FileSchema):
    """The best epoch of a track, and its score."""

    score: Score | None
    epoch: Count | None


class Tracks(FileSchema):
    """The best epoch of the regular and of the EMA weights."""

    regular: Track
    ema: Track


class Scores(FileSchema):
    """scores.json, written by train. One more key is the name of the metric; its value has the schema `Tracks`."""

    epochs: Count


class Selection(Tracks):
    """selection.json, written by select_best. key: the metric. winner: the chosen track."""

    key: Text
    epochs: Count
    winner: Literal["ema", "regular"]


class Identity(FileSchema):
    """An input file: its size, and the git blob id of its content."""

    size: Count
    git: Blob


class Objects(FileSchema):
    """The numbers of images and of objects in a split."""

    images: Count
    objects: Count


class Root(FileSchema):
    """A Merkle tree: its number of leaves, and its root."""

    size: Count
    root: Sha256


class Parent(FileSchema):
    """The weights that a training started from."""

    name: Text
    sha256: Sha256
    tensors: Sha256
    record: Sha256 | None = None
    lineage: Lineage | None = None
    training: TrainingRecord | None = None


class InstalledClass(FileSchema):
    """A class of an installed package that params.yaml names (see `training.optimization.installed_classes`)."""

    module: Text
    package: Text | None
    version: Text | None
    sha256: Sha256 | None


class Custom(FileSchema):
    """The parts of a training that a Python script replaced (see `custom_part` of rfdetr_core/api/custom_record.py)."""

    classes: dict[Text, Sha256 | None] = Field(default_factory=dict)
    callbacks: dict[Text, dict[Text, Any] | Sha256 | None] = Field(default_factory=dict)
    missing: list[Text] = Field(default_factory=list)
    trainer: dict[Text, Any] = Field(default_factory=dict)
    weights: Sha256 | None = None


class TrainingRecord(FileSchema):
    """The training record, written by the stage train (see `training.record.record_of`)."""

    params: dict[Text, dict[Text, Any]]
    inputs: dict[Name, Sha256]
    weights: dict[Text, Sha256 | None] = Field(default_factory=dict)
    code: dict[Name, Sha256]
    classes: dict[Text, InstalledClass] = Field(default_factory=dict)
    packages: dict[Text, Text]
    machine: dict[Text, Text | int | float | dict[Text, Text] | None]
    files: dict[Name, Identity]
    counts: dict[Text, Objects]
    parents: dict[Text, Parent]
    lock: Sha256 | None = None
    roots: dict[Text, dict[Text, Root]] = Field(default_factory=dict)  # by split and tree (see `base.manifest.trees`)
    custom: Custom = Custom()


class Lineage(FileSchema):
    """What a model file carries: its training record, the selection, and digests. The stage strip writes it."""

    schema_: Annotated[int, Field(alias="schema")] = 1
    variant: Text | None
    training: TrainingRecord
    selection: Selection
    code: dict[Name, Sha256]
    description: Sha256 | None = None
    tensors: Sha256


class Run(FileSchema):
    """The field `run` of a resume state.

    fingerprint: keys and values that must be equal to resume. result: the MD5s of the files of a finished training.
    digest: of the resume state (see `files.content_digest`).
    """

    fingerprint: dict[Text, Any]
    finished: bool
    result: list[Md5] = Field(default_factory=list)
    digest: Sha256 | None = None


class Best(FileSchema):
    """The best epoch of a track so far. weights: tensors by name."""

    score: Score | None
    ranked: Score | None
    epoch: Count | None
    weights: dict[Text, Any] | None


class Content(FileSchema):
    """The fields of any checkpoint, without its tensors. Upstream's files have no training record and no lineage."""

    args: Args = Args()
    model_config_: Annotated[dict[Text, Any] | None, Field(alias="model_config")] = None  # see ModelFields
    model_name: Text | None = None
    rfdetr_version: Text | None = None
    epoch: Count | None = None
    best_total_source: Text | None = None
    threshold: float | None = None
    training_record: TrainingRecord | None = None
    lineage: Lineage | None = None


class ResumeState(FileSchema):
    """The fields that a resume state (checkpoint.pth) has in addition to those of a model file."""

    epoch: Count
    global_step: Count = 0
    run: Run


class RunState(FileSchema):
    """The content of a run folder's files, inside a resume state."""

    history: list[dict[Text, Score]]
    steps: list[Text] = Field(default_factory=list)
    best: dict[Literal["ema", "regular"], Best]


class ImageRow(FileSchema):
    """A row of a manifest in a commit (see `base.manifest.ManifestRow`)."""

    path: Text
    sha256: Sha256
    width: Count
    height: Count
    labels: Text
    pixels: Sha256 | None = None


class Manifest(FileSchema):
    """The content of a manifest."""

    rows: list[ImageRow]


class ModelFile(FileSchema):
    """The model file that a run record belongs to."""

    md5: Md5
    sha256: Sha256
    size: Count


class RecordFile(FileSchema):
    """A run record: a file in records/."""

    lineage: Lineage
    file: ModelFile
    run: dict[Text, Any] = Field(default_factory=dict)


class RunNote(FileSchema):
    """run.json of a run folder. record: the digest of the training record. run: facts such as start and duration."""

    record: Sha256
    run: dict[Text, Any]


class ScoredModel(FileSchema):
    """The model that an evaluation scored."""

    sha256: Sha256
    tensors: Sha256


class ScoredInput(Identity):
    """A file that an evaluation read."""

    sha256: Sha256


class Evaluation(FileSchema):
    """The lineage of an evaluation (see `evaluation.evaluate.write_lineage`)."""

    model: ScoredModel
    split: Text
    inputs: dict[Name, ScoredInput]
    params: dict[Text, dict[Text, Any]] = Field(default_factory=dict)
    code: dict[Name, Sha256] = Field(default_factory=dict)
    packages: dict[Text, Text] = Field(default_factory=dict)
    machine: dict[Text, Any] = Field(default_factory=dict)
    lock: Sha256 | None = None
