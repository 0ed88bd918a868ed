"""Exported model files (ONNX, OpenVINO): their content against their description, git, and the checkpoint they name."""

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
from rfdetr_core.verification.results import check_making, check_own, check_unrecorded

_AGAIN = "exported again from its source"


def check_exported_file(report: Report, path: Path, archive: Archive) -> None:
    """An exported file from anywhere: by itself, the history, and its source where that is at hand."""
    exported = _read(report, path, str(path))
    if exported is None:
        return
    tensors = exported.description.tensors
    runs = check_making(report, path, exported.checkpoint, tensors, archive) or []
    if not runs:
        check_unrecorded(report, f"weights of {path}", tensors, archive.history)
    _check_content(report, exported, str(path), runs)
    known = find_export(files.sha256_file(path), archive) or archive.first_link(files.md5_file(path))
    if known:
        report.checked += 1
    else:
        report.skip(f"bytes of {path}", f"no {EXPORT} of this history has them")
    _check_source(report, exported, _source(exported, archive, runs), confirmed=known is not None)


def check_exports(report: Report, contents: Contents, model: Mapping[str, Any] | None, record: Any) -> None:
    """output/export.json and the files that it names; model: the digests of the present checkpoint, if it is at hand;
    record: its record."""
    told = read_json(report, contents, EXPORT, Export) if (contents.root / EXPORT).is_file() else None
    if told is None:
        return
    source = told.get("source") or {}
    for key in ("sha256", "tensors") if model is not None and source else ():
        report.equal(f"{key} of {MODEL}", source[key], (model or {}).get(key), EXPORT)
    folder = contents.root / FOLDER
    for more in sorted({one.name for one in folder.glob("*")} - told["files"].keys()):
        report.wrong(f"{FOLDER}/{more}", None, "a file that was not exported", EXPORT)
    for file, row in told["files"].items():
        name, path = f"{FOLDER}/{file}", folder / file
        if not path.is_file():
            report.skip(name, "gone: it is not here")
            continue
        md5, sha256, size = contents.digests(path)
        for key, value in {"sha256": sha256, "md5": md5, "size": size}.items():
            report.equal(f"{key} of {name}", row[key], value, EXPORT)
        exported = _read(report, path, name) if path.suffix in SUFFIXES else None
        if exported is not None:
            tensors = exported.description.tensors
            report.equal(f"weights of {name}", source.get("tensors"), tensors, EXPORT)
            check_own(report, exported.checkpoint, tensors, name, record)
            _check_content(report, exported, name, [record] if record else [])
            for key in sorted(row.keys() & type(exported.description).model_fields.keys()):
                report.equal(f"{key} in {name}", row[key], getattr(exported.description, key), EXPORT)


def _read(report: Report, path: Path, name: str) -> Exported | None:
    try:
        exported = read_exported(path)
        _ = exported.constants, exported.graph
        return exported
    except UserError as error:
        report.wrong(name, "an exported model", str(error), "reading it")
        return None


def _check_content(report: Report, exported: Exported, name: str, runs: list[dict[str, Any]]) -> None:
    """Constants and graph against the description, and that against what the source says."""
    told = exported.description
    for what, expected, found in claims(exported, runs):
        report.equal(f"{what} of {name}", expected, found, "its source")
    report.equal(f"graph of {name}", told.graph, exported.graph, "its description")
    if is_derived(exported):
        for note in limits(exported, None, exported.path):
            report.note(f"{name} is {note}")
        report.skip(f"constants of {name}", "its graph is another, and may need others")
        return
    _compare_constants(report, name, told.constants, exported.constants, "its description")


def _compare_constants(
    report: Report, name: str, expected: Mapping[str, str], found: Mapping[str, str], source: str
) -> None:
    for constant in sorted(expected.keys() | found.keys()):
        report.equal(f"constant {constant} of {name}", expected.get(constant), found.get(constant), source)


def _source(exported: Exported, archive: Archive, runs: list[dict[str, Any]]) -> Path | None:
    """A file with the weights that an exported file names: the project's model, or an earlier one in DVC's cache."""
    root = archive.history.root
    for path in (root / MODEL, *(cache_path(root, one["file"]["md5"]) for one in runs)):
        try:
            if path.is_file() and tensor_digest(read_checkpoint(path).weights) == exported.description.tensors:
                return path
        except UserError:
            continue
    return None


def _check_source(report: Report, exported: Exported, source: Path | None, *, confirmed: bool) -> None:
    """Export the source again, in memory, and compare each constant.

    confirmed: git has the bytes of the file, so that another graph is due to other code of this project.
    """
    name, told = f"{exported.path}, {_AGAIN}", exported.description
    if is_derived(exported):
        report.skip(name, "its graph is not the exported one")
        return
    if source is None:
        report.skip(name, f"gone: neither {MODEL} nor DVC's cache has its source. Restore it: dvc pull")
        return
    if other := "; ".join(_other_packages(told.packages)):
        report.skip(name, f"other packages are installed: {other}")
        return
    try:
        constants, graph = _export_again(exported, source)
    except UserError as error:  # a package is missing, or the code here does not know the model
        report.skip(name, str(error))
        return
    if told.precision != "fp32":
        shared = constants.keys() & exported.constants.keys()
        constants, found = ({key: one[key] for key in shared} for one in (constants, exported.constants))
        _compare_constants(report, str(exported.path), constants, found, _AGAIN)
        report.skip(name, f"its {len(exported.constants) - len(shared)} constants of {told.precision} are not compared")
    elif graph == exported.graph:
        _compare_constants(report, str(exported.path), constants, exported.constants, _AGAIN)
    elif confirmed:
        report.skip(name, "the code of this project exports another graph now")
    else:
        report.wrong(f"graph of {exported.path}", graph, exported.graph, _AGAIN)


def _other_packages(packages: Mapping[str, str]) -> Iterator[str]:
    for package, version in sorted(packages.items()):
        try:
            here = metadata.version(package)
        except metadata.PackageNotFoundError:
            here = "none"
        if here != version:
            yield f"{package} {here}, not {version}"


def _export_again(exported: Exported, source: Path) -> tuple[dict[str, str], str]:
    """The constants and the graph of the source, exported as float32 by the code here."""
    from rfdetr_core.export.config import ExportConfig
    from rfdetr_core.export.run import Source, export_draft

    told = exported.description
    images = "uint8" if told.images == "normalised" else told.images
    config = ExportConfig(postprocess=told.postprocess, images=images, batch_size=told.batch_size)
    digests = export_draft(Source.read(source), config, exported.format).digests()
    return digests["constants"], digests["graph"]
