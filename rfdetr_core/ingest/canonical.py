"""The canonical form of a dataset: the same bytes for the same content, however its files are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core import files
from rfdetr_core.ingest.geometry import Box, polygon_area
from rfdetr_core.ingest.records import Annotation
from rfdetr_core.manifest import ClassEntry, ManifestRow


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
        if isinstance(segmentation, dict):
            segmentation = {"counts": segmentation["counts"], "size": segmentation["size"]}
        elif segmentation and area is None:
            area = sum(map(polygon_area, segmentation))
        area = one.box[2] * one.box[3] if area is None else area
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
    """One image that is kept, its instances in order."""

    path: str
    sha256: str
    width: int
    height: int
    instances: list[Instance]

    def row(self) -> ManifestRow:
        """Its line of the manifest. Labels are digested with class names: they stay the same in another class table."""
        labels = files.digest([{"class": one.entry.name} | one.content() for one in self.instances])
        return ManifestRow(self.path, self.sha256, self.width, self.height, labels)


def write_split(path: Path, images: list[CanonicalImage], classes: list[ClassEntry]) -> None:
    """Write images sorted by path as COCO: one row a line, ids from 1, class indexes as category ids."""
    lists: dict[str, list[dict[str, Any]]] = {"categories": [], "images": [], "annotations": []}
    lists["categories"] = [{"id": entry.index, "name": entry.name} for entry in classes]
    for number, image in enumerate(images, start=1):
        size = {"width": image.width, "height": image.height}
        lists["images"].append({"id": number, "file_name": image.path, **size})
        for one in image.instances:
            ids = {"id": len(lists["annotations"]) + 1, "image_id": number, "category_id": one.entry.index}
            lists["annotations"].append(ids | one.content())
    rows = {key: ",".join("\n" + files.canonical_json(row).decode() for row in value) for key, value in lists.items()}
    files.write_text(path, "{" + ",\n".join(f'"{key}":[{value}\n]' for key, value in rows.items()) + "}\n")
