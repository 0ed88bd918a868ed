"""Images in, detections in pixels out."""

from __future__ import annotations

import copy
import importlib
import numbers
import os
import sys
import warnings
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

from rfdetr_core.base import images as image_files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import tensor_digest
from rfdetr_core.checkpoint.loading import build_from_checkpoint, class_names_of, threshold_of
from rfdetr_core.data.preprocess import normalise, pixels
from rfdetr_core.inference.addresses import fetch_image, is_address
from rfdetr_core.inference.arguments import check_patch_size, input_size
from rfdetr_core.inference.optimised import optimise, require_positive_int
from rfdetr_core.inference.prefetch import prefetch
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.ops.structures import Detections, DetectorOutput

if TYPE_CHECKING:
    import supervision

T = TypeVar("T")
DEFAULT_THRESHOLD = 0.5  # upstream's
AHEAD = 4  # batches that are prepared while the model runs
Picture: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor
Threshold: TypeAlias = float | Mapping[str, float]  # of all classes, or of each by its name


class BasePredictor(ABC):
    """What predictors of checkpoints and of exported files share: the arguments and the results of `predict`.

    threshold: the score to exceed where `predict` is given none; None for 0.5. device: where the model runs, by torch's
    name. batch_size: images that go through the model at a time. source: the file that it was read from.
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
        why = "the best F1 on its validation images" if threshold is not None else "the model recommends none"
        self.threshold_note: str | None = f"threshold {self.threshold:g}: {why}"
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
    def _fixed(self) -> str | None:
        """What takes images of the model's resolution alone, and what to do about it; None: any size is taken."""

    @abstractmethod
    def _prepare(self, picture: Image.Image, size: tuple[int, int]) -> Any:
        """An upright RGB image as one row of the model's input of this (height, width)."""

    @abstractmethod
    def _answers(
        self, rows: Sequence[Any], sizes: Sequence[tuple[int, int]], lowest: float | None
    ) -> Iterator[Detections]:
        """The detections of prepared images with scores above `lowest`, in order. sizes: their (height, width)."""

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
        """Objects with a score above `threshold`: one supervision.Detections for one image, a list for a list.

        An image is a path, an https address, a PIL image, an RGB array (H, W, 3) of uint8, or an RGB tensor (3, H, W)
        of uint8 or of floats in 0..1. Boxes are xyxy in pixels of the upright image. Of each object,
        `.data["class_name"]` has the name of its class, and `.data["source_shape"]` the image's (height, width).

        threshold: a number, or one for each class by its name; None for the model's own, which is printed once on
        standard error. shape: the (height, width) that images are resized to before the model; None for the square of
        its resolution, which it was trained with. patch_size: the model's own, or None. include_source_image: keep the
        image as the model saw it, upright RGB (H, W, 3) of uint8, in `.metadata["source_image"]`. batch_size: images
        that go through the model at a time; None for the predictor's own number. More are faster, on CUDA above all;
        the last bits of an image's numbers then depend on the batch.

        Raises:
            UserError: an image that cannot be read or fetched, or of another shape or type; a threshold beyond 0..1, or
                for other classes than the model's; a shape that the model does not take; another patch_size; a
                batch_size that is no whole number from 1 on.
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
            # A copy, for the caller to draw on. That of an array is quicker than that of a picture.
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
        """Detections of upright RGB images, on the CPU: of each the best `queries`, cut at `threshold`, 0..1.

        load: makes such an image of one of `images`; it runs in threads, some images ahead of the model. Its error is
        raised when the images before have been yielded, or those of earlier batches. shape: see `predict`.
        """
        by_class = self._by_class(threshold) if isinstance(threshold, Mapping) else []
        lowest = min(by_class) if by_class else threshold if threshold is None else _score("threshold", threshold)
        size = self.batch_size if batch_size is None else require_positive_int("batch_size", batch_size)
        if self.architecture.channels != 3:
            raise UserError(f"the model takes {self.architecture.channels} channels; prediction is for RGB images.")
        resized, model_size = input_size(shape, self.architecture), input_size(None, self.architecture)
        if self._fixed and resized != model_size:
            raise UserError(f"shape is {shape!r}: {model_size[0]} x {model_size[1]} pixels is all that {self._fixed}.")

        def prepare(image: Any) -> tuple[Any, tuple[int, int]]:
            picture = image if load is None else load(image)
            return self._prepare(picture, resized), (picture.height, picture.width)

        # Without `load` the images may be a camera's, or closed when the next one is asked for: one at a time.
        waiting = prefetch(prepare, images, AHEAD * size) if load else (prepare(image) for image in images)
        try:
            while batch := list(islice(waiting, size)):
                rows, sizes = zip(*batch, strict=True)
                for detections in self._answers(rows, sizes, lowest):
                    if not (detections.scores.isfinite().all() and detections.boxes.isfinite().all()):
                        raise UserError("the model finds boxes that are no finite numbers: its weights are damaged.")
                    yield _filter_by_class(detections, by_class) if by_class else detections
        finally:
            waiting.close()

    def _by_class(self, thresholds: Mapping[str, float]) -> list[float]:
        """The threshold of each row of the class head; of a row without a class, the highest."""
        if different := sorted(map(str, set(self.class_names) ^ thresholds.keys())):
            raise UserError(
                f"the thresholds and the model do not have the same classes: only one has {listed(different)}."
            )
        values = {name: _score(f"threshold of {name!r}", value) for name, value in thresholds.items()}
        rows = [values[name] for name in self.class_names]
        return rows + [max(rows)] * (self.architecture.classes + 1 - len(rows))


class Predictor(BasePredictor):
    """A detector with what its output needs to be read. It is put on `device`; auto: CUDA, or without it the CPU.

    `batch_size` images go through the detector at a time; 1 makes a list give exactly what its images give alone.
    threshold, source: see `BasePredictor`.
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
        self.network: nn.Module = self.detector  # the one that runs: see `optimised`

    @classmethod
    def from_checkpoint(cls, path: Path, *, device: str = "auto", batch_size: int = 1) -> Self:
        """The predictor that a model file describes.

        Raises:
            UserError: no such device, no checkpoint, or one whose model cannot be told.
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
        """The digest of the detector's weights when it is first asked for: see `tensor_digest`."""
        return tensor_digest(self.detector.state_dict())

    def optimised(
        self, *, compiled: bool = True, batch_size: int = 1, dtype: torch.dtype | str = torch.float32
    ) -> Self:
        """A predictor over an optimised copy of the detector: see `optimise`. Its numbers are close, not the same.

        Raises:
            UserError: another dtype or batch_size, or it cannot be compiled here.
        """
        resolution, optimised = self.architecture.resolution, copy.copy(self)
        optimised.network = optimise(
            self.detector, resolution, self.device, dtype=dtype, batch_size=batch_size, compiled=compiled
        )
        optimised.batch_size = batch_size
        return optimised

    @property
    def _fixed(self) -> str | None:
        if self.network is self.detector:
            return None
        return "the optimised copy takes. Leave shape out, or call remove_optimized_model() first"

    def _prepare(self, picture: Image.Image, size: tuple[int, int]) -> Tensor:
        return pixels(picture, size)

    def _answers(
        self, rows: Sequence[Any], sizes: Sequence[tuple[int, int]], lowest: float | None
    ) -> Iterator[Detections]:
        return postprocess(self._run(torch.stack([*rows])), sizes, self.architecture.queries, lowest)

    def _run(self, images: Tensor) -> DetectorOutput:
        """The detector's output for uint8 images (B, 3, H, W), which are normalised where it is."""
        was_training = self.network.training
        if any(module.training for module in self.network.modules()):
            self.network.eval()
        with torch.inference_mode():
            output: DetectorOutput = self.network(normalise(images.to(self.device)))
        if was_training:
            self.network.train()
        return output


