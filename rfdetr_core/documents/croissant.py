"""The document croissant.json: the dataset of a model in Croissant 1.1, with tables of images, objects and classes.

The format: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html. mlcroissant writes it. Paths are relative
to the project. mlcroissant can load images and objects if the document is copied into the project's folder.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import mlcroissant as mlc
from mlcroissant._src.core.rdf import make_context  # the default Context only knows version 1.0

from rfdetr_core.base import files
from rfdetr_core.documents.facts import MOST, PROVIDER, Facts, Split, most_frequent

VERSION = "http://mlcommons.org/croissant/1.1"
_PROVIDER = f"{PROVIDER}."
_CLASSES = "annotations/classes.json"
_TEXT, _WHOLE, _DECIMAL = mlc.DataType.TEXT, mlc.DataType.INTEGER, mlc.DataType.FLOAT
_NUMBERS = "image_ids"
# MIME types of `base.images.SUFFIXES`. Python's own table (mimetypes) depends on the machine.
_OTHER_FORMAT = "image/jpeg"  # .jpg, .jpeg, .jpe, .jfif, .mpo
_FORMATS = {
    ".png": "image/png",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
_SPLITS = {"train": "TrainingSplit", "valid": "ValidationSplit", "test": "TestSplit"}

# The tables of a split: name -> (file, column -> (type, JSON path in the file, description)).
_TABLES: dict[str, tuple[str, dict[str, tuple[Any, str, str]]]] = {
    "images": (
        "manifest/{split}.json",
        {
            "path": (_TEXT, "$[*].path", "The path of the image below the folder of the dataset."),
            "sha256": (_TEXT, "$[*].sha256", "The SHA-256 of the image file."),
            "width": (_WHOLE, "$[*].width", "The width of the image in pixels."),
            "height": (_WHOLE, "$[*].height", "The height of the image in pixels."),
        },
    ),
    _NUMBERS: (
        "annotations/{split}.json",
        {
            "image_id": (_WHOLE, "$.images[*].id", "The id of the image in the table of objects."),
            "path": (_TEXT, "$.images[*].file_name", "The path of the image below the folder of the dataset."),
        },
    ),
    "objects": (
        "annotations/{split}.json",
        {
            "image_id": (_WHOLE, "$.annotations[*].image_id", "The id of the image that shows the object."),
            "class_id": (_WHOLE, "$.annotations[*].category_id", "The id of the object's class."),
            "box": (mlc.DataType.BOUNDING_BOX, "$.annotations[*].bbox", "Left, top, width and height in pixels."),
            "area": (
                _DECIMAL,
                "$.annotations[*].area",
                "Square pixels of the mask, or of the box if there is no mask.",
            ),
            "crowd": (_WHOLE, "$.annotations[*].iscrowd", "1 for a group of objects, else 0."),
        },
    ),
}
_CLASS_TABLE = {
    "id": (_WHOLE, "$[*].id", "The id of the class in the table of objects."),
    "index": (_WHOLE, "$[*].index", "The index of the class in the output of the model."),
    "name": (_TEXT, "$[*].name", "The name of the class."),
}


def croissant(facts: Facts) -> str:
    """The JSON text of the document. Equal facts give equal bytes."""
    return files.json_text(_Writer(facts).metadata().to_json())


class _Writer:
    """Builds the nodes of the document from facts."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.context = mlc.Context(conforms_to=VERSION)
        self.context.rdf = mlc.Rdf(context=make_context(self.context))
        self.splits = [*facts.splits.values()]
        self.paths = {path: digest for split in self.splits for path, digest in split.digests.items()}
        self.images = {split.name: self._images_of(split) for split in self.splits}

    def metadata(self) -> mlc.Metadata:
        """The whole document."""
        licences = [*self._values("licence"), *self._request_for_missing_values("licence")]
        return mlc.Metadata(
            ctx=self.context,
            name=f"Dataset of the model {self.facts.lineage['variant'] or 'RF-DETR'}",
            description=self._description(),
            cite_as=_PROVIDER,
            license=licences,
            url=self.facts.address,
            distribution=[*self._files(), *(image_files for image_files in self.images.values() if image_files)],
            record_sets=[self._split_table(), *self._tables()],
        )

    def _description(self) -> str:
        parts = [f"{split.name}: {split.images} images ({', '.join(split.uses)})" for split in self.splits]
        sources = [f"{source} ({count} images)" for source, count in self._values("source").items()]
        remaining = [f"and {len(sources) - MOST} others"] if len(sources) > MOST else []
        named = "; ".join([*sources[:MOST], *remaining, *self._request_for_missing_values("source")])
        return (
            "Images that were used to train a model, to choose its epoch and to score it. SHA-256 of the model: "
            f"{', '.join(self.facts.digests.values())}. "
            f"{'; '.join(parts)}. Sources: {named}{'' if named.endswith('.') else '.'} "
            "Paths start at the folder of the project. The manifest of a split has the SHA-256 of each image."
        )

    def _values(self, column: str) -> dict[str, int]:
        """The number of images with each value of a metadata column, in all splits; the most frequent first."""
        rows = (row for split in self.splits for row in (split.metadata or {}).values())
        return most_frequent(row[column] for row in rows if column in row)

    def _request_for_missing_values(self, column: str) -> list[str]:
        """A request to the provider for the missing values of a column; empty if every image has a value."""
        lacking = sum(split.without(column) for split in self.splits)
        if not lacking:
            return []
        images = sum(split.images for split in self.splits)
        return [f"{PROVIDER}: the {column} of {lacking} of {images} images." if lacking < images else _PROVIDER]

    def _files(self) -> Iterator[mlc.FileObject]:
        for path, digest in self.paths.items():
            # mlcroissant reads all columns of a file object into one table, so a file with two tables is two objects.
            extra_names = [f"{path}/{_NUMBERS}"] if path.startswith("annotations/") and path != _CLASSES else []
            for name in (path, *extra_names):
                yield mlc.FileObject(
                    ctx=self.context,
                    id=name,
                    name=name,
                    content_url=path,
                    sha256=digest,
                    encoding_formats=["application/json"],
                )

    def _images_of(self, split: Split) -> mlc.FileSet | None:
        """The image files of a split; None if the manifest or the dataset folder is not known."""
        manifest, folder = self.facts.recorded(f"manifest/{split.name}.json"), self._folder()
        if not manifest or not folder:
            return None
        names = [PurePosixPath(row["path"]) for row in json.loads(manifest)]
        patterns = sorted({f"{glob.escape(str(folder / name.parent))}/*{glob.escape(name.suffix)}" for name in names})
        if len(patterns) > MOST:
            patterns = sorted({f"{glob.escape(str(folder))}/*{glob.escape(name.suffix)}" for name in names})
        formats = sorted({_FORMATS.get(name.suffix.lower(), _OTHER_FORMAT) for name in names})
        tree = split.roots.get("images")
        root = f" Merkle root over their SHA-256: {tree['root']}." if tree else ""
        return mlc.FileSet(
            ctx=self.context, id=f"{split.name}/image_files", name=f"{split.name}/image_files", includes=patterns,
            encoding_formats=formats, description=f"The images of the split are those in its manifest.{root}",
        ) if patterns else None  # fmt: skip

    def _folder(self) -> PurePosixPath | None:
        """The dataset folder: the only dep of the stage validate besides digests of code and locks of packages.

        None if the folder is outside of the project or not known.
        """
        for link in self.facts.history_facts.traced.links if self.facts.history_facts else ():
            if link.stage == "validate":
                read = [path for path in link.entry.deps if not path.startswith(("digests/", "requirements/"))]
                folder = PurePosixPath(read[0]) if len(read) == 1 else None
                # A folder outside of the project exists only on that machine.
                outside = folder is not None and (folder.is_absolute() or ".." in folder.parts)
                return None if outside else folder
        return None

    def _split_table(self) -> mlc.RecordSet:
        """A table of the splits with their names here and in Croissant."""
        columns = {"name": (_TEXT, "The split."), "url": (mlc.DataType.URL, "The name of the split in Croissant.")}
        return mlc.RecordSet(
            ctx=self.context, id="splits", name="splits", key=["splits/name"],
            data_types=[mlc.DataType.SPLIT],
            fields=[
                mlc.Field(ctx=self.context, id=f"splits/{name}", name=name, description=text, data_types=[kind])
                for name, (kind, text) in columns.items()
            ],
            data=[
                {"splits/name": split.name, "splits/url": f"cr:{_SPLITS.get(split.name, split.name)}"}
                for split in self.splits
            ],
        )  # fmt: skip

    def _tables(self) -> Iterator[mlc.RecordSet]:
        if _CLASSES in self.paths:
            yield self._table("classes", _CLASSES, _CLASS_TABLE)
        for split in self.splits:
            for name, (file, columns) in _TABLES.items():
                path = file.format(split=split.name)
                if path in self.paths:
                    source = f"{path}/{name}" if name == _NUMBERS else path
                    yield self._table(f"{split.name}/{name}", source, columns)
            if self.images[split.name]:
                yield self._pictures(split.name)

    def _table(self, name: str, source: str, columns: dict[str, tuple[Any, str, str]]) -> mlc.RecordSet:
        """A table whose columns are JSON paths in a file."""
        fields = [
            self._field(
                f"{name}/{column}", kind, text,
                file_object=source, extract=mlc.Extract(ctx=self.context, json_path=json_path),
                format="XYWH" if kind == mlc.DataType.BOUNDING_BOX else None,
            )
            for column, (kind, json_path, text) in columns.items()
        ]  # fmt: skip
        return mlc.RecordSet(ctx=self.context, id=name, name=name, fields=fields)

    def _pictures(self, split: str) -> mlc.RecordSet:
        """A table of the decoded images, by their path in the manifest."""
        folder = self._folder()
        name, source = f"{split}/pictures", f"{split}/image_files"
        fields = [
            self._field(
                f"{name}/path", _TEXT, "The path of the image below the folder of the dataset.",
                file_set=source, extract=mlc.Extract(ctx=self.context, file_property="fullpath"),
                transforms=[mlc.Transform(ctx=self.context, regex=f"^{re.escape(str(folder))}/(.*)$")],
            ),
            self._field(
                f"{name}/image", mlc.DataType.IMAGE_OBJECT, "The image.",
                file_set=source, extract=mlc.Extract(ctx=self.context, file_property="content"),
            ),
        ]  # fmt: skip
        return mlc.RecordSet(ctx=self.context, id=name, name=name, fields=fields)

    def _field(self, name: str, kind: Any, text: str, **source: Any) -> mlc.Field:
        return mlc.Field(
            ctx=self.context, id=name, name=name, description=text, data_types=[kind],
            source=mlc.Source(ctx=self.context, **source),
        )  # fmt: skip
