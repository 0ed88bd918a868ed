"""Predictor for checkpoints, and its base class: from images of any kind to detections in pixels."""

from __future__ import annotations

import contextlib
import copy
import numbers
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import tensor_digest
from rfdetr_core.checkpoint.loading import build_from_checkpoint, class_names_of, threshold_of
from rfdetr_core.data.preprocess import normalise, pixels
from rfdetr_core.inference.arguments import check_patch_size, input_size
from rfdetr_core.inference.conversion import Picture, to_rgb, to_supervision
from rfdetr_core.inference.optimised import optimise, require_positive_int
from rfdetr_core.inference.prefetch import prefetch
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.ops.structures import Detections, DetectorOutput

if TYPE_CHECKING:
    import supervision

T = TypeVar("T")
DEFAULT_THRESHOLD = 0.5  # the same as upstream's
AHEAD = 4  # batches whose images are loaded while the model runs
Threshold: TypeAlias = float | Mapping[str, float]  # for all classes, or class name -> threshold


class BasePredictor(ABC):
    """Base of the predictors of checkpoints and of exported files. They share the arguments and results of `predict`.

    Args:
        architecture: Of the model.
        class_names: In the order of the labels.
        device: Where the model runs, by torch's name.
        batch_size: Images that go through the model at a time.
        threshold: The default of `predict`; None: 0.5.
        source: The file that the model was read from.
    """

    def __init__(
        self,
        architecture: Architecture,
        class_names: Sequence[str],
        *,
        device: str,
        batch_size: int,
        threshold: float | None,
        source: Path | None,
    ) -> None:
        self.source = source
        self.threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        reason = "the best F1 on its validation images" if threshold is not None else "the model recommends none"
        self.threshold_note: str | None = f"threshold {self.threshold:g}: {reason}"
        self.device = device
        self.architecture = architecture
        self.class_names = tuple(class_names)
        self.batch_size = batch_size

    @property
    @abstractmethod
    def tensors(self) -> str:
        """The digest of the weights: see `tensor_digest`."""

    @property
    @abstractmethod
    def _fixed_size_reason(self) -> str | None:
        """None if the input may have any size. Otherwise the reason why it may not, and the remedy, for a message."""

    @abstractmethod
    def _prepare(self, picture: Image.Image, size: tuple[int, int]) -> Any:
        """Convert an upright RGB image to a row of the model's input. size: (height, width) of the input."""

    @abstractmethod
    def _detections_of_rows(
        self, rows: Sequence[Any], sizes: Sequence[tuple[int, int]], lowest: float | None
    ) -> Iterator[Detections]:
        """Yield the detections of each prepared image.

        sizes: the (height, width) of the original images.
        lowest: only detections with a score above this number are returned. None: all detections.
        """

    def predict(
        self,
        images: Picture | list[Picture] | tuple[Picture, ...],
        threshold: Threshold | None = None,
        shape: tuple[int, int] | None = None,
        patch_size: int | None = None,
        include_source_image: bool = True,
        *,
        batch_size: int | None = None,
    ) -> supervision.Detections | list[supervision.Detections]:
        """Detect objects. Returns a supervision.Detections for an image, and a list of them for a list.

        Boxes are xyxy in pixels of the upright image. For each object, `.data["class_name"]` has the name of its class
        and `.data["source_shape"]` the image's (height, width).

        Args:
            images: An image is a path, an https address, a PIL image, an RGB array (H, W, 3) of uint8, or an RGB tensor
                (3, H, W) of uint8 or of floats in 0..1.
            threshold: The score to exceed: a number, or a mapping from class name to number. None: the model's own,
                which is printed once on the standard error.
            shape: The (height, width) to which images are resized for the model. None: the square of its resolution,
                with which it was trained.
            patch_size: The model's own, or None.
            include_source_image: Keep the image, upright RGB (H, W, 3) of uint8, in `.metadata["source_image"]`.
            batch_size: Images that go through the model at a time; None: the predictor's own number. Larger batches are
                faster, most of all on CUDA. Then the last bits of an image's numbers depend on the other images.

        Raises:
            UserError: an image cannot be read or downloaded, or has another shape or type; the threshold is beyond 0..1
                or for other classes; the model does not take the shape; the patch_size is another; or batch_size is not
                an integer of 1 or more.
        """
        check_patch_size(patch_size, self.architecture)
        if threshold is None:
            threshold = self.threshold
            if self.threshold_note:
                say(self.threshold_note, file=sys.stderr)
                self.threshold_note = None
        pictures = images if isinstance(images, list | tuple) else [images]
        sizes_and_sources: dict[
            int, tuple[tuple[int, int], npt.NDArray[np.uint8] | None]
        ] = {}  # written by the threads that load

        def load(numbered: tuple[int, Picture]) -> Image.Image:
            number, image = numbered
            picture = to_rgb(image)
            # The caller may draw on the image, so it is copied. An array is copied faster than a PIL image.
            source = np.array(image if isinstance(image, np.ndarray) else picture) if include_source_image else None
            sizes_and_sources[number] = (picture.height, picture.width), source
            return picture

        every = list(enumerate(pictures))
        converted = []
        for number, detected in enumerate(self.detect(every, threshold, load=load, batch_size=batch_size, shape=shape)):
            detections, (size, source) = to_supervision(detected, self.class_names), sizes_and_sources.pop(number)
            detections.data["source_shape"] = np.tile(np.array(size, dtype=np.int64), (len(detections), 1))  # (N, 2)
            if source is not None:
                detections.metadata["source_image"] = source
            converted.append(detections)
        return converted if pictures is images else converted[0]

    def detect(
        self,
        images: Iterable[T],
        threshold: Threshold | None = None,
        *,
        load: Callable[[T], Image.Image] | None = None,
        batch_size: int | None = None,
        shape: tuple[int, int] | None = None,
    ) -> Iterator[Detections]:
        """Yield the detections of each image, as tensors on the CPU.

        Args:
            images: Upright RGB images, or anything that `load` turns into one.
            threshold: The score to exceed, see `predict`. None: the best `queries` detections are kept.
            load: Makes an upright RGB image of an item of `images`. It runs in threads, some images ahead of the model.
                If it raises an error, the error reaches the caller after the results of the earlier batches.
            batch_size: See `predict`.
            shape: See `predict`.
        """
        by_class = self._by_class(threshold) if isinstance(threshold, Mapping) else []
        lowest = min(by_class) if by_class else threshold if threshold is None else _score("threshold", threshold)
        size = self.batch_size if batch_size is None else require_positive_int("batch_size", batch_size)
        if self.architecture.channels != 3:
            raise UserError(f"the model takes {self.architecture.channels} channels, but images to predict are RGB.")
        resized, model_size = input_size(shape, self.architecture), input_size(None, self.architecture)
        if self._fixed_size_reason and resized != model_size:
            size_text = f"{model_size[0]} x {model_size[1]} pixels are needed"
            raise UserError(f"shape is {shape!r}, but {size_text}: {self._fixed_size_reason}.")

        def prepare(image: Any) -> tuple[Any, tuple[int, int]]:
            picture = image if load is None else load(image)
            return self._prepare(picture, resized), (picture.height, picture.width)

        # Without `load`, images are taken one at a time: a camera may deliver them, or an image may be closed when the
        # next one is requested.
        waiting = prefetch(prepare, images, AHEAD * size) if load else (prepare(image) for image in images)
        try:
            while batch := list(islice(waiting, size)):
                rows, sizes = zip(*batch, strict=True)
                for detections in self._detections_of_rows(rows, sizes, lowest):
                    if not (detections.scores.isfinite().all() and detections.boxes.isfinite().all()):
                        raise UserError("the model gives numbers that are not finite: its weights are damaged.")
                    yield _filter_by_class(detections, by_class) if by_class else detections
        finally:
            waiting.close()

    def _by_class(self, thresholds: Mapping[str, float]) -> list[float]:
        """The threshold of each row of the class head. A row without a class gets the highest threshold."""
        if different := sorted(map(str, set(self.class_names) ^ thresholds.keys())):
            raise UserError(
                f"the thresholds and the model do not have the same classes: only one has {listed(different)}."
            )
        values = {name: _score(f"threshold of {name!r}", value) for name, value in thresholds.items()}
        rows = [values[name] for name in self.class_names]
        return rows + [max(rows)] * (self.architecture.classes + 1 - len(rows))


