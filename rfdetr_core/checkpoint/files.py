"""Reads and writes checkpoints in upstream's layout. Equal content gives equal bytes; reading a file runs no code."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import replacing
from rfdetr_core.base.schema import FileSchema, check_values, require, short
from rfdetr_core.checkpoint.archive import load
from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours, upstream_weights
from rfdetr_core.checkpoint.schema import Content
from rfdetr_core.model.config import Architecture

FORMAT_VERSION = "1.11.2"  # the rfdetr release whose layout is written

ENCODERS = {(384, 12, 6): "dinov2_windowed_small", (768, 12, 12): "dinov2_windowed_base"}

# Upstream's model_config and Architecture name the same numbers.
MODEL_FIELDS = {
    "resolution": "resolution",
    "patch_size": "patch_size",
    "num_windows": "windows",
    "positional_encoding_size": "position_grid",
    "out_feature_indexes": "feature_indexes",
    "projector_scale": "projector_scales",
    "hidden_dim": "width",
    "dec_layers": "decoder_layers",
    "sa_nheads": "self_heads",
    "ca_nheads": "cross_heads",
    "dec_n_points": "points",
    "num_queries": "queries",
    "group_detr": "groups",
    "num_classes": "classes",
    "num_channels": "channels",
    "segmentation_head": "segmentation",
    "mask_downsample_ratio": "mask_downsample_ratio",
}
# Upstream's fields that have the same value for every detector here.
FIXED_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("two_stage", "bbox_reparam", "lite_refpoint_refine", "layer_norm"), True),
    **dict.fromkeys(("use_grouppose_keypoints", "dual_projector"), False),
    "num_decoder_registers": 0,
}
# Upstream's fields that do not affect the architecture, with the values that are written.
_OTHER_FIELDS: dict[str, Any] = {
    **dict.fromkeys(("amp", "fused_optimizer", "ia_bce_loss", "keypoint_cross_attn"), True),
    **dict.fromkeys(("gradient_checkpointing", "compile", "cuda_graphs", "freeze_encoder"), False),
    **dict.fromkeys(("inter_instance_kp_attn", "dual_projector_kp_only", "backbone_lora"), False),
    "grouppose_keypoint_dim_downscale": 1,
    "num_keypoints_per_class": [],
    "postprocess_trace_alpha": 0.2,
    "pretrain_weights": None,
    "device": "cpu",
    "license": "Apache-2.0",
}
_OPTIONAL = (
    *("model_name", "rfdetr_version", "best_total_source", "model_config", "training_record", "lineage", "epoch"),
    "threshold",
)
# The types of weights: a detector has no integer weights.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of this project or of upstream, any version.

    weights: by this project's names.
    args: the training parameters, with class_names.
    model_name: the class, such as RFDETRNano.
    model_config: upstream's 44 fields; empty if the file has none.
    epoch: counts from 0.
    best_total_source: the winner, "ema" or "regular". Only checkpoint_best_total.pth (upstream's name of the best
        checkpoint of a run) has this field.
    threshold: the score with the best F1 on valid.
    training_record, lineage: written by the stages train and strip.
    unknown: upstream's names of those weights that have no place in this project's models.
    other_keys: the keys of the file that no field above holds.
    path: the file that was read.
    """

    weights: dict[str, Tensor]
    args: dict[str, Any] = field(default_factory=dict)
    model_name: str | None = None
    model_config: dict[str, Any] = field(default_factory=dict)
    rfdetr_version: str | None = None
    epoch: int | None = None
    best_total_source: str | None = None
    threshold: float | None = None
    training_record: dict[str, Any] | None = None
    lineage: dict[str, Any] | None = None
    unknown: tuple[str, ...] = ()
    other_keys: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def training(self) -> dict[str, Any] | None:
        """The training record: its own field, else the one inside the lineage."""
        return self.training_record or (self.lineage or {}).get("training")


