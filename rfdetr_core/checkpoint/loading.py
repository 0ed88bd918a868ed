"""Weights into a detector: what fits is taken, what upstream's loader adapts is adapted, anything else is an error."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.schema import require
from rfdetr_core.checkpoint.files import ENCODERS, FIXED_FIELDS, MODEL_FIELDS, Checkpoint, read_checkpoint
from rfdetr_core.checkpoint.schema import ModelFields
from rfdetr_core.model.config import VARIANTS, Architecture, invalid_reason, resized
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.model.vit import resize_positions

# Ids run from 1 to 90; ten of them were never used.
_LIST = (
    "|person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant||stop sign|"
    "parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe||backpack|umbrella|||"
    "handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove|skateboard|"
    "surfboard|tennis racket|bottle||wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|"
    "broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed||dining table|||toilet||tv|laptop|"
    "mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|refrigerator||book|clock|vase|scissors|"
    "teddy bear|hair drier|toothbrush"
)
COCO_NAMES = tuple(_LIST.split("|"))
# Upstream's two forms: a dict by COCO id, and a list.
COCO_CLASSES = {number: name for number, name in enumerate(COCO_NAMES) if name}
COCO_CLASS_NAMES = [*COCO_CLASSES.values()]
TAKEN, LEFT = "taken", "left at the initial value"
_CLASS_HEADS = re.compile(r"(proposer\.groups\.\d+\.)?class_head\.(weight|bias)")
_BY_NAME = {variant.name: variant for variant in VARIANTS.values()}
# What may differ between a file and the detector; all else must agree.
_FREE = {"resolution", "position_grid", "queries", "groups", "classes", "channels"}


@dataclass(frozen=True)
class LoadReport:
    """What became of each weight of the detector, by name; `unused` are those of the file that found no place."""

    actions: dict[str, str]
    unused: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The weights that the file does not have."""
        return tuple(name for name, action in self.actions.items() if action == LEFT)

    def describe(self) -> str:
        """One line per part of the detector, such as `class_head: 2 cut from 91 to 4 rows`."""
        parts: dict[str, Counter[str]] = {}
        for name, action in self.actions.items():
            parts.setdefault(name.split(".")[0], Counter())[action] += 1
        lines = [
            f"{part}: " + ", ".join(f"{n} {action}" for action, n in counts.items()) for part, counts in parts.items()
        ]
        if self.unused:
            lines.append(f"not used: {len(self.unused)} of the file, such as {self.unused[0]}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Loaded:
    """A detector made from a file."""

    detector: Detector
    architecture: Architecture
    checkpoint: Checkpoint
    report: LoadReport


def build_from_checkpoint(path: Path, **changes: Any) -> Loaded:
    """The detector that a file describes, in eval mode, with its weights. torch's random state is left as it was.

    `changes`: fields of Architecture to set otherwise, such as resolution=640 or classes=3.

    Raises:
        UserError: no checkpoint, its architecture cannot be told, or a weight is missing or does not fit.
    """
    checkpoint = read_checkpoint(path)
    architecture = architecture_of(checkpoint)
    _require_shapes(checkpoint, architecture)  # before memory is taken for them
    if "resolution" in changes:
        changes = resized(architecture, changes["resolution"]) | changes
    architecture = replace(architecture, **changes)
    with torch.random.fork_rng(devices=[]):
        detector = build_detector(architecture)
    report = load_weights(detector, architecture, checkpoint)
    if report.missing:
        raise UserError(f"{path} is incomplete: it lacks {len(report.missing)} weights, such as {report.missing[0]}.")
    return Loaded(detector.eval(), architecture, checkpoint, report)


def load_weights(
    detector: Detector, architecture: Architecture, checkpoint: Checkpoint, class_names: Sequence[str] = ()
) -> LoadReport:
    """Put a checkpoint's weights into a detector that was built as `architecture`.

    The rules are upstream's (rfdetr/models/weights.py): class rows are cut, or repeated where there are more classes;
    the first queries of the first groups are kept; position embeddings are resampled; RGB patch weights are averaged
    or repeated for other channels. A weight that the file lacks keeps its value and is reported.

    Beyond upstream: where the file has a name of its own for each class row, and some of `class_names` are among them,
    each class gets the row of its name, and a class that the file does not have keeps its initial row. Published files
    have fewer names than rows: their rows are taken by number, as upstream does.

    Raises:
        UserError: weights of another variant, too few queries or groups, or a weight of another shape.
    """
    facts, source = _facts(checkpoint), _source_of(checkpoint)
    _require_same_variant(architecture, facts, checkpoint)
    for field, key in (("queries", "model.num_queries"), ("groups", "model.group_detr")):
        if facts[field] < getattr(architecture, field):
            raise UserError(f"{source} has {facts[field]} {field}, {key} asks for {getattr(architecture, field)}.")
    if architecture.channels != facts["channels"] != 3:
        raise UserError(f"{source} has {facts['channels']} channels, model.num_channels is {architecture.channels}.")
    stored = replace(architecture, **{key: value for key, value in facts.items() if key in _FREE - {"resolution"}})
    _require_shapes(checkpoint, stored)
    state, rows = detector.state_dict(), _rows_by_name(checkpoint, facts["classes"], class_names)
    actions = dict.fromkeys(state, LEFT)
    for name in [name for name in state if name in checkpoint.weights]:
        tensor = checkpoint.weights[name]
        if rows and _CLASS_HEADS.fullmatch(name):
            state[name] = torch.stack(
                [initial if row is None else tensor[row] for initial, row in zip(state[name], rows, strict=True)]
            )
            new = [name for name, row in zip(class_names, rows[:-1], strict=True) if row is None]
            actions[name] = "matched by class name" + (f" (new: {listed(new)})" if new else "")
        else:
            state[name], actions[name] = _fit(name, tensor, facts, architecture)
    detector.load_state_dict(state)
    return LoadReport(actions, (*(name for name in checkpoint.weights if name not in state), *checkpoint.unknown))


def class_names_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The name of each class label: the file's own, else COCO's by category id for a head of 91 rows, else the number.

    COCO's 80 names in a row also mean the ids, as upstream reads them, when the head has 91 rows.
    """
    names, classes = _class_names(checkpoint), (_from_weights(checkpoint) or _from_config(checkpoint))["classes"]
    if classes + 1 == len(COCO_NAMES) and names in ((), tuple(filter(None, COCO_NAMES))):
        return tuple(name or str(label) for label, name in enumerate(COCO_NAMES))
    return names or tuple(str(label) for label in range(classes))


def _class_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    names = checkpoint.args.get("class_names")
    is_list_of_names = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list_of_names and names else ()


def threshold_of(checkpoint: Checkpoint) -> float | None:
    """The score threshold that a file recommends. UserError: no number from 0 to 1."""
    if checkpoint.threshold is not None and not 0 <= checkpoint.threshold <= 1:
        raise UserError(f"{_source_of(checkpoint)}: threshold is {checkpoint.threshold}; it must be from 0 to 1.")
    return checkpoint.threshold


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The architecture that a checkpoint's weights belong to.

    It is read from model_config, which upstream's files have since 1.8 and ours always. Other files are recognised by
    the shapes of their weights, and by the published name in their `args` or of the file where two variants fit. Of an
    exported file, which has no weights to look at, model_config says all but the widths of the layers within a block:
    those are the variant's.

    Raises:
        UserError: neither tells, the two contradict each other, or the model is of a kind that is not supported here.
    """
    facts = _facts(checkpoint)
    named = _named(checkpoint, facts)
    if checkpoint.model_config:
        name = checkpoint.model_name or (named.name if named else "RFDETR")
        return replace(named or Architecture(name, None, facts["resolution"]), **facts, name=name)
    fitting, grid = _fitting(facts), facts["position_grid"]
    variants = [named] if named in fitting else [v for v in fitting if v.position_grid == grid] or fitting
    if len(variants) != 1:
        could_be = " or ".join(variant.name for variant in variants) or "no variant that is known here"
        raise UserError(
            f"{_source_of(checkpoint)} does not say which model it is; by its weights it is {could_be}. "
            "Name the variant and give this file as its pretrain_weights."
        )
    resolution = variants[0].resolution if variants[0].position_grid == grid else grid * variants[0].patch_size
    return replace(variants[0], **facts, resolution=resolution)


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Fields of Architecture that the file tells and, above that, what its weights show."""
    from_weights, from_config = _from_weights(checkpoint), _from_config(checkpoint)
    checked = from_config.keys() & from_weights.keys() - _FREE
    differences = [
        f"{key} {from_config[key]}, its weights {from_weights[key]}"
        for key in sorted(checked)
        if from_config[key] != from_weights[key]
    ]
    if differences:
        raise UserError(f"{_source_of(checkpoint)} contradicts itself: its model_config says {'; '.join(differences)}.")
    return from_config | from_weights


def _from_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config: dict[str, Any] = {}
    fields = checkpoint.model_config
    if not fields:
        return config
    source = f"{_source_of(checkpoint)}: model_config"
    require(ModelFields, fields, _source_of(checkpoint), "model_config")
    for theirs, ours in MODEL_FIELDS.items():
        value = fields[theirs]
        config[ours] = tuple(value) if isinstance(value, list) else value
    for key, usual in FIXED_FIELDS.items():
        if fields.get(key, usual) != usual:
            raise UserError(f"{source}.{key} is {fields[key]!r}; only models with {usual!r} are supported.")
    encoder, encoders = str(fields.get("encoder")), {name: numbers for numbers, name in ENCODERS.items()}
    if own := re.fullmatch(r"windowed_vit_(\d+)x(\d+)x(\d+)", encoder):
        encoders[encoder] = (int(own[1]), int(own[2]), int(own[3]))
    if encoder not in encoders:
        raise UserError(f"{source}.encoder is {encoder!r}; supported are {', '.join(encoders)}.")
    return config | dict(zip(("encoder_width", "encoder_blocks", "encoder_heads"), encoders[encoder], strict=True))


def _from_weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the weights show; nothing of an exported file's checkpoint, which has none."""
    if not checkpoint.weights and checkpoint.model_config:
        return {}
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}

    def count(start: str, end: str) -> int:
        return sum(name.startswith(start) and name.endswith(end) for name in shapes)

    try:
        encoder_width, channels, patch_size, _ = shapes["encoder.patch_projection.weight"]
        rows, width = shapes["class_head.weight"]
        groups = count("proposer.groups.", ".project.weight")
        found = {
            "encoder_width": encoder_width,
            "encoder_blocks": count("encoder.blocks.", ".norm1.weight"),
            "encoder_mlp_ratio": shapes["encoder.blocks.0.expand.weight"][0] // encoder_width,
            "patch_size": patch_size,
            "channels": channels,
            "position_grid": math.isqrt(shapes["encoder.position_embeddings"][1] - 1),
            "width": width,
            "decoder_layers": count("decoder.layers.", ".expand.weight"),
            "feedforward_width": shapes["decoder.layers.0.expand.weight"][0],
            "groups": groups,
            "queries": shapes["query_boxes"][0] // groups,
            "classes": rows - 1,
            "segmentation": "segmentation.bias" in shapes,
        }
        if odd := [key for key, value in found.items() if value < 1 and key != "segmentation"]:
            raise ValueError(f"by its weights it has no {odd[0]}")
        return found
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{_source_of(checkpoint)} is no complete RF-DETR model ({error}).") from None


