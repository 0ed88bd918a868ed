"""The canonical form of a dataset. Equal content gives equal bytes, whatever format the dataset came in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.manifest import ClassEntry, ManifestRow
from rfdetr_core.ingest.geometry import Box, mask_area
from rfdetr_core.ingest.records import Annotation


@dataclass(frozen=True, slots=True)
class Instance:
    """One object that is kept. Its box (left, top, width, height) is in pixels and inside the image.

    area: the area of the mask; without a mask, that of the box. segmentation: polygons, an RLE or None, as in COCO.
    """

    entry: ClassEntry
    box: Box
    area: float
    crowd: int
    segmentation: Any

    @classmethod
    def from_annotation(cls, annotation: Annotation, entry: ClassEntry) -> Instance:
        """Make an instance from an annotation that passed the checks and was clipped to its image."""
        segmentation, area = annotation.segmentation, annotation.area
        if area is None:
            area = mask_area(segmentation) if segmentation else annotation.box[2] * annotation.box[3]
        if isinstance(segmentation, dict):
            segmentation = {"counts": segmentation["counts"], "size": segmentation["size"]}
        return cls(entry, annotation.box, float(area), int(annotation.crowd), segmentation)

    def content(self) -> dict[str, Any]:
        """The COCO keys that depend only on this object: no ids, and no class index."""
        values = {"bbox": list(self.box), "area": self.area, "iscrowd": self.crowd}
        return values | ({"segmentation": self.segmentation} if self.segmentation else {})

    def order(self) -> tuple[int, Box, bytes]:
        """Sort key: class and box first, then everything else."""
        return self.entry.index, self.box, files.canonical_json(self.content())


@dataclass(frozen=True, slots=True)
class CanonicalImage:
    """One image that is kept, with its instances in canonical order.

    metadata: the values for the image in the label file (COCO: licence and date). pixels: the digest of the decoded
    pixels, see `ManifestRow`.
    """

    path: str
    sha256: str
    width: int
    height: int
    instances: list[Instance]
    metadata: dict[str, str] | None = None
    pixels: str | None = None

    def row(self) -> ManifestRow:
        """Its row of the manifest. The label digest has class names, not indexes: new classes do not change it."""
        labels = files.digest([{"class": instance.entry.name} | instance.content() for instance in self.instances])
        return ManifestRow(self.path, self.sha256, self.width, self.height, labels, self.pixels)


def write_split(path: Path, images: list[CanonicalImage], classes: list[ClassEntry]) -> None:
    """Write images, sorted by path, as COCO: one row per line, ids from 1, class indexes as category ids.

    Args:
        path: the file to write.
        images: the images, sorted by path.
        classes: all classes of the dataset, in the order of their indexes.
    """
    objects = ((number, instance) for number, image in enumerate(images, start=1) for instance in image.instances)
    lists: dict[str, Iterator[dict[str, Any]]] = {
        "categories": ({"id": entry.index, "name": entry.name} for entry in classes),
        "images": (
            {"id": number, "file_name": image.path, "width": image.width, "height": image.height}
            for number, image in enumerate(images, start=1)
        ),
        "annotations": (
            {"id": identity, "image_id": number, "category_id": instance.entry.index} | instance.content()
            for identity, (number, instance) in enumerate(objects, start=1)
        ),
    }
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        for number, (key, rows) in enumerate(lists.items()):
            file.write((",\n" if number else "{").encode() + f'"{key}":['.encode())
            # Rows are written one by one: all of them together might not fit into memory.
            file.writelines((b",\n" if k else b"\n") + files.canonical_json(row) for k, row in enumerate(rows))
            file.write(b"\n]")
        file.write(b"}\n")
