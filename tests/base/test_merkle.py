"""Every text has a proof that it is, or is not, in a tree. A proof that is changed anywhere is invalid."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.base.merkle import Position, Tree, is_in_tree

TEXTS = st.sets(st.text("0123456789abcdef", min_size=1, max_size=3), max_size=40)


def holds(leaf: str, proof: list[Position], size: int, root: str) -> bool | None:
    """Whether the leaf is in the tree by a proof; None: the proof is invalid."""
    try:
        return is_in_tree(leaf, proof, size, root)
    except ValueError:
        return None


def reference(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + reference(leaves[:k]) + reference(leaves[k:])).digest()


def audit_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*audit_path(m, leaves[:k]), reference(leaves[k:])]
    return [*audit_path(m - k, leaves[k:]), reference(leaves[:k])]


@given(TEXTS)
def test_roots_and_paths_are_those_of_rfc_6962(texts: set[str]) -> None:
    tree, leaves = Tree(texts), [text.encode() for text in sorted(texts)]
    assert tree.root == reference(leaves).hex()
    for index, leaf in enumerate(leaves):
        (position,) = tree.prove(leaf.decode())
        assert position == Position(leaf.decode(), index, tuple(node.hex() for node in audit_path(index, leaves)))


@given(TEXTS, TEXTS)
def test_every_text_that_is_in_a_tree_has_a_proof_and_every_other_one_too(inside: set[str], texts: set[str]) -> None:
    tree = Tree(inside)
    for text in inside | texts:
        assert is_in_tree(text, tree.prove(text), tree.size, tree.root) is (text in inside)


@given(TEXTS, st.randoms())
def test_the_order_and_copies_do_not_matter(texts: set[str], random: object) -> None:
    several = [*texts, *texts]
    random.shuffle(several)  # type: ignore[attr-defined]
    assert Tree(several).root == Tree(texts).root


@given(TEXTS.filter(len), TEXTS, st.data())
def test_no_proof_of_one_text_holds_for_another(inside: set[str], texts: set[str], data: st.DataObject) -> None:
    """No combination of positions of the tree proves that a text in the tree is absent."""
    tree = Tree(inside)
    positions = [position for leaf in tree.leaves for position in tree.prove(leaf)]
    chosen = data.draw(st.lists(st.sampled_from(positions), max_size=3))
    for text in inside | texts:
        assert holds(text, chosen, tree.size, tree.root) in (None, text in inside)


@given(TEXTS.filter(len), st.data())
def test_a_position_with_another_leaf_index_or_path_does_not_hold(inside: set[str], data: st.DataObject) -> None:
    tree = Tree(inside)
    leaf = data.draw(st.sampled_from(tree.leaves))
    (position,) = tree.prove(leaf)
    moved = [replace(position, index=index) for index in range(-1, tree.size + 1) if index != position.index]
    moved += [replace(position, leaf=f"{leaf}0")]
    paths = {(*position.path, "00" * 32), position.path[1:]} - {position.path}
    moved += [replace(position, path=path) for path in paths]
    for level, digest in enumerate(position.path):
        changed = f"{int(digest, 16) ^ (1 << data.draw(st.integers(0, 255))):064x}"
        moved.append(replace(position, path=(*position.path[:level], changed, *position.path[level + 1 :])))
    for other in moved:
        assert holds(other.leaf, [other], tree.size, tree.root) is None


@pytest.mark.parametrize("root", [Tree(["a"]).root, Tree(["a", "b"]).root])
def test_no_proof_shows_that_a_nonempty_tree_is_empty(root: str) -> None:
    assert holds("c", [], 0, root) is None
    assert holds("c", [], 1, root) is None


def test_an_inner_node_is_not_a_leaf() -> None:
    """Leaves and nodes are hashed differently: the bytes of a node, used as a leaf, give another root."""
    tree = Tree(["a", "b"])
    pair = b"".join(hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"a", b"b"))
    assert hashlib.sha256(b"\0" + pair).hexdigest() != tree.root
    assert hashlib.sha256(b"\1" + pair).hexdigest() == tree.root