def _require_shapes(checkpoint: Checkpoint, stored: Architecture) -> None:
    """Compare the weights of a file with a detector without memory, built as the file says.

    Raises:
        UserError: no detector has these numbers, or a weight is missing or of another shape.
    """
    source = _source_of(checkpoint)
    if problem := invalid_reason(stored):
        raise UserError(f"{source}: {problem}.")
    with torch.device("meta"):
        state = build_detector(stored).state_dict()
    for name, tensor in checkpoint.weights.items():
        if name in state and tensor.shape != state[name].shape:
            raise UserError(f"{source}: {name} is {[*tensor.shape]}, {stored.name} has {[*state[name].shape]}.")


def _fitting(facts: dict[str, Any]) -> list[Architecture]:
    fixed = facts.keys() - _FREE
    return [variant for variant in VARIANTS.values() if all(getattr(variant, key) == facts[key] for key in fixed)]


def _named(checkpoint: Checkpoint, facts: dict[str, Any]) -> Architecture | None:
    """The variant that a file names: as upstream, by model_name, else by a published name in `args` or of the file."""
    if checkpoint.model_name in _BY_NAME:
        return _BY_NAME[checkpoint.model_name]
    files = {Path(str(checkpoint.args.get("pretrain_weights"))).name, checkpoint.path.name if checkpoint.path else ""}
    return next((variant for variant in _fitting(facts) if variant.weights_file in files), None)


