"""Model files for other runtimes (ONNX, OpenVINO) in an audit: which export wrote a file, and what was changed since.

A file is traced by the description that it carries, and a description can be copied into any file. So the history
vouches for a file only where git has its bytes: in output/export.json, or in a folder that a dvc.lock names.
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
    """A file in FOLDER, as export.json names it."""

    md5: Md5
    sha256: Sha256
    size: Count


class ExportSource(FileSchema):
    """The checkpoint that the files were made from."""

    sha256: Sha256
    tensors: Sha256
    record: Text | None = None


class Export(FileSchema):
    """output/export.json; without a source where no format was asked for."""

    source: ExportSource | None = None
    files: dict[Name, ExportedFile]


def recorded_as(sha256: str, archive: Archive) -> tuple[str, Link | None] | None:
    """The path that an export.json of the history has for a file with these bytes, and the stage that wrote that
    export.json, if a dvc.lock names it."""
    for commit, export in reversed(archive.exports):
        for name, file in export["files"].items():
            if file["sha256"] == sha256:
                return f"{FOLDER}/{name}", _stage_of(commit, archive)
    return None


def _stage_of(commit: Commit, archive: Archive) -> Link | None:
    ((_, content),) = archive.history.read([commit.changed[EXPORT]])
    return archive.introduced(files.md5_bytes(content or b""))


def is_derived(exported: Exported) -> bool:
    """Whether the graph is not the one that was exported. Its constants may be others, too, under other names."""
    return exported.graph != exported.description.graph


def found_by(exported: Exported) -> str:
    """How a file is found whose bytes the history does not have (see `Trace`)."""
    return "derived" if is_derived(exported) else "description"


def limits(exported: Exported, found: str | None, path: Path) -> Iterator[str]:
    """What is not known of a file, though a history has the weights that it names; found: see `Trace.found_by`."""
    if is_derived(exported):
        told = exported.description.constants.items()
        kept = len(told & exported.constants.items())
        yield (
            "derived: its graph is not the exported one; an optimiser or quantiser changed it, so its numbers are not "
            f"those that were proven ({kept} of the {len(told)} exported constants are in it unchanged)"
        )
    elif found == "description":
        yield (
            "that it was made of these weights is the file's own word: no export in this history has its bytes. "
            f"Compare it with its source: python -m rfdetr_core verify {path}"
        )


def contradictions(exported: Exported, runs: Sequence[dict[str, Any]] = ()) -> Iterator[str]:
    """What an exported file says that is not so; runs: the records of its source's weights."""
    if not is_derived(exported) and exported.changed_constants:
        changed = listed(exported.changed_constants)
        yield f"its graph is the exported one, and these constants of it are not, so they were changed: {changed}"
    for what, expected, found in claims(exported, runs):
        if expected != found:
            yield f"it says otherwise of its {what} than its source: {found}, not {expected}"


def claims(exported: Exported, runs: Sequence[dict[str, Any]] = ()) -> Iterator[tuple[str, Any, Any]]:
    """What a description repeats of its source: the name of each fact, as the source has it, and as it is told."""
    from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD

    told, source = exported.description, exported.checkpoint
    yield "variant", source.model_name, told.variant
    yield "class names", _class_names(told.class_names, source.args.get("class_names")), told.class_names
    yield "resolution", source.model_config.get("resolution", told.resolution), told.resolution
    yield "mean", list(IMAGENET_MEAN), told.mean
    yield "deviation", list(IMAGENET_STD), told.std
    if told.record is not None and runs:
        names = [name for one in runs for name in record_names(one)]
        yield "record", told.record if told.record in names else names[0], told.record


def _class_names(told: list[str], names: Any) -> list[str]:
    """The class names of a source with these in its params, as `checkpoint.loading.class_names_of` reads them."""
    from rfdetr_core.checkpoint.loading import COCO_NAMES

    if names and list(names) != list(filter(None, COCO_NAMES)):
        return list(names)
    by_id = [name or str(label) for label, name in enumerate(COCO_NAMES)]
    numbers = [str(label) for label in range(len(told))]
    return next((one for one in (by_id, list(names or ())) if one == told), numbers)


def plain_description(exported: Exported) -> dict[str, Any]:
    """What a file says of itself as plain values, without what the lineage says as well, and without digests of each
    constant."""
    return exported.description.model_dump(mode="json", exclude={"checkpoint", "constants"})


def exported_lines(exported: Exported) -> list[str]:
    """What a file says of itself, for people."""
    told = exported.description
    takes = "normalised images" if told.images == "normalised" else f"photographs ({told.images})"
    values = {
        "format": f"{exported.format}, {told.precision}, {told.batch_size or 'any number of'} images at a time",
        "takes": f"{takes}; gives {'boxes in pixels' if told.postprocess else 'boxes and scores of every query'}",
        "source": f"sha256 {told.source}",
        "packages": ", ".join(f"{name} {version}" for name, version in told.packages.items()),
        **{f"parity {key}": value for key, value in flattened(told.parity).items()},
    }
    return [f"  {key:10} {value}" for key, value in values.items()]
