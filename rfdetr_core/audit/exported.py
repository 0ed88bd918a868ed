"""Exported model files (ONNX, OpenVINO) in an audit: which export wrote a file, and what changed in it since.

An audit traces an exported file by the description that it carries. Such a description can be copied into any file.
So the history confirms an exported file only if git has the digest of its bytes: in output/export.json, or in the
listing of a folder that a dvc.lock names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_core.audit.history import EXPORT, Commit
from rfdetr_core.base import files
from rfdetr_core.base.errors import listed
from rfdetr_core.base.provenance import flattened
from rfdetr_core.base.schema import Count, FileSchema, Md5, Name, Sha256, Text
from rfdetr_core.lineage.records import record_names

if TYPE_CHECKING:
    from rfdetr_core.audit.trace import Archive, Link
    from rfdetr_core.checkpoint.exported import Exported

SUFFIXES = (".onnx", ".xml")
FOLDER = "output/export"


class ExportedFile(FileSchema):
    """An entry of export.json: the digests and size in bytes of a file in FOLDER."""

    md5: Md5
    sha256: Sha256
    size: Count


class ExportSource(FileSchema):
    """The checkpoint that was exported, as export.json names it."""

    sha256: Sha256
    tensors: Sha256
    record: Text | None = None


class Export(FileSchema):
    """The content of output/export.json. Without a source if no format was requested."""

    source: ExportSource | None = None
    files: dict[Name, ExportedFile]


def find_export(sha256: str, archive: Archive) -> tuple[str, Link | None] | None:
    """The path of a file with these bytes in any committed export.json, and the stage that wrote that export.json.

    Returns:
        None if no export.json has these bytes. The stage is None if no dvc.lock names that export.json.
    """
    for commit, export in reversed(archive.exports):
        for name, file in export["files"].items():
            if file["sha256"] == sha256:
                return f"{FOLDER}/{name}", _stage_of(commit, archive)
    return None


def _stage_of(commit: Commit, archive: Archive) -> Link | None:
    ((_, content),) = archive.history.read([commit.changed[EXPORT]])
    return archive.first_link(files.md5_bytes(content or b""))


def is_derived(exported: Exported) -> bool:
    """Whether a tool changed the graph after the export. Such a tool may also change and rename constants."""
    return exported.graph != exported.description.graph


def found_by(exported: Exported) -> str:
    """The value of `Trace.found_by` for an exported file whose bytes are not in the history."""
    return "derived" if is_derived(exported) else "description"


def limits(exported: Exported, found_by: str | None, path: Path) -> Iterator[str]:
    """Notes on what the history cannot confirm about an exported file.

    Args:
        exported: The file.
        found_by: See `Trace.found_by`.
        path: Where the file is, for the message.
    """
    if is_derived(exported):
        constants = exported.description.constants.items()
        unchanged = len(constants & exported.constants.items())
        yield (
            "derived: an optimiser, a quantiser or another tool changed its graph after the export. Its agreement with "
            "the checkpoint was measured before that change, so it does not apply to this file. "
            f"{unchanged} of the {len(constants)} exported constants are unchanged"
        )
    elif found_by == "description":
        yield (
            "only the file itself says that it was exported from these weights: no export in this history has its "
            f"bytes. Compare the file with its checkpoint: python -m rfdetr_core verify {path}"
        )


def contradictions(exported: Exported, runs: Sequence[dict[str, Any]] = ()) -> Iterator[str]:
    """The contradictions between an exported file and its source, as sentences.

    Args:
        exported: The file.
        runs: The run records with its source's weights.
    """
    if not is_derived(exported) and exported.changed_constants:
        changed = listed(exported.changed_constants)
        yield f"its graph is unchanged since the export, but these constants were changed: {changed}"
    for fact, expected, actual in claims(exported, runs):
        if expected != actual:
            yield f"its description says {fact} {actual}, but its source says {expected}"


def claims(exported: Exported, runs: Sequence[dict[str, Any]] = ()) -> Iterator[tuple[str, Any, Any]]:
    """The facts that the file's description copies from its source.

    Each fact is (name, value in the source, value in the description). Arguments are as in `contradictions`.
    """
    from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD

    description, source = exported.description, exported.checkpoint
    yield "variant", source.model_name, description.variant
    yield "class names", _class_names(description.class_names, source.args.get("class_names")), description.class_names
    yield "resolution", source.model_config.get("resolution", description.resolution), description.resolution
    yield "mean", list(IMAGENET_MEAN), description.mean
    yield "deviation", list(IMAGENET_STD), description.std
    if description.record is not None and runs:
        names = [name for record in runs for name in record_names(record)]
        yield "record", description.record if description.record in names else names[0], description.record


def _class_names(class_names: list[str], names: Any) -> list[str]:
    """The class names of a source, read as in `checkpoint.loading.class_names_of`.

    Args:
        class_names: The class names in the description of the exported file.
        names: The class names in the params of the source, if any.
    """
    from rfdetr_core.checkpoint.loading import COCO_NAMES

    if names and list(names) != list(filter(None, COCO_NAMES)):
        return list(names)
    by_id = [name or str(label) for label, name in enumerate(COCO_NAMES)]
    numbers = [str(label) for label in range(len(class_names))]
    return next((candidate for candidate in (by_id, list(names or ())) if candidate == class_names), numbers)


def plain_description(exported: Exported) -> dict[str, Any]:
    """The description of an exported file as plain values, without the lineage and the digests of its constants."""
    return exported.description.model_dump(mode="json", exclude={"checkpoint", "constants"})


def exported_lines(exported: Exported) -> list[str]:
    """The description of an exported file as lines."""
    description = exported.description
    takes = "normalised images" if description.images == "normalised" else f"photographs ({description.images})"
    gives = "boxes in pixels" if description.postprocess else "boxes and scores of every query"
    batch = description.batch_size or "any number of"
    values = {
        "format": f"{exported.format}, {description.precision}, {batch} images at a time",
        "takes": f"{takes}; gives {gives}",
        "source": f"sha256 {description.source}",
        "packages": ", ".join(f"{name} {version}" for name, version in description.packages.items()),
        **{f"parity {key}": value for key, value in flattened(description.parity).items()},
    }
    return [f"  {key:10} {value}" for key, value in values.items()]
