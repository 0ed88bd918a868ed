"""Checks of the local dataset: the SHA-256 of each image, and the labels by validating and converting them again."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import SUFFIXES
from rfdetr_core.base.manifest import SPLITS, ManifestRow, read_classes, read_manifest, write_classes, write_manifest
from rfdetr_core.base.params import read_section
from rfdetr_core.config.preflight import is_version, locked_versions
from rfdetr_core.ingest.canonical import write_split
from rfdetr_core.ingest.clean import clean
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset, facts_of
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.metadata import read_metadata_csv, write_metadata_of
from rfdetr_core.ingest.validate import PageWriter, validate_dataset
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline, check_size
from rfdetr_core.verification.recomputed import PAGE, reason_for_other_bytes
from rfdetr_core.verification.report import Report

_REPORTS = ("findings.csv", "findings.json", "statistics.json", "index.html")


def check_dataset(report: Report, contents: Contents, pipeline: Pipeline, name: str) -> None:
    """Compare the dataset folder `name` with manifests and annotations. Other bytes with equal content are only noted.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        name: The dataset folder, relative to the root.
    """
    folder = contents.root / name
    manifests = contents.root / "manifest"
    if not folder.is_dir():
        report.skip(f"images and labels in {name}", "missing: the folder is not in this clone")
        return
    try:
        rows = {split: read_manifest(manifests / f"{split}.json") for split in SPLITS}
        config = read_section(ValidateConfig, "validate", contents.root / "params.yaml")
    except UserError as error:
        report.skip(f"images and labels in {name}", str(error))
        return
    listing = contents.listing(name) or {}
    missing = _check_images(report, contents, name, rows, listing)
    locked = pipeline.lock.dep("validate", name)
    same = locked is not None and contents.md5(name) == locked
    mismatches_before = len(report.mismatches)
    difference = reason_for_other_bytes(
        contents, pipeline, "validate", {"report": None, "numeric": {"pandas", "pillow"}}
    )
    if same and difference and not missing:
        report.skip(PAGE, difference)
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        output = Path(temporary)
        try:
            if missing:
                _convert_without_images(folder, config, manifests, rows, output)
            else:
                validate_dataset(
                    folder,
                    config,
                    output / "dataset",
                    manifests=output / "manifest",
                    project=contents.root,
                    metadata=output / "metadata",
                    write_page=None if difference or not same else page_writer(),
                )
                convert_dataset(folder, config, manifests=output / "manifest", annotations=output / "annotations")
        except UserError as error:
            report.wrong(f"{name}", "a valid dataset", f"an error: {' '.join(str(error).split())}", "validated again")
        _compare(report, contents, pipeline, rows, output, with_reports=same)
    if locked is not None and not same and not missing:
        _explain(report, contents, name, locked, listing, harmless=len(report.mismatches) == mismatches_before)
    elif same:
        check_size(report, contents, name, pipeline.lock.stages["validate"].files[name], f"{LOCK}: validate")


def page_writer() -> PageWriter:
    """The function that writes the dataset page. Its packages are imported only when a page is written."""
    from rfdetr_core.report.dataset import write_page

    return write_page


def _check_images(
    report: Report, contents: Contents, name: str, rows: dict[str, list[ManifestRow]], listing: dict[str, str]
) -> bool:
    """Compare the SHA-256 of every image in the manifests. Returns whether images are missing."""
    known_paths = {row.path for split in rows.values() for row in split}
    extra = {}
    if any(not (contents.root / name / path).is_file() for path in known_paths):
        unknown = (path for path in listing if path not in known_paths and path.lower().endswith(SUFFIXES))
        extra = {contents.sha256(f"{name}/{path}"): path for path in unknown}
    missing = []
    for split, entries in rows.items():
        for row in entries:
            actual, source = contents.sha256(f"{name}/{row.path}"), f"manifest/{split}.json"
            if actual is not None:
                report.equal(f"{name}/{row.path}", row.sha256, actual, source)
            elif row.sha256 in extra:
                report.wrong(f"name of {name}/{row.path}", row.path, extra.pop(row.sha256), source)
            else:
                missing.append(row.path)
                report.skip(f"image {name}/{row.path}", "missing: the file is not in this clone")
    if missing:
        for path in extra.values():
            report.wrong(f"{name}/{path}", None, "an image that no manifest has", "manifest/")
    return bool(missing)


def _convert_without_images(
    root: Path, config: ValidateConfig, manifests: Path, rows: dict[str, list[ManifestRow]], output: Path
) -> None:
    """Write manifests and annotations from the local labels; sizes and digests of images come from the manifests."""
    facts = {row.path: facts_of(row) for split in rows.values() for row in split}
    split_of = {row.path: split for split, entries in rows.items() for row in entries}
    findings = Findings(config)
    dataset = clean(root, findings, lambda _: facts.items(), split_of)
    if dataset is None:
        raise UserError("its annotations cannot be read")
    write_metadata_of(dataset, read_metadata_csv(root, dataset.named, findings), output / "metadata")
    for split, images in dataset.splits.items():
        write_manifest(output / "manifest" / f"{split}.json", (image.row() for image in images))
        write_split(output / "annotations" / f"{split}.json", images, dataset.classes)
    for part in ("manifest", "annotations"):
        write_classes(output / part / "classes.json", dataset.classes)


def _compare(
    report: Report,
    contents: Contents,
    pipeline: Pipeline,
    rows: dict[str, list[ManifestRow]],
    output: Path,
    *,
    with_reports: bool,
) -> None:
    """Compare the recomputed files with the existing files and dvc.lock. Manifest rows are compared by image."""
    source = "validated again"
    comparable = not (decoders := _other_decoder(contents))
    if not comparable:
        report.skip("pixels of images", decoders)
    for split in SPLITS:
        if not (output / "manifest" / f"{split}.json").exists():
            continue
        before = {row.path: row for row in rows[split]}
        after = _recomputed_rows(output / "manifest" / f"{split}.json", before, comparable=comparable)
        for path in sorted(before.keys() | after.keys()):
            subject, old, new = f"{path} in manifest/{split}.json", before.get(path), after.get(path)
            if old is None or new is None:
                report.wrong(subject, "a row" if old else None, "a row" if new else None, source)
                continue
            for key in ("labels", "width", "height", "pixels"):  # the SHA-256 of images was compared before
                report.equal(f"{key} of {subject}", getattr(old, key), getattr(new, key), source)
    for file in sorted(output.glob("*/*")):
        name = file.relative_to(output).as_posix()
        if file.parent.name == "dataset":
            if file.name not in _REPORTS or not with_reports:
                continue
            name = f"reports/{name}"
        if file.name == "classes.json":
            _compare_classes(report, contents, name, file)
        locked, recomputed = pipeline.lock.out(name), files.md5_file(file)
        if locked is not None:
            report.equal(f"{name}, recomputed", locked, recomputed, LOCK)


def _other_decoder(contents: Contents) -> str:
    """Why decoding here may give other pixels than the manifests have; empty if they should be equal."""
    installed, locked = (
        version("pillow"),
        locked_versions(contents.root / "requirements" / "numeric.lock").get("pillow"),
    )
    if locked is None or is_version(installed, locked):
        return ""
    return f"Pillow {installed} may decode other pixels than {locked}, the version in requirements/numeric.lock"


def _recomputed_rows(path: Path, old_rows: dict[str, ManifestRow], *, comparable: bool) -> dict[str, ManifestRow]:
    """The rows of a recomputed manifest, by path.

    The pixel digest of an image with unchanged bytes is taken from `old_rows` if it cannot be compared: with another
    decoder, or if the old manifest has no pixel digests.
    """
    rows = read_manifest(path)
    for index, row in enumerate(rows):
        old = old_rows.get(row.path)
        if old and old.sha256 == row.sha256 and (old.pixels is None or not comparable):
            rows[index] = replace(row, pixels=old.pixels)
    write_manifest(path, rows)
    return {row.path: row for row in rows}


def _compare_classes(report: Report, contents: Contents, name: str, recomputed: Path) -> None:
    if not (contents.root / name).is_file():
        return
    old, new = ({entry.index: entry for entry in read_classes(path)} for path in (contents.root / name, recomputed))
    for index in sorted(old.keys() | new.keys()):
        before, after = (f"{entry.id} {entry.name}" if (entry := table.get(index)) else None for table in (old, new))
        report.equal(f"class {index} of {name}", before, after, "validated again")


def _explain(
    report: Report, contents: Contents, name: str, md5: str, listing: dict[str, str], *, harmless: bool
) -> None:
    """Report which files of a dataset folder differ from dvc.lock. harmless: the content is equal, so only a note."""
    expected = contents.cached_listing(md5)
    differing = list(files.changed_digests(expected, listing)) if expected is not None else []
    for path, before, after in differing:
        if path.lower().endswith(SUFFIXES) or not harmless:
            report.wrong(f"{name}/{path}", before, after, f"{LOCK}: validate")
    if harmless and not any(path.lower().endswith(SUFFIXES) for path, _, _ in differing):
        named = f" ({', '.join(path for path, _, _ in differing[:3])})" if differing else ""
        report.note(f"{name} has other bytes than in {LOCK}, but equal content{named}. Run: dvc repro validate")
