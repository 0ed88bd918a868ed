"""The command predict: it writes, for each image, a JSON file of its objects and a picture that shows them."""

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
    """An image to predict: its path or address, its name in results and messages, and that of its results' files."""

    image: str | Path
    shown: str
    stem: str

    @classmethod
    def at(cls, path: Path) -> _Source:
        return cls(path, str(path), path.stem)

    @classmethod
    def of_address(cls, address: str) -> _Source:
        return cls(address, printable_address(address), Path(file_name(address)).stem)

    @property
    def name(self) -> str:
        """What its JSON file calls it: a file by its name alone."""
        return self.image.name if isinstance(self.image, Path) else self.shown


def predict_files(
    model: Path, paths: Sequence[str | Path], output: Path, threshold: float | str | None = None, device: str = "auto"
) -> Iterator[str]:
    """Write <stem>.json and <stem>.png for each image into `output`; yields a line on the threshold and one per image.

    model: a checkpoint, or a file that was exported from one. paths: images, https addresses of images, and folders
    that are searched at any depth; what predict drew there is passed over. threshold: the score to exceed, None for
    that of the model; the path of a thresholds.json, or "recommended" for the one that belongs to the model. An image
    that cannot be read is reported on stderr; the error follows after the last one.

    Raises:
        UserError: no model file; thresholds that are not for it; no image; two images with one name for their results;
            a file in `output` with such a name that is no result of predict; an image that cannot be read; memory runs
            out.
    """
    images = list({key: image for given in paths for key, image in _images_of(given)}.values())
    if not images:
        raise UserError(f"{listed(map(str, paths))}: there is no image but those that predict drew.")
    _require_free(images, output)
    predictor = load_predictor(model, device=device)
    above, note = _threshold(predictor, threshold)
    yield note
    unread = []
    for source in images:
        with explaining_shortage(f"It was at {source.shown}. Free some, or make the image smaller."):
            if (picture := _read(source.image, alone=len(images) == 1)) is None:
                unread.append(source.shown)
                continue
            count = _predict(predictor, source.name, picture, above, output / source.stem)
        yield f"{source.shown}: {count} objects, drawn in {output / source.stem}.png"
    if unread:
        raise UserError(f"{len(unread)} of {len(images)} images could not be read: {listed(unread)}.")


def _threshold(predictor: BasePredictor, given: float | str | None) -> tuple[Threshold, str]:
    """What a score has to exceed, and a line that says so."""
    if given is None:
        return predictor.threshold, str(predictor.threshold_note)
    if isinstance(given, str):
        found = recommended_thresholds(given, predictor)
        return found.by_class, found.note
    return given, f"threshold {given:g}: as given"


def _read(image: str | Path, alone: bool) -> Image.Image | None:
    """The picture of a file or an address. If it cannot be read, that is reported, or raised where it is `alone`."""
    try:
        return to_rgb(image)
    except UserError as error:
        if alone:
            raise
        print(message_of(error), file=sys.stderr)
        return None


def _predict(predictor: BasePredictor, name: str, picture: Image.Image, threshold: Threshold, base: Path) -> int:
    """Write the files `base`.json and `base`.png of an image; the number of objects in it."""
    (found,) = predictor.detect([picture], threshold)
    drawn = to_supervision(found, predictor.class_names)
    names = [str(name) for name in drawn.data["class_name"]]
    rows = [
        {"class_id": row["category_id"], "class_name": name, "score": row["score"], "xyxy": box}
        | {key: row[key] for key in ("segmentation",) if key in row}
        for row, name, box in zip(coco_results(0, found), names, found.boxes.tolist(), strict=True)
    ]
    valid = name.encode(errors="replace").decode()  # what is no UTF-8 in a name
    content = [valid, picture.width, picture.height, threshold, rows]
    labels = [label_of(row["class_name"], row["class_id"], row["score"]) for row in rows]
    sketch = draw(picture, drawn, labels, side=max(PANEL, *picture.size))
    files.write_json(Path(f"{base}.json"), dict(zip(_KEYS, content, strict=True)))
    write_png(Path(f"{base}.png"), sketch)
    return len(rows)


def _images_of(given: str | Path) -> Iterator[tuple[object, _Source]]:
    """The images of an argument, each with what two names of the same image have in common."""
    if isinstance(given, str) and is_address(given):
        yield given, _Source.of_address(given)
        return
    for image in _images_at(Path(given)):
        # Not by what links lead to: DVC links equal images to one file of its cache.
        yield image.parent.resolve() / image.name, _Source.at(image)


def _images_at(path: Path) -> list[Path]:
    """The path itself or, of a folder, the images below it that predict did not draw."""
    if not path.is_dir():
        return [path]
    if not (found := [path / name for name in listing(path, "")]):
        raise UserError(f"the folder {path} has no image in it.")
    return [image for image in found if image.suffix != ".png" or not _is_result(image.with_suffix(".json"))]


def _is_result(path: Path) -> bool:
    """Whether predict made a JSON file, and so the picture of its name."""
    try:
        content = files.read_json(path)
    except UserError:
        return False
    return isinstance(content, dict) and content.keys() >= {*_KEYS}


def _require_free(images: Sequence[_Source], output: Path) -> None:
    of_stem: dict[str, list[str]] = defaultdict(list)
    for image in images:
        of_stem[image.stem].append(image.shown)
    for stem, paths in of_stem.items():
        if len(paths) > 1:
            raise UserError(
                f"{listed(paths)} would all be drawn in {output / stem}.png. Rename them, or predict them one by one, "
                "with another --output."
            )
        there = [made for made in (output / f"{stem}.json", output / f"{stem}.png") if made.exists()]
        if there and not _is_result(output / f"{stem}.json"):
            raise UserError(f"{there[0]} would be written over, and is no result of predict. Give another --output.")