def tensor_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the weights of a detector. weights: by this project's names.

    The weights are sorted by upstream's names. Of each weight, name, dtype, shape and bytes (little-endian, row-major)
    are hashed, each after its length in 8 bytes. So the digest stays if a file is renamed or saved by another tool, and
    changes with any weight.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(upstream_weights(dict(weights)).items()):
        _update(digest, name.encode(), *_parts(tensor))
    return digest.hexdigest()


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 over everything in a resume state, except run.digest, which holds this digest.

    For each value its path is hashed, and then:

    - for a tensor, the parts that `tensor_digest` hashes;
    - for a container, its type and length;
    - for any other value, its type and repr().
    """
    digest, waiting = hashlib.sha256(), [("", {**content, "run": {**content["run"], "digest": None}})]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Tensor):
            _update(digest, place.encode(), *_parts(value))
            continue
        inner = (
            value.items() if isinstance(value, Mapping) else enumerate(value) if type(value) in (list, tuple) else ()
        )
        kind = "dict" if isinstance(value, Mapping) else type(value).__name__
        text = str(len(value)) if isinstance(value, Mapping | list | tuple) else repr(value)
        _update(digest, place.encode(), kind.encode(), text.encode())
        waiting += [(f"{place}/{key!r}", entry) for key, entry in inner]
    return digest.hexdigest()


def _parts(tensor: Tensor) -> tuple[bytes, bytes, memoryview]:
    """Dtype, shape and bytes (little-endian, row-major)."""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return str(tensor.dtype).removeprefix("torch.").encode(), ",".join(map(str, tensor.shape)).encode(), content


def _update(digest: hashlib._Hash, *parts: bytes | memoryview) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)


def make_checkpoint(
    architecture: Architecture, weights: Mapping[str, Tensor], *, class_names: Sequence[str], args: Mapping[str, Any]
) -> Checkpoint:
    """Make a checkpoint from a detector's weights.

    Args:
        architecture: Of the detector.
        weights: Its state_dict.
        class_names: In the order of the labels.
        args: The training parameters: plain values without paths. The numbers that upstream's loader needs are added,
            such as num_queries and group_detr.
    """
    added = {
        "class_names": list(class_names),
        "num_classes": architecture.classes,
        "num_queries": architecture.queries,
        "group_detr": architecture.groups,
        "patch_size": architecture.patch_size,
        "segmentation_head": architecture.segmentation,
    }
    return Checkpoint(dict(weights), dict(args) | added, architecture.name, model_config_of(architecture))


def model_config_of(architecture: Architecture) -> dict[str, Any]:
    """Upstream's ModelConfig (rfdetr/config.py) for an architecture: 44 fields.

    An encoder that upstream does not have is named after its width, blocks and heads.
    """
    encoder = (architecture.encoder_width, architecture.encoder_blocks, architecture.encoder_heads)
    numbers = {theirs: getattr(architecture, ours) for theirs, ours in MODEL_FIELDS.items()}
    return {
        "model_name": architecture.name,
        "encoder": ENCODERS.get(encoder) or "windowed_vit_" + "x".join(map(str, encoder)),
        "num_select": architecture.queries,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in numbers.items()},
        **FIXED_FIELDS,
        **_OTHER_FIELDS,
    }


def file_content(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content of the file that `write_checkpoint` writes. A resume state adds keys to it and uses `write_plain`."""
    model = dict(sorted(upstream_weights(checkpoint.weights).items()))
    content = {"model": model, "args": checkpoint.args, "rfdetr_version": FORMAT_VERSION}
    optional = {key: getattr(checkpoint, key) for key in _OPTIONAL if key not in content}
    return content | {key: value for key, value in optional.items() if value is not None}


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write, atomically, a file that upstream 1.11.2 and `read_checkpoint` load. Equal content gives equal bytes.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    write_plain(path, file_content(checkpoint))


def write_plain(path: Path, content: Mapping[str, Any]) -> None:
    """Save nested dicts, lists, tuples, tensors, texts and numbers with torch.save, atomically.

    The bytes depend only on the content: not on the file's name, on shared objects, or on the storage that a tensor is
    a view of.

    Raises:
        UserError: the folder cannot be written or the disk is full.
        TypeError: a value has another type. The message names its place.
    """
    plain = _plain(content, "content", set())
    with replacing(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)  # not the path: torch.save would write the stem of the file's name into the file
        torch.save(plain, cast(BinaryIO, sink))
        if sink.error is not None:
            raise sink.error


def read_plain(path: Path, schema: type[FileSchema] = FileSchema, *, tensors: bool = True) -> dict[str, Any]:
    """Read a file of torch.save. No code of the file is run.

    It may hold plain values, tensors, and the two namespace classes that older files use for `args`.

    Args:
        path: The file.
        schema: Its fields are checked; by default none.
        tensors: False: tensors without memory, on the device meta.

    Raises:
        UserError: the file cannot be read (see `archive.load`), or a field does not match the schema.
    """
    content = load(path, tensors=tensors)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not an RF-DETR checkpoint: it holds {type(content).__name__}, not a dict.")
    check_content(content, schema, path)
    return content


def read_training_record(path: Path) -> dict[str, Any] | None:
    """The training record of a checkpoint, read without its tensors. None: the file has none or is unreadable."""
    try:
        content = read_plain(path, tensors=False)
    except UserError:  # the error is reported when the weights are read
        return None
    lineage = content.get("lineage")
    training = content.get("training_record") or (lineage.get("training") if isinstance(lineage, dict) else None)
    return training if isinstance(training, dict) else None


