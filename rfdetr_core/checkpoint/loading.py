"""Loads a checkpoint's weights into a detector. Weights are adapted as upstream's loader does; any other mismatch is an
error.
"""

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
# Upstream has the classes in two forms: a dict by COCO id, and a list of names.
COCO_CLASSES = {number: name for number, name in enumerate(COCO_NAMES) if name}
COCO_CLASS_NAMES = [*COCO_CLASSES.values()]
TAKEN, LEFT = "taken", "left at the initial value"
_CLASS_HEADS = re.compile(r"(proposer\.groups\.\d+\.)?class_head\.(weight|bias)")
_BY_NAME = {variant.name: variant for variant in VARIANTS.values()}
# The fields of Architecture that may differ between a file and the detector. All others must be equal.
_FREE = {"resolution", "position_grid", "queries", "groups", "classes", "channels"}


@dataclass(frozen=True)
class LoadReport:
    """The result of loading. actions: weight of the detector -> how it was set. unused: weights only in the file."""

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
    """Build the detector that a checkpoint describes, with its weights, in eval mode. Keeps torch's random state.

    changes: Fields of Architecture to override, such as resolution=640 or classes=3.

    Raises:
        UserError: the file is not a checkpoint, its architecture is unknown, or a weight is missing or does not fit.
    """
    checkpoint = read_checkpoint(path)
    architecture = architecture_of(checkpoint)
    _require_shapes(checkpoint, architecture)  # before memory is allocated for the detector
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

    The rules are upstream's (rfdetr/models/weights.py):
    - Class rows are cut, or repeated if the detector has more classes.
    - The first queries of the first groups are kept.
    - Position embeddings are resampled.
    - RGB patch weights are averaged or repeated for other channels.
    - A weight that the file does not have keeps its value and is reported.

    One rule is not upstream's: class rows are matched by name, if the file has a different name for each class row and
    some of `class_names` are among them. Then a class whose name the file does not have keeps its initial row.
    Published files have fewer names than rows; their rows are taken by number, as upstream does.

    Args:
        detector: Its weights are replaced.
        architecture: The detector was built from it.
        checkpoint: The weights to load.
        class_names: The names of the detector's classes. Empty: rows are taken by number.

    Raises:
        UserError: the weights are of another variant or shape, or have too few queries or groups.
    """
    facts, source = _facts(checkpoint), _source_of(checkpoint)
    _require_same_variant(architecture, facts, checkpoint)
    for field, key in (("queries", "model.num_queries"), ("groups", "model.group_detr")):
        if facts[field] < getattr(architecture, field):
            raise UserError(
                f"{source} has {facts[field]} {field}, but {key} is {getattr(architecture, field)}. Lower it."
            )
    if architecture.channels != facts["channels"] != 3:
        raise UserError(
            f"{source} has {facts['channels']} channels, but model.num_channels is {architecture.channels}. "
            f"Set it to {facts['channels']}."
        )
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
            state[name], actions[name] = _adapt_weight(name, tensor, facts, architecture)
    detector.load_state_dict(state)
    return LoadReport(actions, (*(name for name in checkpoint.weights if name not in state), *checkpoint.unknown))


def class_names_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The name of each class label.

    These are the names in the file. A file without names gets COCO's names by category id if its head has 91 rows, else
    the numbers of the labels. If the head has 91 rows and the file lists COCO's 80 names, they are assigned to the
    category ids, too; upstream does the same.
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
    """The score threshold that a file recommends. Raises a UserError if it is not from 0 to 1."""
    if checkpoint.threshold is not None and not 0 <= checkpoint.threshold <= 1:
        raise UserError(f"{_source_of(checkpoint)}: threshold is {checkpoint.threshold}; it must be from 0 to 1.")
    return checkpoint.threshold


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The architecture of a checkpoint's weights.

    It is read from model_config, which upstream's files have since 1.8, and this project's files always. Other files
    are recognised by the shapes of their weights. If several variants have these shapes, the file's model_name decides,
    else a published file name (in `args`, or the file's own), else the number of position embeddings.

    An exported file has no weights in its checkpoint. Its model_config has everything except the widths of the layers
    within a block; these are taken from the variant.

    Raises:
        UserError: the file does not say its architecture, model_config and weights contradict each other, or the model
            is of an unsupported kind.
    """
    facts = _facts(checkpoint)
    named = _named(checkpoint, facts)
    if checkpoint.model_config:
        name = checkpoint.model_name or (named.name if named else "RFDETR")
        return replace(named or Architecture(name, None, facts["resolution"]), **facts, name=name)
    matching, grid = _matching_variants(facts), facts["position_grid"]
    variants = [named] if named in matching else [v for v in matching if v.position_grid == grid] or matching
    if len(variants) != 1:
        could_be = " or ".join(variant.name for variant in variants) or "no known variant"
        raise UserError(
            f"{_source_of(checkpoint)} does not say which model it is. By its weights it is {could_be}. "
            "Name the variant and give this file as its pretrain_weights."
        )
    resolution = variants[0].resolution if variants[0].position_grid == grid else grid * variants[0].patch_size
    return replace(variants[0], **facts, resolution=resolution)


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The known fields of Architecture, from model_config. The shapes of the weights override them.

    Raises:
        UserError: model_config and weights contradict each other.
    """
    from_weights, from_config = _from_weights(checkpoint), _from_config(checkpoint)
    checked = from_config.keys() & from_weights.keys() - _FREE
    differences = [
        f"{key} {from_config[key]}, but its weights have {from_weights[key]}"
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
    if match := re.fullmatch(r"windowed_vit_(\d+)x(\d+)x(\d+)", encoder):
        encoders[encoder] = (int(match[1]), int(match[2]), int(match[3]))
    if encoder not in encoders:
        raise UserError(f"{source}.encoder is {encoder!r}; supported are {', '.join(encoders)}.")
    return config | dict(zip(("encoder_width", "encoder_blocks", "encoder_heads"), encoders[encoder], strict=True))


def _from_weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of Architecture that the shapes of the weights give. Empty for an exported file: it has no weights."""
    if not checkpoint.weights and checkpoint.model_config:
        return {}
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}

    def count(start: str, end: str) -> int:
        return sum(name.startswith(start) and name.endswith(end) for name in shapes)

    try:
        encoder_width, channels, patch_size, _ = shapes["encoder.patch_projection.weight"]
        rows, width = shapes["class_head.weight"]
        groups = count("proposer.groups.", ".project.weight")
        fields = {
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
        if absent := [key for key, value in fields.items() if value < 1 and key != "segmentation"]:
            raise ValueError(f"by its weights it has no {absent[0]}")
        return fields
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{_source_of(checkpoint)} is not a complete RF-DETR model ({error}).") from None


def _require_shapes(checkpoint: Checkpoint, stored: Architecture) -> None:
    """Compare the shapes of a file's weights with those of a detector on the device meta, which takes no memory.

    Raises:
        UserError: a detector with these numbers is impossible, or a weight has another shape.
    """
    source = _source_of(checkpoint)
    if problem := invalid_reason(stored):
        raise UserError(f"{source}: {problem}.")
    with torch.device("meta"):
        state = build_detector(stored).state_dict()
    for name, tensor in checkpoint.weights.items():
        if name in state and tensor.shape != state[name].shape:
            raise UserError(
                f"{source}: {name} has the shape {[*tensor.shape]}, but {stored.name} needs {[*state[name].shape]}."
            )


def _matching_variants(facts: dict[str, Any]) -> list[Architecture]:
    fixed = facts.keys() - _FREE
    return [variant for variant in VARIANTS.values() if all(getattr(variant, key) == facts[key] for key in fixed)]


def _named(checkpoint: Checkpoint, facts: dict[str, Any]) -> Architecture | None:
    """The variant that a file names: by model_name, else by a published file name in `args` or of the file itself."""
    if checkpoint.model_name in _BY_NAME:
        return _BY_NAME[checkpoint.model_name]
    files = {Path(str(checkpoint.args.get("pretrain_weights"))).name, checkpoint.path.name if checkpoint.path else ""}
    return next((variant for variant in _matching_variants(facts) if variant.weights_file in files), None)


def _require_same_variant(architecture: Architecture, facts: dict[str, Any], checkpoint: Checkpoint) -> None:
    own_values = vars(architecture)
    differences = {field: value for field, value in facts.items() if field not in _FREE and value != own_values[field]}
    different = [f"{field} {value} instead of {own_values[field]}" for field, value in differences.items()]
    named = _named(checkpoint, facts)
    if different or (named and architecture.name in _BY_NAME and named.name != architecture.name):
        variants = [named] if named else _matching_variants(facts)
        name = checkpoint.model_name or " or ".join(variant.name for variant in variants) or "another model"
        reason = f" ({'; '.join(different)})" if different else ""
        raise UserError(
            f"{_source_of(checkpoint)} holds weights of {name}, not of {architecture.name}{reason}. "
            "Choose the variant of these weights, or weights of the chosen variant."
        )


def _source_of(checkpoint: Checkpoint) -> str:
    return str(checkpoint.path or "the checkpoint")


def _adapt_weight(name: str, tensor: Tensor, facts: dict[str, Any], architecture: Architecture) -> tuple[Tensor, str]:
    """Adapt a weight to the architecture. Returns the new weight, and a text about the change."""
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
    """The row of each class in the file's class head, then the row of "no object". None: the file lacks the class.

    An empty list: the names are equal or cannot be matched, so the rows are taken by number.
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
    """Cut a tensor to its first `rows` rows, or repeat its rows until it has `rows`."""
    return torch.cat([tensor] * -(-rows // len(tensor)))[:rows]


def first_queries(tensor: Tensor, stored_groups: int, queries: int, groups: int) -> Tensor:
    """Keep the first `queries` of each of the first `groups`.

    Args:
        tensor: (stored_groups * stored queries, C), group after group.
        stored_groups: The number of groups in the tensor.
        queries: Queries to keep of each group.
        groups: Groups to keep.
    """
    return torch.cat([group[:queries] for group in tensor.chunk(stored_groups)[:groups]])


def adapt_channels(tensor: Tensor, channels: int) -> Tensor:
    """Adapt RGB patch weights (C, 3, p, p) to another number of channels, as rfdetr/inference.py does.

    They are scaled so that a grey image gives about the same features.
    """
    if channels == 1:
        return tensor.mean(dim=1, keepdim=True)
    return tensor.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3.0 / channels)