def _require_same_variant(architecture: Architecture, facts: dict[str, Any], checkpoint: Checkpoint) -> None:
    own_values = vars(architecture)
    differences = {field: value for field, value in facts.items() if field not in _FREE and value != own_values[field]}
    different = [f"{field} {value} instead of {own_values[field]}" for field, value in differences.items()]
    named = _named(checkpoint, facts)
    if different or (named and architecture.name in _BY_NAME and named.name != architecture.name):
        variants = [named] if named else _fitting(facts)
        name = checkpoint.model_name or " or ".join(variant.name for variant in variants) or "another model"
        reason = f" ({'; '.join(different)})" if different else ""
        raise UserError(
            f"{_source_of(checkpoint)} holds weights of {name}, not of {architecture.name}{reason}. "
            "Choose the variant that the weights are of, or weights of the variant."
        )


def _source_of(checkpoint: Checkpoint) -> str:
    return str(checkpoint.path or "the checkpoint")


def _fit(name: str, tensor: Tensor, facts: dict[str, Any], architecture: Architecture) -> tuple[Tensor, str]:
    """A weight as the architecture needs it, and what was done."""
    queries, groups, side = architecture.queries, architecture.groups, architecture.position_grid
    if name in ("query_boxes", "query_features") and (queries, groups) != (facts["queries"], facts["groups"]):
        change = f"cut from {facts['groups']} groups of {facts['queries']} to {groups} of {queries}"
        return first_queries(tensor, facts["groups"], queries, groups), change
    if _CLASS_HEADS.fullmatch(name) and architecture.classes != facts["classes"]:
        rows = architecture.classes + 1
        change = "cut" if rows < len(tensor) else "tiled"
        return repeat_rows(tensor, rows), f"{change} from {len(tensor)} to {rows} rows"
    if name == "encoder.position_embeddings" and side != facts["position_grid"]:
        return resize_positions(tensor, side, side), f"resized from {facts['position_grid']} to {side} positions a side"
    if name == "encoder.patch_projection.weight" and architecture.channels != facts["channels"]:
        change = "averaged" if architecture.channels == 1 else "tiled"
        return adapt_channels(tensor, architecture.channels), f"{change} from 3 to {architecture.channels} channels"
    return tensor, TAKEN


