"""The canonical form of a dataset: the same bytes for the same content, however its files are written."""

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
    """One object that is kept, its box (left, top, width, height) in pixels inside the image.

    area: of the mask, or of the box where there is none. segmentation: polygons, an RLE or None, as in COCO.
    """

    entry: ClassEntry
    box: Box
    area: float
    crowd: int
    segmentation: Any

    @classmethod
    def of(cls, one: Annotation, entry: ClassEntry) -> Instance:
        """The canonical form of an annotation that passed the checks and is clipped."""
        segmentation, area = one.segmentation, one.area
        if area is None:
            area = mask_area(segmentation) if segmentation else one.box[2] * one.box[3]
        if isinstance(segmentation, dict):
            segmentation = {"counts": segmentation["counts"], "size": segmentation["size"]}
        return cls(entry, one.box, float(area), int(one.crowd), segmentation)

    def content(self) -> dict[str, Any]:
        """The keys of COCO that depend neither on other objects nor on the class table."""
        values = {"bbox": list(self.box), "area": self.area, "iscrowd": self.crowd}
        return values | ({"segmentation": self.segmentation} if self.segmentation else {})

    def order(self) -> tuple[int, Box, bytes]:
        """Key to sort by: class and box, then all the rest."""
        return self.entry.index, self.box, files.canonical_json(self.content())


@dataclass(frozen=True, slots=True)
class CanonicalImage:
    """One image that is kept, its instances in order, the metadata that its format has of it, and the digest of its
    pixels (see `ManifestRow`)."""

    path: str
    sha256: str
    width: int
    height: int
    instances: list[Instance]
    metadata: dict[str, str] | None = None
    pixels: str | None = None

    def row(self) -> ManifestRow:
        """Its line of the manifest. Labels are digested with class names: they stay the same in another class table."""
        labels = files.digest([{"class": one.entry.name} | one.content() for one in self.instances])
        return ManifestRow(self.path, self.sha256, self.width, self.height, labels, self.pixels)


def write_split(path: Path, images: list[CanonicalImage], classes: list[ClassEntry]) -> None:
    """Write images sorted by path as COCO: one row a line, ids from 1, class indexes as category ids."""
    objects = ((number, one) for number, image in enumerate(images, start=1) for one in image.instances)
    lists: dict[str, Iterator[dict[str, Any]]] = {
        "categories": ({"id": entry.index, "name": entry.name} for entry in classes),
        "images": (
            {"id": number, "file_name": image.path, "width": image.width, "height": image.height}
            for number, image in enumerate(images, start=1)
        ),
        "annotations": (
            {"id": identity, "image_id": number, "category_id": one.entry.index} | one.content()
            for identity, (number, one) in enumerate(objects, start=1)
        ),
    }
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        for number, (key, rows) in enumerate(lists.items()):
            file.write((",\n" if number else "{").encode() + f'"{key}":['.encode())
            # Written as they are made: all rows at once would fill the memory.
            file.writelines((b",\n" if k else b"\n") + files.canonical_json(row) for k, row in enumerate(rows))
            file.write(b"\n]")
        file.write(b"}\n")