def _score(name: str, value: Any) -> Any:
    """A threshold as it is given. Raises a UserError of what is no number from 0 to 1."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise UserError(f"{name} is {value!r}: it must be a number from 0 to 1.")
    return value


def _filter_by_class(detections: Detections, thresholds: Sequence[float]) -> Detections:
    """The detections with a score above the threshold of their label."""
    keep = detections.scores > detections.scores.new_tensor(thresholds)[detections.labels]  # (N,)
    masks = None if detections.masks is None else detections.masks[keep]
    return Detections(detections.scores[keep], detections.labels[keep], detections.boxes[keep], masks)


def find_device(name: str) -> str:
    """The device of torch that is asked for; auto: CUDA, or without it the CPU.

    Raises:
        UserError: it is not here; names those that are.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if str(name) == "auto":
        return "cuda" if cuda else "cpu"
    devices = ["cpu", *["cuda"] * (cuda > 0), *(f"cuda:{number}" for number in range(cuda))]
    devices += ["mps", "mps:0"] if torch.backends.mps.is_available() else []
    if str(name) not in devices:
        raise UserError(f"device {str(name)!r} is not available. Use auto, or one that is here: {', '.join(devices)}.")
    return str(name)


def to_rgb(image: Picture) -> Image.Image:
    """Any kind of image that `predict` takes as an upright RGB image.

    Raises:
        UserError: unreadable, an address that cannot be fetched, or of another type, shape or range.
    """
    if isinstance(image, str) and is_address(image):
        return fetch_image(image)
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if path.parts[:1] in (("https:",), ("http:",)) and not path.exists():
            raise UserError(f"{path} is an address in a Path, which drops a slash of it. Give the address as a str.")
        try:
            data = image_files.read_limited(path, image_files.MAX_PIXELS)
        except (OSError, image_files.TooLargeError) as error:
            raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
        return image_files.decode(data, str(path))
    if isinstance(image, Image.Image):
        return image_files.upright_rgb(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3:
            raise UserError(f"an image tensor must have the shape (3, H, W), RGB; this one is {tuple(image.shape)}.")
        return Image.fromarray(_to_uint8(image.detach().cpu()).permute(1, 2, 0).numpy())  # (H, W, 3)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UserError(f"an image array must be RGB uint8 of shape (H, W, 3), not {image.dtype} of {image.shape}.")
        return Image.fromarray(np.ascontiguousarray(image))
    kind = type(image).__name__
    raise UserError(f"an image must be a path, an https address, a PIL image, an array or a tensor; this is a {kind}.")


def to_supervision(detections: Detections, class_names: Sequence[str]) -> supervision.Detections:
    """Detections for supervision; a label beyond the class table is named by its number."""
    labels = detections.labels.numpy()
    names = [class_names[label] if label < len(class_names) else str(label) for label in labels]
    kind: type[supervision.Detections] = import_supervision().Detections
    return kind(
        xyxy=detections.boxes.numpy(),
        confidence=detections.scores.numpy(),
        class_id=labels,
        mask=None if detections.masks is None else detections.masks.numpy(),
        data={"class_name": np.array(names, dtype=np.str_)},
    )


def import_supervision() -> Any:
    """The package supervision; it takes a second, and warns of drawing with NumPy where OpenCV is missing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OpenCV", category=UserWarning)
        return importlib.import_module("supervision")


def _to_uint8(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point() or not bool(((image >= 0) & (image <= 1)).all()):
        raise UserError("an image tensor must be uint8, or floats in 0..1 (not normalised).")
    return (image.float() * 255).round().to(torch.uint8)