def _rows_by_name(checkpoint: Checkpoint, classes: int, class_names: Sequence[str]) -> list[int | None]:
    """For each class its row in the file's class head, None if the file lacks it; then the row of no object.

    Empty where rows are taken by number.
    """
    file_names = _class_names(checkpoint)
    if (
        file_names == tuple(class_names)
        or len(file_names) != classes
        or len({*file_names}) < classes
        or not {*class_names} & {*file_names}
    ):
        return []
    return [*(file_names.index(name) if name in file_names else None for name in class_names), classes]


def repeat_rows(tensor: Tensor, rows: int) -> Tensor:
    """The first `rows` rows of a tensor that is repeated as often as needed."""
    return torch.cat([tensor] * -(-rows // len(tensor)))[:rows]


def first_queries(tensor: Tensor, stored_groups: int, queries: int, groups: int) -> Tensor:
    """(G*Q, C), group after group, to the first queries of each of the first groups."""
    return torch.cat([group[:queries] for group in tensor.chunk(stored_groups)[:groups]])


def adapt_channels(tensor: Tensor, channels: int) -> Tensor:
    """RGB patch weights (C, 3, p, p) for other channels; a grey image keeps its strength (rfdetr/inference.py)."""
    if channels == 1:
        return tensor.mean(dim=1, keepdim=True)
    return tensor.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3.0 / channels)
