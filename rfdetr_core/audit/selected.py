"""The models of a history that used images selected by `audit --where`."""

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
    ManifestUse,
    ModelUse,
    families_of,
    manifest_uses,
    models_without_record,
    newest_first,
    published_ancestors,
    require_complete,
    unknown_ancestors,
)
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.lineage.lock import LOCK

_MAX_MANIFESTS = 16  # in memory


@dataclass(frozen=True)
class SelectedUse(ModelUse):
    """The use of selected images by a model; `images` is their number."""

    images: int


def uses_where(selection: Selection, archive: Archive) -> Answer[SelectedUse]:
    """Every model in the history that used a selected image, itself or through an ancestor.

    Raises:
        UserError: No image has the column or value of a condition, or this clone lacks commits, so that models could be
            missed.
    """
    require_complete(archive)
    families, without_record = families_of(archive), list(models_without_record(archive))
    manifests_used = list(manifest_uses(archive, families))
    # The commits of a model come newest first. So its last entry here is the commit that added it.
    oldest = {md5: (commit, lock) for md5, commit, lock in without_record}
    counts = _count_selected(selection, archive, manifests_used, [commit for commit, _ in oldest.values()])
    uses: dict[tuple[Any, ...], SelectedUse] = {}
    unknown: dict[tuple[Any, ...], dict[str, Any]] = {}
    for manifest in manifests_used:
        count = counts[(manifest.used_in, manifest.split), manifest.blob]
        if isinstance(count, str):
            row: dict[str, Any] = {
                "role": manifest.role,
                "tensors": manifest.tensors,
                "md5": manifest.md5,
                "manifest": manifest.blob,
            }
            row |= {"ancestor": None, "through": list(manifest.through), "reason": count}
            unknown.setdefault((manifest.tensors, manifest.blob), row)
        elif count:
            model = (manifest.role, manifest.tensors, manifest.md5, manifest.commit, manifest.through)
            key = (manifest.role, manifest.md5 or manifest.tensors, manifest.through)
            uses.setdefault(key, SelectedUse(*model, count))
    for md5, (commit, lock) in oldest.items():
        for split, stage in (("train", "train"), ("valid", "train"), ("test", "evaluate")):
            name = f"manifest/{split}.json"
            manifest_md5 = lock.dep(stage, name)
            if manifest_md5 is None:
                continue
            count = counts[(commit, split), None]
            if not isinstance(count, str) and manifest_md5 != lock.out(name):
                count = f"{stage} read another {name} than the one in commit {commit.id}"
            if isinstance(count, str):
                row = {"role": ROLES[split], "tensors": None, "md5": md5, "manifest": None, "ancestor": None}
                unknown[md5, split] = row | {"through": [], "reason": count}
            elif count:
                uses[split, md5] = SelectedUse(ROLES[split], None, md5, commit, (), count)
    selection.require_known()
    all_unknown = [*unknown.values(), *unknown_ancestors(families, without_record)]
    return Answer(newest_first(uses.values(), archive), all_unknown, published_ancestors(families))


def _count_selected(
    selection: Selection, archive: Archive, manifests_used: Sequence[ManifestUse], commits: Sequence[Commit]
) -> dict[tuple[Place, str | None], int | str]:
    """How many images of each manifest are selected.

    Args:
        selection: The conditions.
        archive: The history of the project.
        manifests_used: The uses of manifests by models with a record.
        commits: The commits that added a model without a record.

    Returns:
        (place, git blob of the manifest) -> the number of images. If the number is not known, a text says why. A place
        is a commit and a split. If the blob is None, the manifest of that split in that commit is meant.
    """
    blobs: dict[Place, set[str | None]] = {}
    for manifest in manifests_used:
        blobs.setdefault((manifest.used_in, manifest.split), set()).add(manifest.blob)
    for commit in commits:
        for split in SPLITS:
            blobs.setdefault((commit, split), set()).add(None)
    ages = archive.ages
    places = sorted(blobs, key=lambda place: (place[1], ages.get(place[0].id, -1) if place[0] else -1))
    matching, paths = _matching_manifests(places, archive), _ManifestPaths(archive)
    counts: dict[tuple[Place, str | None], int | str] = {}
    for place, selected in selection.select(places):
        for blob in blobs[place]:
            if isinstance(selected, str):
                counts[place, blob] = selected
            elif blob in (None, matching.get(place)) or not selected:
                counts[place, blob] = len(selected)
            else:
                in_manifest = paths.read(blob or "")
                counts[place, blob] = in_manifest if isinstance(in_manifest, str) else len(selected & in_manifest)
    return counts


def _matching_manifests(places: Sequence[Place], archive: Archive) -> dict[Place, str]:
    """For each place, the git blob of the manifest that has the same images as the place's metadata table.

    It is known only if the dvc.lock names a single manifest of the split: then one run of validate wrote both files.
    """
    history = archive.history
    committed = [
        (commit, split) for commit, split in places if commit and commit.id != NOT_COMMITTED and LOCK in commit.changed
    ]
    names = {place: f"manifest/{place[1]}.json" for place in committed}
    blobs = history.blobs([f"{commit.id}:./{names[commit, split]}" for commit, split in committed])
    locks = (history.lock_texts.get(commit.changed[LOCK], b"") for commit, _ in committed)
    return {
        place: blob
        for place, blob, lock in zip(committed, blobs, locks, strict=True)
        if len(digests_in(lock, names[place])) == 1
    }


class _ManifestPaths:
    """Reads the image paths of manifests by git blob, and keeps those of the last manifests."""

    def __init__(self, archive: Archive) -> None:
        self._history = archive.history
        self._paths: dict[str, set[str] | str] = {}

    def read(self, blob: str) -> set[str] | str:
        """The paths in a manifest, or a text: why they are not known."""
        if blob not in self._paths:
            if len(self._paths) >= _MAX_MANIFESTS:
                del self._paths[next(iter(self._paths))]
            ((_, content),) = self._history.read([blob])
            if content is None:
                self._paths[blob] = f"its manifest is missing: {self._history.why_missing(blob)}"
            else:
                self._paths[blob] = {row["path"] for row in rows_of(content, f"a manifest (git blob {blob})")}
        return self._paths[blob]
