"""Which model of a history a file has the weights of, where no record has them as they are: another result of the
training, or weights that were rounded to half precision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_core.audit.history import cached
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rfdetr_core.audit.trace import Archive
    from rfdetr_core.checkpoint.files import Checkpoint

MOST = 50  # files that are compared; each takes some tenths of a second
HALVES = ("float16", "bfloat16")
_MODEL = re.compile(rb"^ *- path: (\S+\.pth)\n *hash: md5\n *md5: ([0-9a-f]{32})$", re.M)  # as DVC writes it


@dataclass(frozen=True)
class Likeness:
    """A model file that a dvc.lock names and that has the weights of another file. tensors: the digest of its weights.

    rounded: the types to which the other file's weights are rounded; none where they are equal.
    """

    md5: str
    path: str
    tensors: str
    checkpoint: Checkpoint
    rounded: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """What came of a search. missing: files that are in no cache here. left: files that were not compared."""

    likeness: Likeness | None
    missing: int
    left: int


def searched(said: Checkpoint, md5: str, archive: Archive) -> Search | None:
    """The files of this history with these weights; not looked for where the file is itself one, or names its training
    and is not rounded, as a resume state is."""
    if archive.introduced(md5) or not (said.training is None or _is_rounded(said.weights)):
        return None
    return _search(said, archive)


def limits(found: Search | None) -> Iterator[str]:
    """What limits an answer by weights that were compared."""
    if found is None:
        return
    if found.likeness and found.likeness.rounded:
        types = listed(found.likeness.rounded)
        yield f"its weights are rounded to {types}: its scores are not those that were measured before"
    elif found.likeness is None and found.missing + found.left:
        yield (
            f"not compared with its weights, one by one: {found.missing} model files of this history that are not "
            f"in DVC's cache here (dvc fetch --all-commits), and {found.left} older ones"
        )


def _search(said: Checkpoint, archive: Archive) -> Search:
    """Compare a file's weights one by one with those of the model files at hand, the newest first.

    What the file says of its making decides the order alone.
    """
    from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest

    missing = compared = 0
    candidates = list(dict.fromkeys(_candidates(said, archive)))
    for number, (path, md5) in enumerate(candidates):
        places = (cached(archive.history.root, md5), archive.history.root / path)
        place = next((one for one in places if _is(one, md5)), None)
        if place is None:
            missing += 1
            continue
        if compared == MOST:
            return Search(None, missing, len(candidates) - number)
        compared += 1
        try:
            other = read_checkpoint(place)
        except UserError:  # one damaged result hides no other
            continue
        types = _rounded(other.weights, said.weights)
        if types is not None:
            likeness = Likeness(md5, path, tensor_digest(other.weights), other, types)
            return Search(likeness, missing, 0)
    return Search(None, missing, 0)


def _is_rounded(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights look rounded: by their type, or since rounding them again changes none."""
    import torch

    return any(
        all(torch.equal(one.to(getattr(torch, half)).to(one.dtype), one) for one in weights.values()) for half in HALVES
    )


def _is(path: Path, md5: str) -> bool:
    return path.is_file() and files.md5_file(path) == md5


def _candidates(said: Checkpoint, archive: Archive) -> Iterator[tuple[str, str]]:
    """Path and MD5 of each model file in a dvc.lock; first those of the run that the file names."""
    named = {one["file"]["md5"] for one in archive.runs if one["lineage"]["training"] == said.training}
    texts = archive.history.lock_texts
    found = [
        (path.decode(errors="replace"), md5.decode())
        for commit in archive.history.commits
        for path, md5 in _MODEL.findall(texts.get(commit.changed.get("dvc.lock", ""), b""))
    ]
    yield from (one for one in found if one[1] in named)
    yield from found


def _rounded(full: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """The types to which weights were rounded; None: they are others."""
    import torch

    if full.keys() != given.keys():
        return None
    types = set[str]()
    for name in sorted(full, key=lambda name: full[name].numel()):
        old, new = full[name], given[name]
        if old.shape != new.shape:
            return None
        if torch.equal(old, new.to(old.dtype)):
            types |= {str(new.dtype).removeprefix("torch.")} - {str(old.dtype).removeprefix("torch.")}
            continue
        halves = (getattr(torch, half) for half in HALVES)
        half = next((one for one in halves if torch.equal(old.to(one).to(old.dtype), new.to(old.dtype))), None)
        if half is None:
            return None
        types.add(str(half).removeprefix("torch."))
    return tuple(sorted(types))
