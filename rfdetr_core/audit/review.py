"""The difference of two models as Markdown, for a pull request.

Text from data, git or a model file always passes through `code`, so that it cannot become markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rfdetr_core.audit.context import SCORES
from rfdetr_core.audit.difference import KINDS
from rfdetr_core.audit.history import NOT_COMMITTED
from rfdetr_core.base import git
from rfdetr_core.base.markdown import code, row
from rfdetr_core.base.provenance import short

MAX_ROWS = 50  # of a table
_MAX_NAMES = 10  # in a cell
_TITLES = {"params": "Params", "packages": "Packages", "machine": "Machine", "weights": "Weights", "custom": "Custom"}
_KINDS = {**KINDS, "labels": "relabelled"}
_PLAIN = re.compile(r"[\w.-]+(:\d+)?/[\w./~-]+")  # a host and path that need no quoting in a link

Content = Mapping[str, Any]  # what `audit --diff --json` prints


def markdown(content: Content, root: Path) -> list[str]:
    """The difference as Markdown lines, without a title.

    Args:
        content: The answer of `audit --diff --json`.
        root: The clone; links lead to its remote `origin`.
    """
    topics, images = content["making"], content["images"]
    parts = [_images(images, content)] if images else []
    parts += [_classes(content["classes"])] if content["classes"] else []
    parts += [_scores(content["scores"])] if any(content["scores"]) else []
    link = compare_link(root, content["commits"])
    for topic, changes in topics.items():
        if topic.startswith("code"):
            parts.append(_code(topic, changes, link))
        elif topic in _TITLES:
            parts.append(_changes(_TITLES[topic], changes))
        else:
            parts.append(_changes("Scores that chose the epoch" if topic == "scores" else topic.capitalize(), changes))
    notes = [f"- images are not compared: {code(reason)}" for reason in content["unknown"]]
    notes += [f"- {code(note)}" for note in content["notes"]]
    parts += [["#### Not known", "", *notes]] if notes else []
    parts = parts or [["No difference in data, params, code, packages, weights or scores."]]
    return [line for number, part in enumerate(parts) for line in (*([""] if number else []), *part)]


def _images(images: Content, content: Content) -> list[str]:
    lines = ["#### Images", "", row("", "images", "by source", "names"), "|---|---|---|---|"]
    for kind, rows in images.items():
        sources = content["sources"].get(kind, {}).items()
        by_source = _list_names([f"{code(source) or 'no source'} {count}" for source, count in sources])
        names = [code(image["path"]) + (f" (was {code(image['was'])})" if "was" in image else "") for image in rows]
        lines.append(row(_KINDS.get(kind, kind), str(len(rows)), by_source or "-", _list_names(names)))
    return lines


def _classes(classes: Mapping[str, Mapping[str, Sequence[int]]]) -> list[str]:
    """A table of the objects in the changed images, by class."""
    kinds = [kind for kind in classes if kind != "renamed"]
    names = sorted({name for kind in kinds for name in classes[kind]})
    lines = ["#### Objects in these images", "", row("class", *(_KINDS.get(kind, kind) for kind in kinds))]
    lines.append("|" + "---|" * (1 + len(kinds)))
    for name in names[:MAX_ROWS]:
        cells = (classes[kind].get(name) for kind in kinds)
        lines.append(row(code(name), *("-" if pair is None else f"{pair[0]} → {pair[1]}" for pair in cells)))
    return lines + _more(names)


def _scores(scores: Sequence[Content | None]) -> list[str]:
    before, after = scores
    lines = ["#### Scores of each model's own evaluation, with 95 % intervals", ""]
    for kind in ("boxes", "masks"):
        sides = [(side or {}).get(kind) for side in scores]
        if not any(sides):
            continue
        lines += [row(kind, "before", "after", "points"), "|---|---|---|---|"]
        for key, name in SCORES.items():
            figures = [(side or {}).get(key) or {} for side in sides]
            old, new = (figure.get("score") for figure in figures)
            change = "-" if old is None or new is None else f"{100 * (new - old):+.2f}"
            lines.append(row(name, *map(_figure, figures), change))
        lines.append("")
    sizes = [_size(side) for side in scores]
    if before and after and before["manifest"] == after["manifest"]:
        lines.append(
            f"Both on {sizes[1]}. To see whether the difference is chance: `python -m rfdetr_core compare A B`."
        )
    else:
        lines.append(
            f"Before: {sizes[0]}. After: {sizes[1]}. The images differ, so the numbers cannot be compared. To score "
            "both models on the same images: `python -m rfdetr_core compare A B`."
        )
    return lines


def _size(scores: Content | None) -> str:
    if scores is None:
        return "not evaluated"
    return f"{scores.get('images', '?')} images and {scores.get('objects', '?')} objects of {code(scores['split'])}"


def _figure(figure: Content) -> str:
    score, ends = figure.get("score"), figure.get("interval")
    interval = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else ""
    return "-" if score is None else f"{score:.3f}{interval}"


def _changes(title: str, changes: Mapping[str, Sequence[Any]]) -> list[str]:
    lines = [f"#### {title}", "", row("", "before", "after"), "|---|---|---|"]
    pairs = list(changes.items())
    lines += [row(code(key), *(code(short(value)) for value in pair)) for key, pair in pairs[:MAX_ROWS]]
    return lines + _more(pairs)


def _code(topic: str, changes: Mapping[str, Sequence[Any]], link: str) -> list[str]:
    lines = [f"#### {topic.capitalize()}", "", *([f"[All changes between both commits]({link})", ""] if link else [])]
    for path, (old, new) in list(changes.items())[:MAX_ROWS]:
        lines.append(f"- {code(path)} {'added' if old is None else 'removed' if new is None else 'changed'}")
    return lines + _more(list(changes))


def _more(rows: Sequence[Any]) -> list[str]:
    return ["", f"and {len(rows) - MAX_ROWS} more: `audit --diff A B --json`"] if len(rows) > MAX_ROWS else []


def _list_names(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _MAX_NAMES} more"] if len(names) > _MAX_NAMES else []
    return ", ".join([*names[:_MAX_NAMES], *more])


def compare_link(root: Path, commits: Sequence[str | None]) -> str:
    """The page that shows the changes between two commits on GitHub, GitLab or Forgejo; "" if it is not known.

    Parts of the remote's address before the host, such as a token, are left out.

    Args:
        root: The clone; its remote `origin` has the page.
        commits: The ids of both commits; None if a commit is not known.
    """
    url = (git.answer(root, "config", "--get", "remote.origin.url") or "").strip()
    address = git.public_address(url)
    if not address or None in commits or NOT_COMMITTED in commits or commits[0] == commits[1]:
        return ""
    parts = urlsplit(address)
    # The port of an ssh address is not the port of the page.
    host = parts.netloc if parts.scheme.startswith("http") else parts.hostname
    page = f"{host}{parts.path.rstrip('/').removesuffix('.git')}"
    separator = "/-" if "gitlab" in str(host) else ""
    return f"https://{page}{separator}/compare/{commits[0]}...{commits[1]}" if _PLAIN.fullmatch(page) else ""