class Predictor(BasePredictor):
    """Predicts with a detector, such as that of a checkpoint.

    Args:
        detector: It is moved to `device`.
        architecture: Of the detector.
        class_names: In the order of the labels.
        device: "auto" (CUDA, or without it the CPU), or torch's name of a device.
        batch_size: Images that go through the detector at a time. With 1, an image in a list gives exactly the same
            result as alone.
        threshold: See `BasePredictor`.
        source: See `BasePredictor`.
    """

    def __init__(
        self,
        detector: Detector,
        architecture: Architecture,
        class_names: Sequence[str],
        *,
        device: str = "auto",
        batch_size: int = 1,
        threshold: float | None = None,
        source: Path | None = None,
    ) -> None:
        super().__init__(
            architecture,
            class_names,
            device=find_device(device),
            batch_size=batch_size,
            threshold=threshold,
            source=source,
        )
        self.detector = detector.to(self.device)
        self.network: nn.Module = self.detector  # the network that runs; `optimised` replaces it

    @classmethod
    def from_checkpoint(cls, path: Path, *, device: str = "auto", batch_size: int = 1) -> Self:
        """The predictor of a checkpoint.

        Args:
            path: The checkpoint.
            device: See `Predictor`.
            batch_size: See `Predictor`.

        Raises:
            UserError: the device does not exist, the file is not a checkpoint, or its model is unknown.
        """
        device, loaded = find_device(device), build_from_checkpoint(path)
        return cls(
            loaded.detector,
            loaded.architecture,
            class_names_of(loaded.checkpoint),
            device=device,
            batch_size=batch_size,
            threshold=threshold_of(loaded.checkpoint),
            source=path,
        )

    @cached_property
    def tensors(self) -> str:
        """The digest of the detector's weights (see `tensor_digest`), computed at the first access."""
        return tensor_digest(self.detector.state_dict())

    def optimised(
        self, *, compiled: bool = True, batch_size: int = 1, dtype: torch.dtype | str = torch.float32
    ) -> Self:
        """A predictor with an optimised copy of the detector. Its numbers are close, but not equal.

        Args:
            compiled: See `optimise`.
            batch_size: See `optimise`.
            dtype: See `optimise`.

        Raises:
            UserError: dtype or batch_size is wrong, or the copy cannot be compiled here.
        """
        resolution, optimised = self.architecture.resolution, copy.copy(self)
        optimised.network = optimise(
            self.detector, resolution, self.device, dtype=dtype, batch_size=batch_size, compiled=compiled
        )
        optimised.batch_size = batch_size
        return optimised

    @property
    def _fixed_size_reason(self) -> str | None:
        if self.network is self.detector:
            return None
        return (
            "the optimised copy only takes the resolution of the model. Leave shape out, or call "
            "remove_optimized_model() first"
        )

    def _prepare(self, picture: Image.Image, size: tuple[int, int]) -> Tensor:
        return pixels(picture, size)

    def _detections_of_rows(
        self, rows: Sequence[Any], sizes: Sequence[tuple[int, int]], lowest: float | None
    ) -> Iterator[Detections]:
        return postprocess(self._run(torch.stack([*rows])), sizes, self.architecture.queries, lowest)

    def _run(self, images: Tensor) -> DetectorOutput:
        """The detector's output for uint8 images (B, 3, H, W). They are normalised on its device."""
        was_training = self.network.training
        if any(module.training for module in self.network.modules()):
            self.network.eval()
        with torch.inference_mode():
            output: DetectorOutput = self.network(normalise(images.to(self.device)))
        if was_training:
            self.network.train()
        return output


