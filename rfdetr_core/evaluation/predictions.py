"""The command predict: of each image file a JSON file of its objects, and a picture with them drawn."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.printing import printable
from rfdetr_core.evaluation.pictures import PANEL, draw, label_of, write_png
from rfdetr_core.inference.predictor import Predictor, to_rgb, to_supervision
from rfdetr_core.ingest.folder import listing
from rfdetr_core.metrics.coco import coco_results


def predict_files(
    checkpoint: Path, paths: Sequence[Path], output: Path, threshold: float | None = None, device: str = "auto"
) -> Iterator[str]:
    """Write <stem>.json and <stem>.png for each image into `output`; gives a line to print for each, and one before.

    paths: of images, and of folders whose images are meant, at any depth but in `output`. threshold: None for that of
    the checkpoint. An image that cannot be read is told on stderr, and the others are done before the error.

    Raises:
        UserError: no checkpoint; no image; two images that would make one file, or one that would be written over; an
            image that cannot be read.
    """
    images = list(dict.fromkeys(image for path in paths for image in _images_at(path, output)))
    _require_own_files(images, output)
    predictor = Predictor.from_checkpoint(checkpoint, device=device)
    yield str(predictor.threshold_note) if threshold is None else f"threshold {threshold:g}: as given"
    threshold = predictor.threshold if threshold is None else threshold
    unread = []
    for path in images:
        try:
            picture = to_rgb(path)
        except UserError as error:
            if len(images) == 1:
                raise
            unread.append(str(path))
            print(printable(f"error: {error}"), file=sys.stderr)
            continue
        count = _predict(predictor, path.name, picture, threshold, output / path.stem)
        yield f"{path}: {count} objects, drawn in {output / path.stem}.png"
    if unread:
        raise UserError(f"{len(unread)} of {len(images)} images could not be read: {listed(unread)}.")


def _predict(predictor: Predictor, name: str, picture: Image.Image, threshold: float, made: Path) -> int:
    """Write the files `made`.json and `made`.png of an image; the number of objects in it."""
    (found,) = predictor.detect([picture], threshold)
    drawn = to_supervision(found, predictor.class_names)
    names = [str(name) for name in drawn.data["class_name"]]
    rows = [
        {"class_id": row["category_id"], "class_name": name, "score": row["score"], "xyxy": box}
        | {key: row[key] for key in ("segmentation",) if key in row}
        for row, name, box in zip(coco_results(0, found), names, found.boxes.tolist(), strict=True)
    ]
    content = {"image": name, "width": picture.width, "height": picture.height, "threshold": threshold}
    files.write_json(Path(f"{made}.json"), content | {"detections": rows})
    labels = [label_of(row["class_name"], row["class_id"], row["score"]) for row in rows]
    write_png(Path(f"{made}.png"), draw(picture, drawn, labels, side=max(PANEL, *picture.size)))
    return len(rows)


def _images_at(path: Path, output: Path) -> list[Path]:
    """The path itself or, of a folder, the images below it that are not below `output`."""
    if not path.is_dir():
        return [path]
    found = [path / name for name in listing(path, "")]
    if not (images := [image for image in found if not image.resolve().is_relative_to(output.resolve())]):
        where = f"outside of the folder for results, {output}. Give another --output" if found else "in it"
        raise UserError(f"the folder {path} has no image {where}.")
    return images


def _require_own_files(images: Sequence[Path], output: Path) -> None:
    of_stem: dict[str, list[str]] = defaultdict(list)
    for image in images:
        of_stem[image.stem].append(str(image))
    for stem, paths in of_stem.items():
        if len(paths) > 1:
            raise UserError(
                f"{listed(paths)} would both be drawn in {output / stem}.png. Rename one, or predict them one by one, "
                "with another --output."
            )
    if over := [str(image) for image in images if image.resolve() == (output / f"{image.stem}.png").resolve()]:
        raise UserError(f"{listed(over)} would be written over by the picture with objects. Give another --output.")