def read_checkpoint(path: Path, *, finite: bool = True) -> Checkpoint:
    """Read a checkpoint of this project or of upstream: 1.11.2's .pth or .ckpt, a published file, or an older one.

    finite: False also allows weights that are NaN or infinite, to analyse a training step that was not finite.

    Raises:
        UserError: the file cannot be read (see `read_plain`), is not of RF-DETR, or is of an unsupported kind; or a
            weight is not a tensor of real, finite numbers.
    """
    content = read_plain(path)
    args = content.get("args", content.get("hyper_parameters"))
    completed = content | {"args": {} if args is None else args}
    check_content(completed, Content, path)
    model = _model_of(content, path)
    if any(".base_model.model." in name for name in model):
        raise UserError(f"{path} holds LoRA adapters. Merge them with upstream's rfdetr first, then load the result.")
    mask = model.pop(KEYPOINT_MASK, None)
    if mask is not None and mask.numel():
        raise UserError(f"{path} is a keypoint model; detection and segmentation models are supported.")
    weights, unknown = {}, []
    for name, tensor in model.items():
        try:
            weights[to_ours(name)] = tensor
        except KeyError:
            unknown.append(name)
            continue
        if problem := _not_real(tensor) or (finite and _not_finite(tensor)):
            raise UserError(f"{path}: the weight {name} {problem}. Get the file again, or train again.")
    optional = {key: content[key] for key in _OPTIONAL if content.get(key) is not None}
    other_keys = tuple(short(str(key)) for key in content if key not in optional and key not in ("model", "args"))
    return Checkpoint(weights, completed["args"], unknown=tuple(unknown), other_keys=other_keys, path=path, **optional)


def _not_real(tensor: Tensor) -> str:
    names = [str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, *_DTYPES)]
    return "" if tensor.dtype in _DTYPES else f"is of type {names[0]}, not {', '.join(names[1:])}"


def _not_finite(tensor: Tensor) -> str:
    # If a value is NaN, aminmax() gives NaN twice. isfinite() of all values takes ten times as long.
    finite = not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())
    return "" if finite else "has values that are not finite"


def check_content(content: dict[str, Any], schema: type[FileSchema], path: Path) -> None:
    """Compare the fields of a checkpoint with a schema. Fields that the schema does not have are not checked.

    Args:
        content: The content of the file.
        schema: The fields that are checked; the file may lack them.
        path: Names the file in messages.

    Raises:
        UserError: a field is wrong. The message names the first one.
    """
    keys = [info.alias or name for name, info in schema.model_fields.items()]
    known_fields = {key: content[key] for key in keys if key in content}
    for key, value in known_fields.items():
        check_values(value, str(path), key)
    require(schema, known_fields, str(path))


def _model_of(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    model = content.get("model")
    if model is None and isinstance(content.get("state_dict"), dict):
        # Lightning's layout: the module's attribute `model`, which torch.compile may have wrapped.
        own_weights = {name: tensor for name, tensor in content["state_dict"].items() if str(name).startswith("model.")}
        model = {name.removeprefix("model.").removeprefix("_orig_mod."): tensor for name, tensor in own_weights.items()}
    if not isinstance(model, dict) or "class_embed.weight" not in model:
        raise UserError(
            f"{path} is not an RF-DETR checkpoint: it has no `model` or `state_dict` with RF-DETR's weights."
        )
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in model.items()):
        raise UserError(f"{path} is not an RF-DETR checkpoint: its `model` holds something other than named tensors.")
    check_values(list(model), str(path), "the names of its weights")
    return dict(model)


class _Sink:
    """Writes to a file and keeps the first error. An exception raised inside torch.save's writer aborts the process."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass


def _plain(value: Any, place: str, storages: set[int]) -> Any:
    """Rebuild a value so that equal content gives equal pickles.

    Pickle writes an object that it has met before as a reference. So the copy must not depend on which objects are
    shared.

    storages: the memory of the tensors so far. A tensor is copied only if it shares memory or is a view.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != tensor.numel() * tensor.element_size():
            return tensor.clone(memory_format=torch.contiguous_format)
        storages.add(storage.data_ptr())
        # Normalise the strides: for a side of 1, torch may keep any stride, and the file would contain it.
        return tensor.flatten().view(tensor.shape)
    if type(value) is str:
        return sys.intern(value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {
            _plain(key, place, storages): _plain(entry, f"{place}[{key!r}]", storages) for key, entry in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(_plain(entry, f"{place}[{index}]", storages) for index, entry in enumerate(value))
    raise TypeError(f"{place} is a {type(value).__name__}: a checkpoint holds plain values and tensors only")
