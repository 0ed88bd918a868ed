"""The search for a model file with the same weights, if no record has the digest of a file's weights.

It finds other files of a training, such as the track that lost, and files rounded to half precision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_core.audit.history import cache_path
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rfdetr_core.audit.trace import Archive
    from rfdetr_core.checkpoint.files import Checkpoint

MAX_COMPARED = 50  # files; each takes some tenths of a second
HALVES = ("float16", "bfloat16")
_MODEL = re.compile(rb"^ *- path: (\S+\.pth)\n *hash: md5\n *md5: ([0-9a-f]{32})$", re.M)  # as DVC writes it


@dataclass(frozen=True)
class Likeness:
    """A recorded model file (a dvc.lock names it) with the same weights as the searched file, exact or rounded.

    Attributes:
        md5, path: The recorded model file, as the dvc.lock names it.
        tensors: The weights digest of the recorded model file.
        checkpoint: The content of the recorded model file.
        rounded: If the searched file has these weights rounded: the types (float16, bfloat16). Empty if it has exactly
            these weights.
    """

    md5: str
    path: str
    tensors: str
    checkpoint: Checkpoint
    rounded: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes:
        likeness: The model file with the same weights, if any.
        missing: How many model files are not in DVC's cache here.
        skipped: How many older model files were not compared, since MAX_COMPARED was reached.
    """

    likeness: Likeness | None
    missing: int
    skipped: int


def search_weights(checkpoint: Checkpoint, md5: str, archive: Archive) -> Search | None:
    """Search the history for a model file with the weights of a checkpoint.

    Args:
        checkpoint: The content of the searched file.
        md5: The MD5 of the searched file.
        archive: The history of the project.

    Returns:
        None if no search is needed. There are two such cases. A dvc.lock names the file itself. Or the file names its
        training and has weights that are not rounded (for example checkpoint.pth, the state to resume from).
    """
    if archive.first_link(md5) or not (checkpoint.training is None or _is_rounded(checkpoint.weights)):
        return None
    return _search(checkpoint, archive)


def limits(search: Search | None) -> Iterator[str]:
    """Notes that limit an answer from compared weights."""
    if search is None:
        return
    if search.likeness and search.likeness.rounded:
        types = listed(search.likeness.rounded)
        yield (
            f"its weights are rounded to {types}. The recorded scores were measured with the unrounded weights, so "
            "they do not apply to this file"
        )
    elif search.likeness is None and search.missing + search.skipped:
        yield (
            f"its weights were not compared with every model file of this history: {search.missing} are not in DVC's "
            f"cache here, and {search.skipped} older ones were skipped. To fetch all: dvc fetch --all-commits"
        )


def _search(checkpoint: Checkpoint, archive: Archive) -> Search:
    """Compare each weight with those of the local model files, the newest file first.

    Model files of the training that the file names come first. This decides only the order.
    """
    from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest

    missing = compared = 0
    candidates = list(dict.fromkeys(_candidates(checkpoint, archive)))
    for number, (path, md5) in enumerate(candidates):
        places = (cache_path(archive.history.root, md5), archive.history.root / path)
        place = next((place for place in places if _has_digest(place, md5)), None)
        if place is None:
            missing += 1
            continue
        if compared == MAX_COMPARED:
            return Search(None, missing, len(candidates) - number)
        compared += 1
        try:
            candidate = read_checkpoint(place)
        except UserError:  # a damaged file must not end the search
            continue
        types = _rounding_types(candidate.weights, checkpoint.weights)
        if types is not None:
            likeness = Likeness(md5, path, tensor_digest(candidate.weights), candidate, types)
            return Search(likeness, missing, 0)
    return Search(None, missing, 0)


def _is_rounded(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights look rounded: they have a half-precision type, or rounding them again changes none of them."""
    import torch

    return any(
        all(torch.equal(weight.to(getattr(torch, half)).to(weight.dtype), weight) for weight in weights.values())
        for half in HALVES
    )


def _has_digest(path: Path, md5: str) -> bool:
    return path.is_file() and files.md5_file(path) == md5


def _candidates(checkpoint: Checkpoint, archive: Archive) -> Iterator[tuple[str, str]]:
    """Path and MD5 of each model file in any dvc.lock. Those of the training that the file names come first."""
    preferred = {
        record["file"]["md5"] for record in archive.runs if record["lineage"]["training"] == checkpoint.training
    }
    texts = archive.history.lock_texts
    models = [
        (path.decode(errors="replace"), md5.decode())
        for commit in archive.history.commits
        for path, md5 in _MODEL.findall(texts.get(commit.changed.get("dvc.lock", ""), b""))
    ]
    yield from (model for model in models if model[1] in preferred)
    yield from models


def _rounding_types(full: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """The types to which weights were rounded; None if they are not roundings of the full weights.

    Small tensors are compared first, since a difference shows there sooner.
    """
    import torch

    if full.keys() != rounded.keys():
        return None
    types = set[str]()
    for name in sorted(full, key=lambda name: full[name].numel()):
        old, new = full[name], rounded[name]
        if old.shape != new.shape:
            return None
        if torch.equal(old, new.to(old.dtype)):
            types |= {str(new.dtype).removeprefix("torch.")} - {str(old.dtype).removeprefix("torch.")}
            continue
        halves = (getattr(torch, half) for half in HALVES)
        half = next((dtype for dtype in halves if torch.equal(old.to(dtype).to(old.dtype), new.to(old.dtype))), None)
        if half is None:
            return None
        types.add(str(half).removeprefix("torch."))
    return tuple(sorted(types))