def _score(name: str, value: Any) -> Any:
    """Return a threshold unchanged. Raises a UserError if it is not a number from 0 to 1."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise UserError(f"{name} is {value!r}: it must be a number from 0 to 1.")
    return value


def _filter_by_class(detections: Detections, thresholds: Sequence[float]) -> Detections:
    """Keep the detections whose score is above the threshold of their label."""
    keep = detections.scores > detections.scores.new_tensor(thresholds)[detections.labels]  # (N,)
    masks = None if detections.masks is None else detections.masks[keep]
    return Detections(detections.scores[keep], detections.labels[keep], detections.boxes[keep], masks)


def find_device(name: str) -> str:
    """Check torch's name of a device. "auto" gives CUDA, or without it the CPU.

    Raises:
        UserError: the device does not exist. The message names the existing ones.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if str(name) == "auto":
        return "cuda" if cuda else "cpu"
    devices = ["cpu", *["cuda"] * (cuda > 0), *(f"cuda:{number}" for number in range(cuda))]
    devices += ["mps", "mps:0"] if torch.backends.mps.is_available() else []
    if str(name) not in devices:
        raise UserError(f"device {str(name)!r} is not available. Use auto, or one of: {', '.join(devices)}.")
    return str(name)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` CPU threads while the block runs. On some processors their number changes the last bits."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
