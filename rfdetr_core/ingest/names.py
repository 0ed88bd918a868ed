"""Checks of file names: names that fail on other systems, names that reveal copies, and files that are not read."""

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
# .DS_Store and Thumbs.db are not here: DVC ignores them, so a clone lacks them, and they must not change a result.
_FILE_MANAGER_FILES = ("desktop.ini",)
_OTHER_PICTURES = re.compile(
    r"\.(apng|arw|avif|cr[23]|dcm|dib|dng|exr|gif|hdr|hei[cf]|ico|j2k|jp2|jpx|jxl|nef|orf|p[bfgnp]m|pcx|psd|qoi|raf|raw|rw2"
    r"|svg|tga)"
)
_COCO_FILE = re.compile(r"_annotations\.coco\.json|instances_.*\.json")


def roboflow_source(path: str) -> str | None:
    """The path of the picture that Roboflow made this copy from; None if the name is not Roboflow's."""
    return _COPY.sub("", path) if _COPY.search(path) else None


def check_names(dataset: Dataset, facts: Facts, findings: Findings) -> set[tuple[str, str]]:
    """Check the names of all images.

    Args:
        dataset: the records of all splits that the dataset has.
        facts: the facts about the images, by path. Copies with equal digests are left to `clean`.
        findings: collects the findings.

    Returns:
        The images that must be left out, as (split, path).
    """
    left_out = set()
    spellings: dict[str, str] = {}
    for name in (name for name in SPLITS if name in dataset):
        for path in sorted(record.path for record in dataset[name].images):
            problem = _portability_problem(path)
            if problem and findings.add("name-not-portable", Place(path, image=path), problem):
                left_out.add((name, path))
            other_path = spellings.setdefault(normalize("NFC", path).casefold(), path)
            message = f"it differs from {other_path} only by case or by the Unicode form of its characters"
            if other_path != path and findings.add("names-alike", Place(path, image=path), message):
                left_out.add((name, path))
    return left_out | _check_sources(dataset, facts, findings)


def _check_sources(dataset: Dataset, facts: Facts, findings: Findings) -> set[tuple[str, str]]:
    """Find, by their names, copies of one picture in two splits. `clean` finds copies with equal bytes."""
    left_out = set()
    first_with_source: dict[str, tuple[str, str]] = {}
    same_stems: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in (name for name in reversed(SPLITS) if name in dataset):
        paths = sorted(record.path for record in dataset[name].images)
        shared = posixpath.commonpath([posixpath.dirname(path) for path in paths]) if paths else ""
        for path in paths:
            below = posixpath.relpath(path, shared or ".")
            split, other_path = first_with_source.setdefault(
                roboflow_source(below) or posixpath.splitext(below)[0], (name, path)
            )
            if split == name or digest_or_path(path, facts) == digest_or_path(other_path, facts):
                continue
            message = f"its name says that it shows the same picture as {other_path}, which is in {split}"
            if roboflow_source(below) is None:
                same_stems[name, split].append((path, other_path))
            elif findings.add("origin-leakage", Place(path, image=path), message):
                left_out.add((name, path))
    for (name, split), pairs in same_stems.items():
        path, other_path = pairs[0]
        message = (
            f"{len(pairs)} images of {name} have the names of images of {split}, such as {path} and {other_path}. "
            "Are they copies?"
        )
        if findings.add("names-in-two-splits", Place(path, image=path), message):
            left_out |= {(name, path) for path, _ in pairs}
    return left_out


def digest_or_path(path: str, facts: Facts) -> str:
    """The digest of an image; without one, its path."""
    return facts[path].sha256 if path in facts and facts[path].sha256 else path


def _portability_problem(path: str) -> str | None:
    """Why a path is not portable: another system refuses or changes it, or it looks like another path. Else None."""
    for part in path.split("/"):
        if _DEVICES.fullmatch(part):
            return f"on Windows, {part} is a device"
        if part != part.strip() or part.endswith("."):
            return f"{part!r} begins or ends with a space, or ends with a dot"
        if _PLAIN.fullmatch(part):
            continue
        if any(character in '<>:"|?*' for character in part):
            return f"{part!r} has a character that Windows refuses"
        if any(category(character) == "Cf" for character in part):
            return f"{part!a} has an invisible character, such as one that reverses the writing direction"
        if not is_normalized("NFC", part):
            return f"{part!a} has decomposed characters (Unicode NFD); other systems compose them (NFC)"
    return None


def check_files(root: Path, dataset: Dataset, findings: Findings) -> None:
    """Find the files that the readers skip.

    These are hidden files, folders that are links or cannot be read, pictures in formats that are not read, and images
    and annotation files that do not belong to a split.

    Args:
        root: the dataset folder.
        dataset: the records of all splits. They name the files that were read.
        findings: collects the findings.
    """
    read_paths = {path for split in dataset.values() for path in (split.place.file, *split.listed)}
    read_paths |= {record.path for split in dataset.values() for record in split.images}
    searched = {split.folder for split in dataset.values() if split.folder}
    unlisted: dict[str, list[str]] = {}

    def note(path: Path, reason: str) -> None:
        location = joined(".", path.relative_to(root).as_posix())
        findings.add("file-ignored", Place(location), f"it is {reason}, so it is not read")

    for parent, folders, names in os.walk(
        root, onerror=lambda error: note(Path(error.filename), f"unreadable ({error.strerror})")
    ):
        for folder in sorted(folders):
            path = Path(parent, folder)
            if is_hidden_or_system(folder):
                note(path, SYSTEM_FOLDERS.get(folder, "a hidden folder"))
            elif path.is_symlink():
                note(path, "a folder that is a link")
        folders[:] = sorted(folder for folder in folders if not is_hidden_or_system(folder))
        below = Path(parent).relative_to(root).as_posix()
        was_searched = any(PurePosixPath(below).is_relative_to(folder) for folder in searched)
        for name in sorted(names):
            location, suffix = joined(below, name), posixpath.splitext(name)[1].lower()
            if name in _FILE_MANAGER_FILES or (name.startswith(".") and name.lower().endswith(SUFFIXES)):
                note(Path(parent, name), "hidden, or left by a file manager")
            elif name.startswith(".") or location in read_paths:
                continue
            elif _OTHER_PICTURES.fullmatch(suffix):
                findings.add(
                    "image-not-read", Place(location, image=location), f"pictures in the format {suffix} are not read"
                )
            elif suffix in SUFFIXES and not was_searched:
                unlisted.setdefault(below, []).append(location)
            elif _COCO_FILE.fullmatch(name) and findings.config.coco is None:
                findings.add(
                    "labels-not-read", Place(location), "it has the name of an annotation file, but no split uses it"
                )
    for folder, paths in unlisted.items():
        message = f"{len(paths)} images in this folder do not belong to a split. The first: {paths[0]}"
        findings.add("image-not-listed", Place(folder), message)
