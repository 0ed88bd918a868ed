"""The packages of the lock that a record names: versions, and the hashes of the files that pip accepts."""

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
    """A package of a lock: its version, the SHA-256 of each of its files, and where it is installed (PEP 508)."""

    version: str
    hashes: tuple[str, ...]
    marker: str | None


def locked_packages(facts: Facts) -> dict[str, list[Package]] | None:
    """The packages of requirements/numeric.lock as the training had it, those of other systems included: by their
    canonical name (PEP 503), one for each version or marker.

    None: the record names no lock, or neither the project nor its history has the one that it names.
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
    return next((one for one in contents if one is not None and files.sha256_bytes(one) == expected), None)


def _parse(text: str) -> dict[str, list[Package]]:
    """Read a lock as pip does: a requirement a line, continued by a backslash for its hashes."""
    found: dict[str, list[Package]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        wanted = line.split("--hash", 1)[0].split("#", 1)[0].strip()
        try:
            requirement = Requirement(wanted) if wanted else None
        except InvalidRequirement:
            continue
        version = (
            next((one.version for one in requirement.specifier if one.operator == "=="), None) if requirement else None
        )
        if requirement and version:
            marker = str(requirement.marker) if requirement.marker else None
            package = Package(version, tuple(_HASH.findall(line)), marker)
            found.setdefault(canonicalize_name(requirement.name), []).append(package)
    return found
