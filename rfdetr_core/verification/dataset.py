"""The dataset at hand against the manifests and annotations: images by their bytes, labels by converting them again."""

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
from rfdetr_core.verification.remade import PAGE, other_making
from rfdetr_core.verification.report import Report

_REPORTS = ("findings.csv", "findings.json", "statistics.json", "index.html")


def check_dataset(report: Report, contents: Contents, pipeline: Pipeline, name: str) -> None:
    """Compare the dataset folder `name`. Other bytes that mean the same are a note."""
    folder = contents.root / name
    manifests = contents.root / "manifest"
    if not folder.is_dir():
        report.skip(f"images and labels in {name}", "gone: the folder is not here")
        return
    try:
        rows = {split: read_manifest(manifests / f"{split}.json") for split in SPLITS}
        config = read_section(ValidateConfig, "validate", contents.root / "params.yaml")
    except UserError as error:
        report.skip(f"images and labels in {name}", str(error))
        return
    listing = contents.listing(name) or {}
    gone = _check_images(report, contents, name, rows, listing)
    locked = pipeline.lock.dep("validate", name)
    same = locked is not None and contents.md5(name) == locked
    found = len(report.mismatches)
    other = other_making(contents, pipeline, "validate", {"report": None, "numeric": {"pandas", "pillow"}})
    if same and other and not gone:
        report.skip(PAGE, other)
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
        made = Path(temporary)
        try:
            if gone:
                _convert_without_images(folder, config, manifests, rows, made)
            else:
                validate_dataset(
                    folder,
                    config,
                    made / "dataset",
                    manifests=made / "manifest",
                    metadata=made / "metadata",
                    write_page=None if other or not same else page_writer(),
                )
                convert_dataset(folder, config, manifests=made / "manifest", annotations=made / "annotations")
        except UserError as error:
            report.wrong(f"{name}", "a dataset that passes", " ".join(str(error).split()), "validated again")
        _compare(report, contents, pipeline, rows, made, with_reports=same)
    if locked is not None and not same and not gone:
        _explain(report, contents, name, locked, listing, harmless=len(report.mismatches) == found)
    elif same:
        check_size(report, contents, name, pipeline.lock.stages["validate"].files[name], f"{LOCK}: validate")


def page_writer() -> PageWriter:
    """The writer of the dataset's page, whose packages are imported only where a page is made."""
    from rfdetr_core.report.dataset import write_page

    return write_page


def _check_images(
    report: Report, contents: Contents, name: str, rows: dict[str, list[ManifestRow]], listing: dict[str, str]
) -> bool:
    """The SHA-256 of every image of the manifests; whether some are missing."""
    known = {row.path for split in rows.values() for row in split}
    extra = {}
    if any(not (contents.root / name / path).is_file() for path in known):
        unknown = (path for path in listing if path not in known and path.lower().endswith(SUFFIXES))
        extra = {contents.sha256(f"{name}/{path}"): path for path in unknown}
    gone = []
    for split, entries in rows.items():
        for row in entries:
            found, by = contents.sha256(f"{name}/{row.path}"), f"manifest/{split}.json"
            if found is not None:
                report.equal(f"{name}/{row.path}", row.sha256, found, by)
            elif row.sha256 in extra:
                report.wrong(f"name of {name}/{row.path}", row.path, extra.pop(row.sha256), by)
            else:
                gone.append(row.path)
                report.skip(f"image {name}/{row.path}", "gone: the file is not here")
    if gone:
        for path in extra.values():
            report.wrong(f"{name}/{path}", None, "an image", "manifest/")
    return bool(gone)


def _convert_without_images(
    root: Path, config: ValidateConfig, manifests: Path, rows: dict[str, list[ManifestRow]], made: Path
) -> None:
    """Rows and annotations from the labels at hand, and from the manifests what only images tell."""
    facts = {row.path: facts_of(row) for split in rows.values() for row in split}
    kept = {row.path: split for split, entries in rows.items() for row in entries}
    findings = Findings(config)
    dataset = clean(root, findings, lambda _: facts.items(), kept)
    if dataset is None:
        raise UserError("its annotations cannot be read")
    write_metadata_of(dataset, read_metadata_csv(root, dataset.named, findings), made / "metadata")
    for split, images in dataset.splits.items():
        write_manifest(made / "manifest" / f"{split}.json", (image.row() for image in images))
        write_split(made / "annotations" / f"{split}.json", images, dataset.classes)
    for part in ("manifest", "annotations"):
        write_classes(made / part / "classes.json", dataset.classes)


