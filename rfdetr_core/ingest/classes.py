"""The one class table of a dataset, made from train, and how each split's ids map to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from unicodedata import normalize

from rfdetr_core.base.manifest import ClassEntry
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.records import Category, Dataset, Split, is_text, shown


@dataclass(frozen=True)
class Classes:
    """entries: the table in the order of the indexes. by_id: of each split, its category ids; None: not in train."""

    entries: list[ClassEntry]
    by_id: dict[str, dict[int, ClassEntry | None]]


def read_classes(dataset: Dataset, findings: Findings) -> Classes:
    """Make the table of the classes of train, sorted by id; the classes of other splits are found in it by name."""
    for split in {split.place: split for split in dataset.values()}.values():
        _check(split, findings)
    if not findings.broken and not dataset["train"].categories:
        findings.add("class-malformed", dataset["train"].place, "there is no class at all")
    if findings.broken:
        return Classes([], {})
    own = {name: replace(split, categories=_without_roots(split)) for name, split in dataset.items()}
    kept = sorted(own["train"].categories, key=lambda category: category.id)
    entries = [ClassEntry(category.id, index, category.name) for index, category in enumerate(kept)]
    by_name = {entry.name: entry for entry in entries}
    by_id = {name: {one.id: by_name.get(one.name) for one in split.categories} for name, split in own.items()}
    for name, split in own.items():
        if name != "train":
            _compare(split, by_id[name], {_plain(name): name for name in by_name}, findings)
    return Classes(entries, by_id)


def _check(split: Split, findings: Findings) -> None:
    classes, everyone = _without_roots(split), split.categories
    faults = [
        f"the name of class {one.id} is {shown(one.name)}, no text{'' if isinstance(one.name, str) else ': quote it'}"
        for one in everyone
        if not is_text(one.name)
    ]
    for kind, values in ("id", [one.id for one in everyone]), ("name", [str(one.name) for one in classes]):
        faults += [f"{n} classes have the {kind} {shown(value)}" for value, n in Counter(values).items() if n > 1]
    for fault in faults:
        findings.add("class-malformed", split.place, fault)
    alike = defaultdict(set)
    for one in classes:
        alike[_plain(one.name)].add(str(one.name))
    for names in (sorted(group) for group in alike.values() if len(group) > 1):
        what = f"{' and '.join(map(shown, names))} differ by case or white space alone"
        findings.add("class-names-alike", split.place, what)


def _plain(name: object) -> str:
    """What of a name is left when case, white space and the spelling of characters do not count."""
    return "".join(normalize("NFKC", str(name)).casefold().split())


def bare_parents(splits: Collection[Split]) -> list[Category]:
    """Roboflow's root category: the parent of others that no annotation of these splits uses (roboflow/rf-detr#609).

    A class may have the name of the root: then it names itself as its parent, and the root does not.
    """
    named = (one for split in splits for one in split.categories if isinstance(one.name, str))
    categories = {one.id: one for one in named}.values()
    shared = {name for name, count in Counter(one.name for one in categories).items() if count > 1}
    leaves = [one for one in categories if one.parent == one.name and one.name in shared]
    parents = {one.parent for one in categories if isinstance(one.parent, str) and one.parent != one.name}
    parents = (parents | {one.name for one in leaves}) - {"", "none"}
    used = set[int]().union(*map(_uses, splits))
    bare = [one for one in categories if one.name in parents and one.id not in used and one not in leaves]
    return bare if len(bare) < len(categories) else []


def _without_roots(split: Split) -> list[Category]:
    bare = bare_parents([split])
    return [one for one in split.categories if one not in bare]


def _compare(split: Split, by_id: dict[int, ClassEntry | None], trained: dict[str, str], findings: Findings) -> None:
    used = _uses(split)
    for one in split.categories:
        entry, alike = by_id[one.id], trained.get(_plain(one.name))
        hint = f", which has {shown(alike)}" if alike else ""
        if entry is None and used[one.id]:
            what = f"class {shown(one.name)} (id {one.id}) has {used[one.id]} objects here but is no class of train"
            findings.add("class-not-in-train", split.place, what + hint)
        elif entry is None and alike and alike not in {other.name for other in split.categories}:
            what = f"class {shown(one.name)} is no class of train{hint}"
            findings.add("class-names-alike", split.place, what)
        elif entry is not None and entry.id != one.id:
            what = f"class {shown(one.name)} has id {one.id} here and {entry.id} in train"
            findings.add("class-ids-differ", split.place, what)


def _uses(split: Split) -> Counter[int]:
    return Counter(one.category for image in split.images for one in image.annotations if type(one.category) is int)
