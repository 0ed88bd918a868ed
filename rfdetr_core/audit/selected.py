"""Which models of a history images were used for that `audit --where` selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfdetr_core.audit.history import NOT_COMMITTED, Commit, rows_of
from rfdetr_core.audit.metadata import Place, Selection, digests_in
from rfdetr_core.audit.trace import Archive
from rfdetr_core.audit.uses import (
    ROLES,
    Answer,
    ModelUse,
    Sighting,
    families_of,
    newest_first,
    require_whole,
    sightings,
    unknown_ancestors,
    unrecorded,
    upstream,
)
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.lineage.lock import LOCK

_KEPT = 16  # manifests in memory


@dataclass(frozen=True)
class SelectedUse(ModelUse):
    """The use of selected images; images: how many."""

    images: int


def uses_where(selection: Selection, archive: Archive) -> Answer[SelectedUse]:
    """Every model of the whole history that saw a selected image, itself or through a model that it was trained from.

    Raises:
        UserError: the selection asks for what no image has; or "none" would be no answer, since commits are not here.
    """
    require_whole(archive)
    families, without_record = families_of(archive), list(unrecorded(archive))
    everything = list(sightings(archive, families))
    oldest = {md5: (commit, lock) for md5, commit, lock in without_record}  # the last of each brought the model
    counts = _counts(selection, archive, everything, [commit for commit, _ in oldest.values()])
    found: dict[tuple[Any, ...], SelectedUse] = {}
    unknown: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in everything:
        count = counts[(one.at, one.split), one.blob]
        if isinstance(count, str):
            row = {"role": one.role, "tensors": one.tensors, "md5": one.md5, "manifest": one.blob, "ancestor": None}
            unknown.setdefault((one.tensors, one.blob), row | {"through": list(one.through), "reason": count})
        elif count:
            use = SelectedUse(one.role, one.tensors, one.md5, one.commit, one.through, count)
            found.setdefault((one.role, one.md5 or one.tensors, one.through), use)
    for md5, (commit, lock) in oldest.items():
        for split, stage in (("train", "train"), ("valid", "train"), ("test", "evaluate")):
            name = f"manifest/{split}.json"
            manifest = lock.dep(stage, name)
            if manifest is None:
                continue
            count = counts[(commit, split), None]
            if not isinstance(count, str) and manifest != lock.out(name):
                count = f"{name} of commit {commit.id} is not the one that {stage} read"
            if isinstance(count, str):
                row = {"role": ROLES[split], "tensors": None, "md5": md5, "manifest": None, "ancestor": None}
                unknown[md5, split] = row | {"through": [], "reason": count}
            elif count:
                found[split, md5] = SelectedUse(ROLES[split], None, md5, commit, (), count)
    selection.require_known()
    all_unknown = [*unknown.values(), *unknown_ancestors(families, without_record)]
    return Answer(newest_first(found.values(), archive), all_unknown, upstream(families))


def _counts(
    selection: Selection, archive: Archive, everything: Sequence[Sighting], commits: Sequence[Commit]
) -> dict[tuple[Place, str | None], int | str]:
    """By place and manifest (a git blob; None: the one of the place), how many of its images are selected; a text: why
    that is not known."""
    blobs: dict[Place, set[str | None]] = {}
    for one in everything:
        blobs.setdefault((one.at, one.split), set()).add(one.blob)
    for commit in commits:
        for split in SPLITS:
            blobs.setdefault((commit, split), set()).add(None)
    order = archive.places
    places = sorted(blobs, key=lambda place: (place[1], order.get(place[0].id, -1) if place[0] else -1))
    own, paths, found = _own_manifests(places, archive), _Paths(archive), dict[tuple[Place, str | None], int | str]()
    for place, selected in selection.each(places):
        for blob in blobs[place]:
            if isinstance(selected, str):
                found[place, blob] = selected
            elif blob in (None, own.get(place)) or not selected:
                found[place, blob] = len(selected)
            else:
                there = paths.of(blob or "")
                found[place, blob] = there if isinstance(there, str) else len(selected & there)
    return found


def _own_manifests(places: Sequence[Place], archive: Archive) -> dict[Place, str]:
    """The manifest of each place whose table of metadata is of the images in this manifest and of no others: one run of
    validate wrote both, since dvc.lock has one manifest only."""
    history = archive.history
    known = [(one, split) for one, split in places if one and one.id != NOT_COMMITTED and LOCK in one.changed]
    names = {place: f"manifest/{place[1]}.json" for place in known}
    blobs = history.blobs([f"{commit.id}:./{names[commit, split]}" for commit, split in known])
    locks = (history.lock_texts.get(commit.changed[LOCK], b"") for commit, _ in known)
    return {
        place: blob
        for place, blob, lock in zip(known, blobs, locks, strict=True)
        if len(digests_in(lock, names[place])) == 1
    }


class _Paths:
    """The images of manifests, by git blob."""

    def __init__(self, archive: Archive) -> None:
        self._history = archive.history
        self._found: dict[str, set[str] | str] = {}  # of the last few

    def of(self, blob: str) -> set[str] | str:
        """The paths in a manifest; a text: why they are not known."""
        if blob not in self._found:
            if len(self._found) >= _KEPT:
                del self._found[next(iter(self._found))]
            ((_, content),) = self._history.read([blob])
            if content is None:
                self._found[blob] = f"its manifest is {self._history.why_missing(blob)}"
            else:
                self._found[blob] = {row["path"] for row in rows_of(content, f"a manifest (git blob {blob})")}
        return self._found[blob]
