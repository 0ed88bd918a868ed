"""Compares an exported file with its checkpoint, query by query, for single images and for batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.export.graph import CHOSEN
from rfdetr_core.inference.exported import as_input
from rfdetr_core.inference.sessions import Array, Session
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.model.proposals import best_tokens
from rfdetr_core.ops.structures import DetectorOutput

TOLERANCE = 1e-4  # of boxes relative to the image, of scores, and of the probabilities of mask pixels


@dataclass
class Differences:
    """The largest differences so far, and the number of compared queries.

    ties: queries for which the file chose another token with a nearly equal score.
    """

    boxes: float = 0.0
    scores: float = 0.0
    masks: float | None = None
    queries: int = 0
    ties: int = 0
    batches: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The measured differences as a dictionary, for the description of the file."""
        figures = {"tolerance": TOLERANCE, "boxes": self.boxes, "scores": self.scores}
        figures |= {} if self.masks is None else {"masks": self.masks}
        return figures | {"queries": self.queries, "ties": self.ties, "batches": sorted({*self.batches})}


@dataclass(frozen=True)
class FileWithTokens:
    """Sessions of a file and of its copy that also returns the tokens it chose.

    images: the input: normalised, uint8 or float, as in the file's description.
    """

    session: Session
    copy: Session
    images: str

    def run(self, pictures: Sequence[Image.Image], resolution: int) -> tuple[dict[str, Array], Array]:
        """The outputs of the file and the chosen tokens (B, Q), for pictures of one size."""
        batch = {self.session.inputs[0]: as_input(pictures, self.images, resolution)}
        return self.session.run(batch), self.copy.run(batch)[CHOSEN]


def compare(
    file: FileWithTokens,
    detector: Detector,
    architecture: Architecture,
    pictures: Sequence[Image.Image],
    batch: int | None,
) -> Differences:
    """Compare a float32 file with the detector on pictures and on noise, alone and in batches.

    Rounding may swap two tokens with nearly equal scores. Then queries get other tokens, and the outputs differ. So the
    detector runs with the tokens that the file chose. First the scores of these tokens are checked: each must equal the
    score of the detector's own choice within TOLERANCE.

    Args:
        file: the sessions of the file.
        detector: the network of the checkpoint.
        architecture: its numbers.
        pictures: images to compare on, besides noise.
        batch: images per run of the file; None: any number.

    Raises:
        UserError: a difference is larger than TOLERANCE, or a query has no counterpart.
    """
    differences = Differences()
    for batch_pictures in _batches(pictures, batch):
        outputs, chosen = file.run(batch_pictures, architecture.resolution)
        expected, ties = _run_with_tokens(
            detector, as_input(batch_pictures, "normalised", architecture.resolution), chosen
        )
        differences.ties += ties
        differences.batches.append(len(batch_pictures))
        differences.queries += chosen.size
        sizes = [(picture.height, picture.width) for picture in batch_pictures]
        compare_outputs = _compare_raw if "dets" in outputs else _compare_complete
        for name, value in compare_outputs(outputs, expected, sizes, architecture.queries).items():
            # numpy's maximum, unlike max(), keeps a NaN.
            setattr(differences, name, float(np.maximum(getattr(differences, name) or 0.0, value)))
    _require_close(differences)
    return differences


def _batches(pictures: Sequence[Image.Image], size: int | None) -> Iterator[list[Image.Image]]:
    """Yield batches of one picture and of three pictures of one size. With a fixed `size`: batches of this size."""
    for trio in (*map(_three_variants, pictures), noise()):
        if size is None:
            yield trio[:1]
            yield trio
        else:
            yield (trio * size)[:size]


