"""Which models of a history images were used for that `audit --where` selects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rfdetr_core.audit.images import rows_of
from rfdetr_core.audit.metadata import Selection
from rfdetr_core.audit.trace import Archive
from rfdetr_core.audit.uses import (
    ROLES,
    Answer,
    ModelUse,
    families_of,
    newest_first,
    require_whole,
    sightings,
    unknown_ancestors,
    unrecorded,
    upstream,
)


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
    selection.read((one.at, one.split) for one in everything)
    paths = _Paths(archive)
    found: dict[tuple[Any, ...], SelectedUse] = {}
    unknown: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in everything:
        selected = selection.images(one.at, one.split)
        there = selected if isinstance(selected, str) or not selected else paths.of(one.blob)
        if isinstance(selected, str) or isinstance(there, str):
            row = {"role": one.role, "tensors": one.tensors, "md5": one.md5, "manifest": one.blob, "ancestor": None}
            unknown.setdefault((one.tensors, one.blob), row | {"through": list(one.through), "reason": there})
        elif count := len(selected & there):
            use = SelectedUse(one.role, one.tensors, one.md5, one.commit, one.through, count)
            found.setdefault((one.role, one.md5 or one.tensors, one.through), use)
    oldest = {md5: (commit, lock) for md5, commit, lock in without_record}  # the last of each brought the model
    for md5, (commit, lock) in oldest.items():
        for split, stage in (("train", "train"), ("valid", "train"), ("test", "evaluate")):
            name = f"manifest/{split}.json"
            manifest = lock.dep(stage, name)
            if manifest is None:
                continue
            selected = selection.images(commit, split)
            if not isinstance(selected, str) and manifest != lock.out(name):
                selected = f"{name} of commit {commit.id} is not the one that {stage} read"
            if isinstance(selected, str):
                row = {"role": ROLES[split], "tensors": None, "md5": md5, "manifest": None, "ancestor": None}
                unknown[md5, split] = row | {"through": [], "reason": selected}
            elif selected:
                found[split, md5] = SelectedUse(ROLES[split], None, md5, commit, (), len(selected))
    selection.require_known()
    all_unknown = [*unknown.values(), *unknown_ancestors(families, without_record)]
    return Answer(newest_first(found.values(), archive), all_unknown, upstream(families))


class _Paths:
    """The images of manifests, by git blob."""

    def __init__(self, archive: Archive) -> None:
        self._history = archive.history
        self._found: dict[str, set[str] | str] = {}

    def of(self, blob: str) -> set[str] | str:
        """The paths in a manifest; a text: why they are not known."""
        if blob not in self._found:
            ((_, content),) = self._history.read([blob])
            if content is None:
                self._found[blob] = f"its manifest is {self._history.why_missing(blob)}"
            else:
                self._found[blob] = {row["path"] for row in rows_of(content, f"a manifest (git blob {blob})")}
        return self._found[blob]
