"""Checks of exported model files (ONNX, OpenVINO) against their description, git and their source checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rfdetr_core.audit.exported import FOLDER, SUFFIXES, Export, claims, find_export, is_derived, limits
from rfdetr_core.audit.history import EXPORT, MODEL, cache_path
from rfdetr_core.audit.trace import Archive
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import Exported, read_exported
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.verification.claims import read_json
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.results import check_own_lineage, check_trainings, check_unrecorded

_AGAIN = "exported again from its source"


def check_exported_file(report: Report, path: Path, archive: Archive) -> None:
    """Check any exported file: its own content, the history, and its source checkpoint if that is local.

    Args:
        report: Receives the mismatches.
        path: The .onnx or .xml file.
        archive: The records and dvc.lock files in the history.
    """
    exported = _read(report, path, str(path))
    if exported is None:
        return
    tensors = exported.description.tensors
    runs = check_trainings(report, path, exported.checkpoint, tensors, archive) or []
    if not runs:
        check_unrecorded(report, f"weights of {path}", tensors, archive.history)
    _check_content(report, exported, str(path), runs)
    recorded = find_export(files.sha256_file(path), archive) or archive.first_link(files.md5_file(path))
    if recorded:
        report.checked += 1
    else:
        report.skip(f"bytes of {path}", f"no {EXPORT} in the history has their digest")
    _check_source(report, exported, _source(exported, archive, runs), confirmed=recorded is not None)


def check_exports(report: Report, contents: Contents, model: Mapping[str, Any] | None, record: Any) -> None:
    """Check output/export.json and the files that it names.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        model: The digests of the local checkpoint; None if there is none.
        record: The run record of that checkpoint; None if there is none.
    """
    stored = read_json(report, contents, EXPORT, Export) if (contents.root / EXPORT).is_file() else None
    if stored is None:
        return
    source = stored.get("source") or {}
    for key in ("sha256", "tensors") if model is not None and source else ():
        report.equal(f"{key} of {MODEL}", source[key], (model or {}).get(key), EXPORT)
    folder = contents.root / FOLDER
    for unlisted in sorted({file.name for file in folder.glob("*")} - stored["files"].keys()):
        report.wrong(f"{FOLDER}/{unlisted}", None, "a file that was not exported", EXPORT)
    for file, row in stored["files"].items():
        name, path = f"{FOLDER}/{file}", folder / file
        if not path.is_file():
            report.skip(name, "missing: not in this clone")
            continue
        md5, sha256, size = contents.digests(path)
        for key, value in {"sha256": sha256, "md5": md5, "size": size}.items():
            report.equal(f"{key} of {name}", row[key], value, EXPORT)
        exported = _read(report, path, name) if path.suffix in SUFFIXES else None
        if exported is not None:
            tensors = exported.description.tensors
            report.equal(f"weights of {name}", source.get("tensors"), tensors, EXPORT)
            check_own_lineage(report, exported.checkpoint, tensors, name, record)
            _check_content(report, exported, name, [record] if record else [])
            for key in sorted(row.keys() & type(exported.description).model_fields.keys()):
                report.equal(f"{key} in {name}", row[key], getattr(exported.description, key), EXPORT)


def _read(report: Report, path: Path, name: str) -> Exported | None:
    try:
        exported = read_exported(path)
        _ = exported.constants, exported.graph
        return exported
    except UserError as error:
        report.wrong(name, "an exported model", f"an error: {error}", "reading it")
        return None


def _check_content(report: Report, exported: Exported, name: str, runs: list[dict[str, Any]]) -> None:
    """Compare constants and graph with the description, and the description with the source."""
    description = exported.description
    for subject, expected, actual in claims(exported, runs):
        report.equal(f"{subject} of {name}", expected, actual, "its source")
    report.equal(f"graph of {name}", description.graph, exported.graph, "its description")
    if is_derived(exported):
        for note in limits(exported, None, exported.path):
            report.note(f"{name} is {note}")
        report.skip(f"constants of {name}", "its graph differs from the exported graph, so it may need other constants")
        return
    _compare_constants(report, name, description.constants, exported.constants, "its description")


def _compare_constants(
    report: Report, name: str, expected: Mapping[str, str], actual: Mapping[str, str], source: str
) -> None:
    for constant in sorted(expected.keys() | actual.keys()):
        report.equal(f"constant {constant} of {name}", expected.get(constant), actual.get(constant), source)


def _source(exported: Exported, archive: Archive, runs: list[dict[str, Any]]) -> Path | None:
    """The checkpoint that a file was exported from: the project's model, or an earlier one in DVC's cache."""
    root = archive.history.root
    for path in (root / MODEL, *(cache_path(root, record["file"]["md5"]) for record in runs)):
        try:
            if path.is_file() and tensor_digest(read_checkpoint(path).weights) == exported.description.tensors:
                return path
        except UserError:
            continue
    return None


def _check_source(report: Report, exported: Exported, source: Path | None, *, confirmed: bool) -> None:
    """Export the source checkpoint again, in memory, and compare each constant.

    confirmed: git has the digest of the file. Then another graph is not a mismatch: this project's code has changed.
    """
    name, description = f"{exported.path}, {_AGAIN}", exported.description
    if is_derived(exported):
        report.skip(name, "its graph differs from the graph that was exported")
        return
    if source is None:
        report.skip(
            name,
            f"missing: the checkpoint that it was exported from is neither {MODEL} nor in DVC's cache. "
            "Restore it: dvc pull",
        )
        return
    if packages := "; ".join(_other_packages(description.packages)):
        report.skip(name, f"other package versions are installed: {packages}")
        return
    try:
        constants, graph = _export_again(exported, source)
    except UserError as error:  # a package is missing, or the code here does not know the model
        report.skip(name, str(error))
        return
    if description.precision != "fp32":
        shared = constants.keys() & exported.constants.keys()
        constants, actual = ({key: digests[key] for key in shared} for digests in (constants, exported.constants))
        _compare_constants(report, str(exported.path), constants, actual, _AGAIN)
        report.skip(
            name, f"{len(exported.constants) - len(shared)} of its constants exist only in {description.precision}"
        )
    elif graph == exported.graph:
        _compare_constants(report, str(exported.path), constants, exported.constants, _AGAIN)
    elif confirmed:
        report.skip(name, "the project's code now exports another graph")
    else:
        report.wrong(f"graph of {exported.path}", graph, exported.graph, _AGAIN)


def _other_packages(packages: Mapping[str, str]) -> Iterator[str]:
    for package, version in sorted(packages.items()):
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed = "not installed"
        if installed != version:
            yield f"{package} {installed}, exported with {version}"


def _export_again(exported: Exported, source: Path) -> tuple[dict[str, str], str]:
    """Export the source as float32 with the code here; returns its constants and graph."""
    from rfdetr_core.export.config import ExportConfig
    from rfdetr_core.export.run import Source, export_draft

    description = exported.description
    images = "uint8" if description.images == "normalised" else description.images
    config = ExportConfig(postprocess=description.postprocess, images=images, batch_size=description.batch_size)
    digests = export_draft(Source.read(source), config, exported.format).digests()
    return digests["constants"], digests["graph"]
