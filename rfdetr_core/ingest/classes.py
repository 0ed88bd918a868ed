"""The class table of a dataset, made from train, and the mapping from the ids of each split to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from unicodedata import normalize

from rfdetr_core.base.manifest import ClassEntry
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.records import Category, Dataset, Split, is_text, short_repr


@dataclass(frozen=True)
class Classes:
    """The class table, and the class of each category id.

    entries: the table, ordered by index. by_id: split -> category id -> entry. The entry is None if train does not have
        the class.
    """

    entries: list[ClassEntry]
    by_id: dict[str, dict[int, ClassEntry | None]]


def read_classes(dataset: Dataset, findings: Findings) -> Classes:
    """Make the class table from the classes of train, sorted by id. Classes of other splits are matched by name."""
    for split in {split.place: split for split in dataset.values()}.values():
        _check(split, findings)
    if not findings.broken and not dataset["train"].categories:
        findings.add("class-malformed", dataset["train"].place, "there are no classes")
    if findings.broken:
        return Classes([], {})
    without_roots = {name: replace(split, categories=_without_roots(split)) for name, split in dataset.items()}
    categories = sorted(without_roots["train"].categories, key=lambda category: category.id)
    entries = [ClassEntry(category.id, index, category.name) for index, category in enumerate(categories)]
    by_name = {entry.name: entry for entry in entries}
    by_id = {
        name: {category.id: by_name.get(category.name) for category in split.categories}
        for name, split in without_roots.items()
    }
    for name, split in without_roots.items():
        if name != "train":
            _compare(split, by_id[name], {_normalised(name): name for name in by_name}, findings)
    return Classes(entries, by_id)


def _check(split: Split, findings: Findings) -> None:
    categories, classes = split.categories, _without_roots(split)
    problems = []
    for category in categories:
        if not is_text(category.name):
            hint = "" if isinstance(category.name, str) else ". Write it in quotes"
            problems.append(f"the name of class {category.id} is {short_repr(category.name)}, not text{hint}")
    all_ids, all_names = [category.id for category in categories], [str(category.name) for category in classes]
    for kind, values in ("id", all_ids), ("name", all_names):
        problems += [
            f"{n} classes have the {kind} {short_repr(value)}" for value, n in Counter(values).items() if n > 1
        ]
    for problem in problems:
        findings.add("class-malformed", split.place, problem)
    spellings = defaultdict(set)
    for category in classes:
        spellings[_normalised(category.name)].add(str(category.name))
    for names in (sorted(group) for group in spellings.values() if len(group) > 1):
        message = f"the names {' and '.join(map(short_repr, names))} differ only by case or white space"
        findings.add("class-names-alike", split.place, message)


def _normalised(name: object) -> str:
    """A class name without differences of case, white space and Unicode form, for comparisons."""
    return "".join(normalize("NFKC", str(name)).casefold().split())


def bare_parents(splits: Collection[Split]) -> list[Category]:
    """Roboflow's root categories: parents without an annotation in `splits` (roboflow/rf-detr#609).

    A real class may have the name of a root. They differ by `parent`: only the real class is its own parent.
    """
    named_categories = (category for split in splits for category in split.categories if isinstance(category.name, str))
    categories = {category.id: category for category in named_categories}.values()
    shared = {name for name, count in Counter(category.name for category in categories).items() if count > 1}
    leaves = [category for category in categories if category.parent == category.name and category.name in shared]
    parents = {
        category.parent
        for category in categories
        if isinstance(category.parent, str) and category.parent != category.name
    }
    parents = (parents | {category.name for category in leaves}) - {"", "none"}
    used = set[int]().union(*map(_uses, splits))
    unused = [
        category
        for category in categories
        if category.name in parents and category.id not in used and category not in leaves
    ]
    return unused if len(unused) < len(categories) else []


def _without_roots(split: Split) -> list[Category]:
    unused = bare_parents([split])
    return [category for category in split.categories if category not in unused]


def _compare(split: Split, by_id: dict[int, ClassEntry | None], trained: dict[str, str], findings: Findings) -> None:
    counts = _uses(split)
    for category in split.categories:
        entry, similar = by_id[category.id], trained.get(_normalised(category.name))
        name, count = short_repr(category.name), counts[category.id]
        hint = f", which has {short_repr(similar)}" if similar else ""
        if entry is None and count:
            message = f"class {name} (id {category.id}) has {count} objects here but is not in train{hint}"
            findings.add("class-not-in-train", split.place, message)
        elif entry is None and similar and similar not in {other.name for other in split.categories}:
            findings.add("class-names-alike", split.place, f"class {name} is not in train{hint}")
        elif entry is not None and entry.id != category.id:
            message = f"class {name} has id {category.id} here and {entry.id} in train"
            findings.add("class-ids-differ", split.place, message)


def _uses(split: Split) -> Counter[int]:
    return Counter(
        annotation.category
        for image in split.images
        for annotation in image.annotations
        if type(annotation.category) is int
    )
