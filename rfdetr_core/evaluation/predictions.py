"""The command `predict`: writes for each image a JSON file with its detections and a picture that shows them."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.memory import explaining_shortage
from rfdetr_core.base.printing import message_of
from rfdetr_core.evaluation.pictures import PANEL, draw, label_of, write_png
from rfdetr_core.inference.addresses import file_name, is_address, printable_address
from rfdetr_core.inference.conversion import to_rgb, to_supervision
from rfdetr_core.inference.exported import load_predictor
from rfdetr_core.inference.predictor import BasePredictor, Threshold
from rfdetr_core.inference.thresholds import recommended_thresholds
from rfdetr_core.ingest.folder import listing
from rfdetr_core.metrics.coco import coco_results

_KEYS = ("image", "width", "height", "threshold", "detections")


@dataclass(frozen=True)
class _Source:
    """An image to predict.

    image: its path or address. title: its name in messages. stem: the name of its result files, without suffix.
    """

    image: str | Path
    title: str
    stem: str

    @classmethod
    def from_path(cls, path: Path) -> _Source:
        return cls(path, str(path), path.stem)

    @classmethod
    def from_address(cls, address: str) -> _Source:
        return cls(address, printable_address(address), Path(file_name(address)).stem)

    @property
    def name(self) -> str:
        """Its name in the JSON file: of a path only the file name."""
        return self.image.name if isinstance(self.image, Path) else self.title


def predict_files(
    model: Path, paths: Sequence[str | Path], output: Path, threshold: float | str | None = None, device: str = "auto"
) -> Iterator[str]:
    """Write <stem>.json and <stem>.png for each image. Yields a line about the threshold and a line per image.

    An image that cannot be read is reported on stderr. The others are predicted; then an error names all unread ones.

    Args:
        model: A checkpoint, or a file that was exported from one.
        paths: Images, https addresses of images, and folders. Folders are searched at any depth; pictures that predict
            has drawn are skipped.
        output: The folder for the results.
        threshold: Detections with a higher score are written. A number; the path of a thresholds.json; "recommended":
            the thresholds.json that belongs to the model; None: the threshold of the model.
        device: The device to run on.

    Raises:
        UserError: there is no model file or no image; the thresholds belong to another model; two images have the same
            name for their results; a file in `output` with such a name was not written by predict; an image cannot be
            read; memory runs out.
    """
    images = list({key: image for argument in paths for key, image in _images_of(argument)}.values())
    if not images:
        raise UserError(
            f"all images of {listed(map(str, paths))} are pictures that predict has drawn. Name other images."
        )
    _require_free(images, output)
    predictor = load_predictor(model, device=device)
    score_threshold, note = _threshold(predictor, threshold)
    yield note
    unread = []
    for source in images:
        with explaining_shortage(f"The image was {source.title}. Free some memory, or make the image smaller."):
            if (picture := _read(source.image, alone=len(images) == 1)) is None:
                unread.append(source.title)
                continue
            count = _predict(predictor, source.name, picture, score_threshold, output / source.stem)
        yield f"{source.title}: {count} objects, drawn in {output / source.stem}.png"
    if unread:
        raise UserError(f"{len(unread)} of {len(images)} images could not be read: {listed(unread)}.")


def _threshold(predictor: BasePredictor, argument: float | str | None) -> tuple[Threshold, str]:
    """The score threshold, and a line that says where it comes from."""
    if argument is None:
        return predictor.threshold, str(predictor.threshold_note)
    if isinstance(argument, str):
        recommendation = recommended_thresholds(argument, predictor)
        return recommendation.by_class, recommendation.note
    return argument, f"threshold {argument:g}: as given"


def _read(image: str | Path, alone: bool) -> Image.Image | None:
    """Read a file or an address. None: it cannot be read, which is reported on stderr.

    alone: whether it is the only image. If it is, the error is raised.
    """
    try:
        return to_rgb(image)
    except UserError as error:
        if alone:
            raise
        print(message_of(error), file=sys.stderr)
        return None


def _predict(predictor: BasePredictor, name: str, picture: Image.Image, threshold: Threshold, base: Path) -> int:
    """Predict an image, and write `base`.json and `base`.png. Returns the number of detections."""
    (detections,) = predictor.detect([picture], threshold)
    drawn = to_supervision(detections, predictor.class_names)
    names = [str(name) for name in drawn.data["class_name"]]
    rows = [
        {"class_id": row["category_id"], "class_name": name, "score": row["score"], "xyxy": box}
        | {key: row[key] for key in ("segmentation",) if key in row}
        for row, name, box in zip(coco_results(0, detections), names, detections.boxes.tolist(), strict=True)
    ]
    valid_name = name.encode(errors="replace").decode()  # A file name can have bytes that are not UTF-8.
    content = [valid_name, picture.width, picture.height, threshold, rows]
    labels = [label_of(row["class_name"], row["class_id"], row["score"]) for row in rows]
    drawing = draw(picture, drawn, labels, side=max(PANEL, *picture.size))
    files.write_json(Path(f"{base}.json"), dict(zip(_KEYS, content, strict=True)))
    write_png(Path(f"{base}.png"), drawing)
    return len(rows)


def _images_of(argument: str | Path) -> Iterator[tuple[object, _Source]]:
    """The images of an argument, each with a key. Equal keys mean the same image, which is predicted only once."""
    if isinstance(argument, str) and is_address(argument):
        yield argument, _Source.from_address(argument)
        return
    for image in _image_paths(Path(argument)):
        # Links of files are not resolved: DVC can link equal images to the same file of its cache.
        yield image.parent.resolve() / image.name, _Source.from_path(image)


def _image_paths(path: Path) -> list[Path]:
    """The images below a folder, except pictures that predict has drawn. For a file: its path."""
    if not path.is_dir():
        return [path]
    if not (paths := [path / name for name in listing(path, "")]):
        raise UserError(f"the folder {path} has no image in it.")
    return [image for image in paths if image.suffix != ".png" or not _is_result(image.with_suffix(".json"))]


def _is_result(path: Path) -> bool:
    """Whether predict wrote a JSON file, and so also the picture with the same name."""
    try:
        content = files.read_json(path)
    except UserError:
        return False
    return isinstance(content, dict) and content.keys() >= {*_KEYS}


def _require_free(images: Sequence[_Source], output: Path) -> None:
    """Raise a UserError if two images have the same result files, or if an existing file was not written by predict."""
    titles_by_stem: dict[str, list[str]] = defaultdict(list)
    for image in images:
        titles_by_stem[image.stem].append(image.title)
    for stem, titles in titles_by_stem.items():
        if len(titles) > 1:
            raise UserError(
                f"{listed(titles)} would all be drawn in {output / stem}.png. Rename them, or predict them separately, "
                "each with its own --output."
            )
        existing_files = [path for path in (output / f"{stem}.json", output / f"{stem}.png") if path.exists()]
        if existing_files and not _is_result(output / f"{stem}.json"):
            raise UserError(
                f"{existing_files[0]} would be overwritten, but predict did not write it. Give another --output."
            )
