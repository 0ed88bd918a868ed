"""Merkle trees over sorted, distinct texts: one digest of a set, and short proofs that a text is (not) in the set.

The digests are those of RFC 6962, section 2.1. A leaf: SHA-256 of 0x00 and the text. A node: SHA-256 of 0x01 and its
two children. If a level has an odd number of nodes, the last one moves up unchanged; that gives the RFC's tree.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Position:
    """A leaf and its way to the root.

    index: its place in the sorted leaves. path: the digests of the siblings from the leaf up to the root.
    """

    leaf: str
    index: int
    path: tuple[str, ...]


class Tree:
    """The tree of a set of leaves.

    size: the number of leaves. root: 64 hexadecimal digits; without leaves the SHA-256 of no bytes.
    """

    def __init__(self, leaves: Iterable[str]) -> None:
        self.leaves = sorted(set(leaves))
        self.size = len(self.leaves)
        self._levels = [[_leaf(leaf) for leaf in self.leaves]]
        while len(self._levels[-1]) > 1:
            self._levels.append(list(_next_level(self._levels[-1])))
        self.root = self._levels[-1][0].hex() if self.leaves else _EMPTY

    def commitment(self) -> dict[str, Any]:
        """The size and the root of the tree. With them, a proof can be checked without the leaves."""
        return {"size": self.size, "root": self.root}

    def prove(self, leaf: str) -> list[Position]:
        """The proof that a leaf is, or is not, in the tree.

        If it is: its own position. If not: the positions of the leaves before and after it, as far as they exist.
        """
        place = bisect.bisect_left(self.leaves, leaf)
        if self.leaves[place : place + 1] == [leaf]:
            return [self._position(place)]
        return [self._position(index) for index in (place - 1, place) if 0 <= index < self.size]

    def _position(self, index: int) -> Position:
        siblings = [(level, (index >> height) ^ 1) for height, level in enumerate(self._levels)]
        return Position(
            self.leaves[index],
            index,
            tuple(level[position].hex() for level, position in siblings if position < len(level)),
        )


def is_in_tree(leaf: str, proof: Sequence[Position], size: int, root: str) -> bool:
    """Whether a leaf is in a tree. The tree itself is not needed.

    Args:
        leaf: The text to look for.
        proof: The positions that `Tree.prove` gave for it.
        size: The number of leaves of the tree.
        root: The root of the tree.

    Raises:
        ValueError: the proof is wrong, or it is about another leaf.
    """
    for position in proof:
        if _root_over(position, size) != root:
            raise ValueError(f"leaf {position.index} does not lead to the root")
    places = [(position.index, position.leaf) for position in proof]
    match places:
        case [(_, proven)] if proven == leaf:
            return True
        case [] if size == 0 and root == _EMPTY:
            return False
        case [(0, first)] if leaf < first:
            return False
        case [(index, last)] if last < leaf and index == size - 1:
            return False
        case [(index, below), (next_index, above)] if below < leaf < above and next_index == index + 1:
            return False
    raise ValueError("it proves other leaves than the digest or the two leaves next to it")


_EMPTY = hashlib.sha256().hexdigest()


def _leaf(leaf: str) -> bytes:
    return hashlib.sha256(b"\0" + leaf.encode()).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _next_level(level: Sequence[bytes]) -> Iterator[bytes]:
    for position in range(0, len(level), 2):
        yield _node(level[position], level[position + 1]) if position + 1 < len(level) else level[position]


def _root_over(position: Position, size: int) -> str:
    """Compute the root from a position in a tree of this size. Raises ValueError if the tree has no such position."""
    digest, index, path = _leaf(position.leaf), position.index, [bytes.fromhex(digest) for digest in position.path]
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    while size > 1:
        if index % 2 or index + 1 < size:
            if not path:
                raise ValueError("its path is too short")
            sibling = path.pop(0)
            digest = _node(sibling, digest) if index % 2 else _node(digest, sibling)
        index, size = index // 2, (size + 1) // 2
    if path:
        raise ValueError("its path is too long")
    return digest.hex()
