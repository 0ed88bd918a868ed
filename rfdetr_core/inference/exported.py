"""ExportedPredictor for .onnx and .xml files, and load_predictor for a model file of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import SUFFIXES, Description, read_exported
from rfdetr_core.checkpoint.loading import architecture_of, threshold_of
from rfdetr_core.data.preprocess import normalise, pixels
from rfdetr_core.inference.predictor import BasePredictor, Predictor
from rfdetr_core.inference.sessions import AGAIN, Array, Session, open_session
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.postprocess import postprocess, resize_masks
from rfdetr_core.ops.structures import Detections, DetectorOutput

PRECISIONS = {"fp32": "f32", "int8": "int8"}  # precision in a description -> precision of its session


class ExportedPredictor(BasePredictor):
    """Predicts with an exported file. Arguments and results are those of `Predictor`.

    For a raw file (`description.postprocess` is false), images are prepared and detections are chosen here, as for a
    checkpoint. A complete file does both itself.

    Args:
        session: The file in its runtime.
        description: Of the file.
        architecture: Of the checkpoint that was exported.
        batch_size: Images that go through the file at a time. A file with a fixed batch size uses at least that size.
        threshold: See `BasePredictor`.

    Raises:
        UserError: the inputs, the outputs or the precision of the file differ from its description.
    """

    def __init__(
        self,
        session: Session,
        description: Description,
        architecture: Architecture,
        *,
        batch_size: int | None = None,
        threshold: float | None = None,
    ) -> None:
        super().__init__(
            architecture,
            description.class_names,
            device=session.device,
            batch_size=max(batch_size or 1, description.batch_size or 1),
            threshold=threshold,
            source=session.path,
        )
        self.session, self.description = session, description
        expected = ("images", "boxes", "scores", "classes") if description.postprocess else ("input", "dets", "labels")
        names = (*session.inputs, *session.outputs)
        if set(names) != {*expected, *["masks"] * architecture.segmentation}:
            raise UserError(
                f"{session.path} does not match its description. Its inputs and outputs are {', '.join(names)}. {AGAIN}"
            )
        if session.precision != PRECISIONS[description.precision]:
            raise UserError(
                f"{session.path}: its description has the precision {description.precision}, but it computes in "
                f"{session.precision}. Another tool has changed it, so its measurements are no longer valid. {AGAIN}"
            )

    @classmethod
    def from_file(
        cls, path: Path, *, device: str = "auto", batch_size: int | None = None, threads: int | None = None
    ) -> Self:
        """The predictor of a .onnx or .xml file that this project exported.

        Args:
            path: The file.
            device: See `open_session`.
            batch_size: See `ExportedPredictor`.
            threads: CPU threads of the runtime; None: as many as this process has cores.

        Raises:
            UserError: see `read_exported` and `open_session`.
        """
        exported = read_exported(path)
        return cls(
            open_session(path, device=device, threads=threads),
            exported.description,
            architecture_of(exported.checkpoint),
            batch_size=batch_size,
            threshold=threshold_of(exported.checkpoint),
        )

    @property
    def tensors(self) -> str:
        """The digest of the weights of the checkpoint that was exported."""
        return self.description.tensors

    @property
    def _fixed_size_reason(self) -> str | None:
        return (
            f"{self.session.path} only takes the resolution of the model. Leave shape out, or predict with the "
            "checkpoint that it was exported from"
        )

    def _prepare(self, picture: Image.Image, size: tuple[int, int]) -> Any:
        if not self.description.postprocess:
            return pixels(picture, size)
        return as_input([picture], self.description.images, self.architecture.resolution)[0]

    def _detections_of_rows(
        self, rows: Sequence[Any], sizes: Sequence[tuple[int, int]], lowest: float | None
    ) -> Iterator[Detections]:
        if self.description.postprocess:
            return self._complete(rows, sizes, lowest)
        outputs = self._run(normalise(torch.stack([*rows])).numpy())
        output = DetectorOutput(outputs["labels"], outputs["dets"], outputs.get("masks"))
        return postprocess(output, sizes, self.architecture.queries, lowest)

    def _complete(
        self, rows: Sequence[Array], sizes: Sequence[tuple[int, int]], lowest: float | None
    ) -> Iterator[Detections]:
        """Detections of a complete file, which chooses them itself. Images of equal size go through it together."""
        alike: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(sizes):
            alike.setdefault(size, []).append(index)
        outputs_of_image: dict[int, dict[str, Tensor]] = {}
        for places in alike.values():
            outputs = self._run(np.stack([rows[index] for index in places]))
            outputs_of_image |= {
                index: {name: output[row] for name, output in outputs.items()} for row, index in enumerate(places)
            }
        for index, size in enumerate(sizes):
            image = outputs_of_image.pop(index)
            scores = image["scores"]
            count = len(scores) if lowest is None else int((scores > lowest).sum())
            masks = resize_masks(image["masks"][:count], size) if "masks" in image else None
            yield Detections(scores[:count], image["classes"][:count], image["boxes"][:count], masks)

    def _run(self, images: Array) -> dict[str, Tensor]:
        """The file's outputs (B, ...) for a batch. For a fixed batch size, the last batch is filled up with zeros."""
        (name,), count = self.session.inputs, len(images)
        side = self.description.batch_size or count
        if missing := -count % side:
            images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        parts = [self.session.run({name: images[start : start + side]}) for start in range(0, count, side)]
        return {
            output: torch.from_numpy(np.concatenate([part[output] for part in parts])[:count])
            for output in self.session.outputs
        }


def as_input(pictures: Sequence[Image.Image], images: str, resolution: int) -> Array:
    """A batch of pictures as the input of an exported file.

    Args:
        pictures: Of equal size, except for "normalised".
        images: See `Description.images`.
        resolution: The side to which "normalised" resizes.
    """
    if images == "normalised":
        return np.asarray(normalise(torch.stack([pixels(picture, resolution) for picture in pictures])))
    batch = np.stack([np.asarray(picture) for picture in pictures])  # (B, H, W, 3)
    return batch if images == "uint8" else (batch.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)


def load_predictor(path: Path, *, device: str = "auto", batch_size: int | None = None) -> BasePredictor:
    """The predictor of a model file: a checkpoint, or an exported .onnx or .xml file.

    Args:
        path: The file.
        device: "auto" (CUDA if there is one), or torch's name of a device.
        batch_size: Images that go through the model at a time; None: 1, or the fixed batch size of the file.

    Raises:
        UserError: see `Predictor.from_checkpoint` and `ExportedPredictor.from_file`.
    """
    if path.suffix in SUFFIXES:
        return ExportedPredictor.from_file(path, device=device, batch_size=batch_size)
    return Predictor.from_checkpoint(path, device=device, batch_size=batch_size or 1)
