"""Read the lock that a training record names: package versions, and the hashes of the files that pip accepts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from rfdetr_core.base import files, git
from rfdetr_core.documents.facts import LOCK, Facts

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """A package in a lock: its version, the SHA-256 of its files, and its environment marker (PEP 508)."""

    version: str
    hashes: tuple[str, ...]
    marker: str | None


def locked_packages(facts: Facts) -> dict[str, list[Package]] | None:
    """The packages in requirements/numeric.lock as of the training, by canonical name (PEP 503).

    Packages of other systems are included. A name has an entry for each version or marker. None if the record names no
    lock, or neither the project nor its history has that lock.
    """
    content = _recorded_lock(facts)
    return None if content is None else _parse(content.decode())


def _recorded_lock(facts: Facts) -> bytes | None:
    expected, path = facts.training.get("lock"), facts.root / LOCK
    if expected is None:
        return None
    if path.is_file() and files.sha256_file(path) == expected:
        return files.read_bytes(path)
    if facts.history_facts is None:
        return None
    history = facts.history_facts.history
    commits = (git.answer(history.root, "log", "--all", "--format=%H", "--", LOCK) or "").split()
    contents = (content for _, content in history.read(f"{commit}:./{LOCK}" for commit in commits))
    return next(
        (content for content in contents if content is not None and files.sha256_bytes(content) == expected), None
    )


def _parse(text: str) -> dict[str, list[Package]]:
    """Read a lock as pip does: one requirement per line; a backslash continues the line with hashes."""
    packages: dict[str, list[Package]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        specifier = line.split("--hash", 1)[0].split("#", 1)[0].strip()
        try:
            requirement = Requirement(specifier) if specifier else None
        except InvalidRequirement:
            continue
        version = (
            next((clause.version for clause in requirement.specifier if clause.operator == "=="), None)
            if requirement
            else None
        )
        if requirement and version:
            marker = str(requirement.marker) if requirement.marker else None
            package = Package(version, tuple(_HASH.findall(line)), marker)
            packages.setdefault(canonicalize_name(requirement.name), []).append(package)
    return packages
