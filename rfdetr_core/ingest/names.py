"""Names of files: those that other systems read otherwise, those that tell of copies; files that are passed over."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from unicodedata import category, is_normalized, normalize

from rfdetr_core.base.images import SUFFIXES
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import SYSTEM_FOLDERS, is_hidden_or_system, joined
from rfdetr_core.ingest.records import Dataset, Facts, Place

# Roboflow names augmented copies of one picture <stem>.rf.<hash>.jpg.
_COPY = re.compile(r"\.rf\.[0-9a-zA-Z]+\.\w+$")
_PLAIN = re.compile(r"[\w+=,;@#%&(){}\[\]~!$' .-]*", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
# .DS_Store and Thumbs.db, which DVC ignores, must change no result: a clone lacks them.
_JUNK = ("desktop.ini",)
_OTHER_PICTURES = re.compile(
    r"\.(apng|arw|avif|cr[23]|dcm|dib|dng|exr|gif|hdr|hei[cf]|ico|j2k|jp2|jpx|jxl|nef|orf|p[bfgnp]m|pcx|psd|qoi|raf|raw|rw2"
    r"|svg|tga)"
)
_COCO_FILE = re.compile(r"_annotations\.coco\.json|instances_.*\.json")


def origin(path: str) -> str | None:
    """The path of the picture that Roboflow made this copy of; None if the name does not tell."""
    return _COPY.sub("", path) if _COPY.search(path) else None


def check_names(dataset: Dataset, facts: Facts, findings: Findings) -> set[tuple[str, str]]:
    """Look at the names of all images; gives those that must be left out, as split and path."""
    out = set()
    alike: dict[str, str] = {}
    for name in (name for name in SPLITS if name in dataset):
        for path in sorted(record.path for record in dataset[name].images):
            fault = _foreign(path)
            if fault and findings.add("name-not-portable", Place(path, image=path), fault):
                out.add((name, path))
            other = alike.setdefault(normalize("NFC", path).casefold(), path)
            what = f"it differs from {other} by case or by the spelling of its characters alone"
            if other != path and findings.add("names-alike", Place(path, image=path), what):
                out.add((name, path))
    return out | _check_origins(dataset, facts, findings)


def _check_origins(dataset: Dataset, facts: Facts, findings: Findings) -> set[tuple[str, str]]:
    """Find copies of one picture, and equal names, in two splits; copies of equal bytes are found elsewhere."""
    out = set()
    first: dict[str, tuple[str, str]] = {}
    named: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in (name for name in reversed(SPLITS) if name in dataset):
        paths = sorted(record.path for record in dataset[name].images)
        shared = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
        for path in paths:
            below = posixpath.relpath(path, shared or ".")
            split, other = first.setdefault(origin(below) or posixpath.splitext(below)[0], (name, path))
            if split == name or digest_or_path(path, facts) == digest_or_path(other, facts):
                continue
            what = f"it and {other}, which is in {split}, are copies of one picture by their names"
            if origin(below) is None:
                named[name, split].append((path, other))
            elif findings.add("origin-leakage", Place(path, image=path), what):
                out.add((name, path))
    for (name, split), pairs in named.items():
        path, other = pairs[0]
        what = f"{len(pairs)} images of {name} have names of images of {split}: {path} and {other}. Are they copies?"
        if findings.add("names-in-two-splits", Place(path, image=path), what):
            out |= {(name, path) for path, _ in pairs}
    return out


def digest_or_path(path: str, facts: Facts) -> str:
    """The digest of an image, its path where it has none."""
    return facts[path].sha256 if path in facts and facts[path].sha256 else path


def _foreign(path: str) -> str | None:
    """What other systems or people would make another name of."""
    for part in path.split("/"):
        if _DEVICES.fullmatch(part):
            return f"on Windows {part} is a device"
        if part != part.strip() or part.endswith("."):
            return f"{part!r} begins or ends with a space, or ends with a dot"
        if _PLAIN.fullmatch(part):
            continue
        if any(character in '<>:"|?*' for character in part):
            return f"{part!r} has a character that Windows refuses"
        if any(category(character) == "Cf" for character in part):
            return f"{part!a} has an invisible character, such as one that turns the direction of writing"
        if not is_normalized("NFC", part):
            return f"{part!a} has characters made of two (NFD), which elsewhere are one (NFC)"
    return None


def check_files(root: Path, dataset: Dataset, findings: Findings) -> None:
    """Find what the readers pass over: hidden files, folders that are links or cannot be read, pictures in formats that
    are not read, images and annotation files that belong to no split."""
    read = {path for split in dataset.values() for path in (split.place.file, *split.listed)}
    read |= {record.path for split in dataset.values() for record in split.images}
    searched = {split.folder for split in dataset.values() if split.folder}
    unlisted: dict[str, list[str]] = {}

    def note(path: Path, what: str) -> None:
        found = joined(".", path.relative_to(root).as_posix())
        findings.add("file-ignored", Place(found), f"it is {what}, and is not read")

    for parent, folders, names in os.walk(root, onerror=lambda error: note(Path(error.filename), str(error.strerror))):
        for folder in sorted(folders):
            path = Path(parent, folder)
            if is_hidden_or_system(folder):
                note(path, SYSTEM_FOLDERS.get(folder, "a hidden folder"))
            elif path.is_symlink():
                note(path, "a folder that is a link")
        folders[:] = sorted(folder for folder in folders if not is_hidden_or_system(folder))
        below = Path(parent).relative_to(root).as_posix()
        known = any(PurePosixPath(below).is_relative_to(folder) for folder in searched)
        for name in sorted(names):
            found, suffix = joined(below, name), posixpath.splitext(name)[1].lower()
            if name in _JUNK or (name.startswith(".") and name.lower().endswith(SUFFIXES)):
                note(Path(parent, name), "hidden, or left by a file manager")
            elif name.startswith(".") or found in read:
                continue
            elif _OTHER_PICTURES.fullmatch(suffix):
                findings.add(
                    "image-not-read", Place(found, image=found), f"pictures in the format {suffix} are not read"
                )
            elif suffix in SUFFIXES and not known:
                unlisted.setdefault(below, []).append(found)
            elif _COCO_FILE.fullmatch(name) and findings.config.coco is None:
                findings.add("labels-not-read", Place(found), "it looks like annotations, and is not read")
    for folder, paths in unlisted.items():
        what = f"{len(paths)} images in it belong to no split. The first: {paths[0]}"
        findings.add("image-not-listed", Place(folder), what)