def _compare(
    report: Report,
    contents: Contents,
    pipeline: Pipeline,
    rows: dict[str, list[ManifestRow]],
    made: Path,
    *,
    with_reports: bool,
) -> None:
    """What was made again with what is there, and with dvc.lock; rows by their image."""
    by = "validated again"
    comparable = not (decoders := _other_decoder(contents))
    if not comparable:
        report.skip("pixels of images", decoders)
    for split in SPLITS:
        if not (made / "manifest" / f"{split}.json").exists():
            continue
        before = {row.path: row for row in rows[split]}
        after = _made_rows(made / "manifest" / f"{split}.json", before, comparable=comparable)
        for path in sorted(before.keys() | after.keys()):
            where, old, new = f"{path} in manifest/{split}.json", before.get(path), after.get(path)
            if old is None or new is None:
                report.wrong(where, "a row" if old else None, "a row" if new else None, by)
                continue
            for key in ("labels", "width", "height", "pixels"):  # the bytes of images were compared before
                report.equal(f"{key} of {where}", getattr(old, key), getattr(new, key), by)
    for file in sorted(made.glob("*/*")):
        name = file.relative_to(made).as_posix()
        if file.parent.name == "dataset":
            if file.name not in _REPORTS or not with_reports:
                continue
            name = f"reports/{name}"
        if file.name == "classes.json":
            _compare_classes(report, contents, name, file)
        locked, again = pipeline.lock.out(name), files.md5_file(file)
        if locked is not None:
            report.equal(f"{name}, made again", locked, again, LOCK)


def _other_decoder(contents: Contents) -> str:
    """Why pixels that are decoded here may be others than those of the manifests; empty: they should be the same."""
    here, wanted = version("pillow"), locked_versions(contents.root / "requirements" / "numeric.lock").get("pillow")
    if wanted is None or is_version(here, wanted):
        return ""
    return f"decoded with Pillow {here} here, while requirements/numeric.lock has {wanted}"


def _made_rows(path: Path, before: dict[str, ManifestRow], *, comparable: bool) -> dict[str, ManifestRow]:
    """A manifest that was made again, by path. Of an image with the same bytes, `before` has the digest of pixels where
    that cannot be compared: with another decoder, or where the manifest is older than such digests."""
    rows = read_manifest(path)
    for at, row in enumerate(rows):
        old = before.get(row.path)
        if old and old.sha256 == row.sha256 and (old.pixels is None or not comparable):
            rows[at] = replace(row, pixels=old.pixels)
    write_manifest(path, rows)
    return {row.path: row for row in rows}


def _compare_classes(report: Report, contents: Contents, name: str, made: Path) -> None:
    if not (contents.root / name).is_file():
        return
    old, new = ({entry.index: entry for entry in read_classes(path)} for path in (contents.root / name, made))
    for index in sorted(old.keys() | new.keys()):
        before, after = (f"{one.id} {one.name}" if (one := table.get(index)) else None for table in (old, new))
        report.equal(f"class {index} of {name}", before, after, "validated again")


def _explain(
    report: Report, contents: Contents, name: str, md5: str, listing: dict[str, str], *, harmless: bool
) -> None:
    """A folder that is not what dvc.lock knows: which files, and whether it matters."""
    expected = contents.cached_listing(md5)
    differing = list(files.changed_digests(expected, listing)) if expected is not None else []
    for path, before, after in differing:
        if path.lower().endswith(SUFFIXES) or not harmless:
            report.wrong(f"{name}/{path}", before, after, f"{LOCK}: validate")
    if harmless and not any(path.lower().endswith(SUFFIXES) for path, _, _ in differing):
        named = f" ({', '.join(path for path, _, _ in differing[:3])})" if differing else ""
        report.note(f"{name} has other bytes than {LOCK} knows and the same content{named}: dvc repro validate")
