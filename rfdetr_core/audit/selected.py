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
    uses: dict[tuple[Any, ...], SelectedUse] = {}
    unknown: dict[tuple[Any, ...], dict[str, Any]] = {}
    for sighting in everything:
        count = counts[(sighting.at, sighting.split), sighting.blob]
        if isinstance(count, str):
            row = {
                "role": sighting.role,
                "tensors": sighting.tensors,
                "md5": sighting.md5,
                "manifest": sighting.blob,
                "ancestor": None,
            }
            unknown.setdefault(
                (sighting.tensors, sighting.blob), row | {"through": list(sighting.through), "reason": count}
            )
        elif count:
            use = SelectedUse(sighting.role, sighting.tensors, sighting.md5, sighting.commit, sighting.through, count)
            uses.setdefault((sighting.role, sighting.md5 or sighting.tensors, sighting.through), use)
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
                uses[split, md5] = SelectedUse(ROLES[split], None, md5, commit, (), count)
    selection.require_known()
    all_unknown = [*unknown.values(), *unknown_ancestors(families, without_record)]
    return Answer(newest_first(uses.values(), archive), all_unknown, upstream(families))


def _counts(
    selection: Selection, archive: Archive, everything: Sequence[Sighting], commits: Sequence[Commit]
) -> dict[tuple[Place, str | None], int | str]:
    """By place and manifest (a git blob; None: the one of the place), how many of its images are selected; a text: why
    that is not known."""
    blobs: dict[Place, set[str | None]] = {}
    for sighting in everything:
        blobs.setdefault((sighting.at, sighting.split), set()).add(sighting.blob)
    for commit in commits:
        for split in SPLITS:
            blobs.setdefault((commit, split), set()).add(None)
    order = archive.places
    places = sorted(blobs, key=lambda place: (place[1], order.get(place[0].id, -1) if place[0] else -1))
    own, paths, counts = _own_manifests(places, archive), _Paths(archive), dict[tuple[Place, str | None], int | str]()
    for place, selected in selection.select(places):
        for blob in blobs[place]:
            if isinstance(selected, str):
                counts[place, blob] = selected
            elif blob in (None, own.get(place)) or not selected:
                counts[place, blob] = len(selected)
            else:
                there = paths.of(blob or "")
                counts[place, blob] = there if isinstance(there, str) else len(selected & there)
    return counts


def _own_manifests(places: Sequence[Place], archive: Archive) -> dict[Place, str]:
    """The manifest of each place whose table of metadata is of the images in this manifest and of no others: one run of
    validate wrote both, since dvc.lock has one manifest only."""
    history = archive.history
    known = [
        (commit, split) for commit, split in places if commit and commit.id != NOT_COMMITTED and LOCK in commit.changed
    ]
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