def noise() -> list[Image.Image]:
    """Three pictures of noise. They are always the same."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (120, 200, 3), dtype=np.uint8)) for _ in range(3)]


def _run_with_tokens(detector: Detector, images: Array, chosen: Array) -> tuple[DetectorOutput, int]:
    """The detector's output for normalised images and the tokens (B, Q) that a file chose.

    Also returns how many of these tokens differ from those that the detector would choose.
    """
    ties = 0

    def replay(scores: Tensor, count: int) -> Tensor:
        nonlocal ties
        own_tokens, file_tokens = best_tokens(scores, count), torch.from_numpy(chosen).long()
        if file_tokens.shape != own_tokens.shape or not bool(
            ((file_tokens >= 0) & (file_tokens < scores.shape[1])).all()
        ):
            raise UserError(
                f"the file chooses tokens of shape {[*file_tokens.shape]}, the checkpoint {[*own_tokens.shape]}."
            )
        apart = (scores.gather(1, own_tokens) - scores.gather(1, file_tokens)).abs()
        ties += int((own_tokens != file_tokens).sum())
        if any(len(set(row)) < count for row in file_tokens.tolist()):
            raise UserError("the file starts two queries of one image from the same position.")
        if len(other := (apart > TOLERANCE).any(0).nonzero()):
            raise UserError(
                f"query {int(other[0])} has no counterpart: the file starts it from another position in the image."
            )
        return file_tokens

    proposer: Any = detector.proposer
    proposer.choose = replay
    try:
        with torch.inference_mode():
            return detector(torch.from_numpy(images)), ties
    finally:
        del proposer.choose


def _compare_raw(outputs: Mapping[str, Array], expected: DetectorOutput, *_: Any) -> dict[str, float]:
    differences = {
        "boxes": outputs["dets"] - expected.boxes.numpy(),
        "scores": _sigmoid(outputs["labels"]) - expected.logits.sigmoid().numpy(),
    }
    if isinstance(expected.masks, Tensor):
        differences["masks"] = _sigmoid(outputs["masks"]) - expected.masks.sigmoid().numpy()
    return {name: float(np.abs(value).max()) for name, value in differences.items()}


def _compare_complete(
    outputs: Mapping[str, Array], expected: DetectorOutput, sizes: Sequence[tuple[int, int]], limit: int
) -> dict[str, float]:
    """Match the detections of a file, one to one, with the (query, class) pairs of the checkpoint.

    If pairs have the same score as the last pair of the list, file and checkpoint may choose different pairs.
    """
    worst: dict[str, float] = {}
    queries, rows = expected.logits.shape[1:]
    without_masks = DetectorOutput(expected.logits, expected.boxes)
    for row, (size, reference) in enumerate(zip(sizes, postprocess(without_masks, sizes, queries * rows), strict=True)):
        last = float(reference.scores[limit - 1])
        count = int((reference.scores >= last - TOLERANCE).sum())
        certain = int((reference.scores > last + TOLERANCE).sum())
        sides = np.array([size[1], size[0]] * 2, dtype=np.float32)
        boxes, scores, classes = (outputs[name][row] for name in ("boxes", "scores", "classes"))
        box_differences = np.abs(boxes[:, None] - reference.boxes[:count].numpy()[None]).max(-1)  # (limit, count)
        box_differences /= sides.min()
        score_differences = np.abs(scores[:, None] - reference.scores[:count].numpy()[None])
        class_differs = classes[:, None] != reference.labels[:count].numpy()
        cost = np.nan_to_num(np.maximum(box_differences, score_differences), nan=1.0) + class_differs
        pairs = linear_sum_assignment(cost)
        file_rows, checkpoint_rows = pairs
        unmatched = {*range(certain)} - {*checkpoint_rows[cost[pairs] <= TOLERANCE].tolist()}
        if unmatched:
            rank = min(unmatched)
            raise UserError(
                f"detection {rank} of the checkpoint (class {int(reference.labels[rank])}, score "
                f"{float(reference.scores[rank]):.4f}) has no counterpart."
            )
        if len(file_rows) < limit or bool((cost[pairs] > TOLERANCE).any()):
            rank = int(file_rows[cost[pairs].argmax()])
            raise UserError(
                f"detection {rank} of the file (class {int(classes[rank])}, score {float(scores[rank]):.4f}) has no "
                "counterpart."
            )
        differences = {"boxes": box_differences[pairs].max(), "scores": score_differences[pairs].max()}
        if isinstance(expected.masks, Tensor):
            order = expected.logits[row].sigmoid().flatten().sort(descending=True, stable=True).indices
            masks = expected.masks[row, order[checkpoint_rows] // rows]
            differences["masks"] = np.abs(_sigmoid(outputs["masks"][row][file_rows]) - masks.sigmoid().numpy()).max()
        worst = {name: float(np.maximum(worst.get(name, 0.0), value)) for name, value in differences.items()}
    return worst


def _sigmoid(logits: Array) -> Array:
    return torch.from_numpy(logits).sigmoid().numpy()


def _require_close(differences: Differences) -> None:
    for name in ("boxes", "scores", "masks"):
        value = getattr(differences, name)
        if value is not None and not value <= TOLERANCE:
            raise UserError(f"{name} differ by {value:.2g} from those of the checkpoint, more than {TOLERANCE:g}.")


def compare_batches(session: Session, images: str, resolution: int, picture: Image.Image) -> float:
    """The largest difference between three pictures in a batch and alone, relative to the largest value.

    For int8 files, which are not compared with the checkpoint query by query.

    Args:
        session: the session of the file.
        images: the format of its input: normalised, uint8 or float.
        resolution: the side of a normalised input in pixels.
        picture: the first of the three pictures. The others are this picture mirrored and inverted.

    Raises:
        UserError: it is larger than TOLERANCE.
    """
    trio = _three_variants(picture)
    together = session.run({session.inputs[0]: as_input(trio, images, resolution)})
    worst = 0.0
    for row, single_picture in enumerate(trio):
        alone = session.run({session.inputs[0]: as_input([single_picture], images, resolution)})
        for name, value in alone.items():
            difference = np.abs(value[0].astype(np.float64) - together[name][row]).max()
            worst = float(np.maximum(worst, difference / max(1.0, float(np.abs(value).max()))))
    if not worst <= TOLERANCE:
        raise UserError(f"images in a batch differ by {worst:.2g} from the same images alone, more than {TOLERANCE:g}.")
    return worst


def _three_variants(picture: Image.Image) -> list[Image.Image]:
    """Three pictures of one size: the picture, mirrored and inverted."""
    return [picture, ImageOps.mirror(picture), ImageOps.invert(picture)]
