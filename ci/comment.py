"""The comment of a pull request: scores on one test split side by side, what changed, pictures, the gate.

Every word of it that comes from data, git or another program is set by `code` or `block`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ci.compare import BASE_MODEL, FIRST, shown
from ci.steps import ATTACHMENTS, COMPARED, COMPARISON, MODEL, PLAN, RAN, attachment, call, core, left
from rfdetr_core.audit.context import SCORES
from rfdetr_core.base.errors import listed
from rfdetr_core.base.markdown import block, code, row
from rfdetr_core.inference.thresholds import NAME as THRESHOLDS
from rfdetr_core.inference.thresholds import Thresholds

EVALUATION = Path("reports/evaluate")
PICTURES, PAGE = EVALUATION / "pictures", EVALUATION / "index.html"
MOST = 100  # lines of a list


def title() -> str:
    """The title of the pull request."""
    content = left(COMPARISON) or {}
    change = content.get("difference")
    told = "" if change is None else f": test mAP {change:+.2f} points"
    said = content.get("verdict", "passed")
    return f"Retrained{told}" + (f", gate {said}" if said != "passed" else "")


def comment(published: str) -> str:
    """The comment, in Markdown; the new result must be committed, for its images to be found in git."""
    content = left(COMPARISON) or {"missing": "it was not scored", "verdict": "failed", "why": "no comparison"}
    ran, plan = left(RAN), left(PLAN)
    measured = content["missing"] in (None, FIRST)
    parts = [f"## {title()}", f"Gate {content['verdict']}: {content['why']}." if measured else _gate(content)]
    parts += _report()
    parts.append(f"Ran: {_names(ran['ran'])}. From the cache: {_names(ran['cached'])}.")
    certain = plan["certain"].items()
    parts.append("\n".join(f"- {code(name)}: {listed(map(code, reasons), 5)}" for name, reasons in certain))
    parts += _scores(content) if content["missing"] is None else [_alone()]
    parts += _both(content)
    if content["missing"] is None:
        told = core("audit", "--diff", str(BASE_MODEL), str(MODEL), "--markdown", check=False)
        parts += ["### What changed in the making", told.stdout.strip() or block(told.stderr.strip())]
    parts += ["### Pictures", _pictures(), f"MLflow: {_published(published)}."]
    return "\n\n".join(parts) + "\n"


def _gate(content: dict[str, Any]) -> str:
    """The gate without a comparison: its reason is the message of an error."""
    return f"Gate {content['verdict']}, without a comparison:\n\n{block(content['why'])}"


def _names(names: list[str]) -> str:
    return listed(map(code, names), MOST) or "nothing"


def _published(told: str) -> str:
    """What `publish` said; an address, which has numbers of the server alone, is left to be a link."""
    return told if re.fullmatch(r"published as run https?://[\w.:/#-]+", told) else code(told)


def _scores(content: dict[str, Any]) -> list[str]:
    """Both models on the split as it is now, and how large the split was for the base."""
    before = _before(content["base"])
    rows = [row(SCORES[key], *_numbers(content["old"][key], content["new"][key])) for key in SCORES]
    table = ["| | base | new | difference |", "|---|---|---|---|", *rows]
    classes = ["| class | objects | base AP | new AP | difference | its interval |", "|---|---|---|---|---|---|"]
    classes += [
        row(code(one["class"]), f"{one['instances']:d}", *_numbers(one["old"], one["new"]), _ends(one))
        for one in content["per_class"][:MOST]
    ]
    unknown = _names(content["unknown_to_old"])
    return [
        f"### Both models on the {code(content['split'])} split as it is now",
        f"{content['images']} images, {content['objects']} objects ({before}). Scores of {content['of']}, 0 to 1."
        + (" The base's model and the new one are the same file." if content["same"] else "")
        + (f" The base's model does not know: {unknown}." if content["unknown_to_old"] else ""),
        content["sentence"],
        "\n".join(table),
        f"Difference of mAP in points: {_points(content['difference'])}; {_drawn(content)}. The intervals of the "
        "classes are wider, since all of them are to hold at once.",
        "\n".join(classes),
        *_page(content["changes"]),
    ]


def _ends(one: dict[str, Any]) -> str:
    return shown(one["interval"], one["images"]) if one["instances"] else "-"


def _drawn(content: dict[str, Any]) -> str:
    ends = shown(content["interval"], content["images_with_objects"])
    if content["interval"][0] is None:
        return ends
    return f"95 of 100 resamplings of the images give {ends} ({content['resamples']} drawn, seed 0)"


def _page(changes: str) -> list[str]:
    """How much changed, and where the page is that shows it; nothing where it was not written."""
    if not COMPARED.exists():
        return []
    return [f"{changes} Images, slices and crops: `{COMPARED}` (A is the base, B the new model), {_at()}."]


def _both(content: dict[str, Any]) -> list[str]:
    """The pictures of both models, shown where they have an address, else named; or why they could not be made."""
    pictures, parts = content.get("pictures") or {}, ["### Both models in pictures"]
    if "unpictured" in content:
        return [*parts, f"There are no pictures: {code(content['unpictured'])}."]
    if not pictures:
        return []
    result = call("git", "rev-parse", "HEAD").stdout.strip()
    addresses = [attachment(name, result) for name in pictures]
    if all(addresses):
        images = [f"![{words}]({address})" for words, address in zip(pictures.values(), addresses, strict=True)]
        return [*parts, " ".join(images)]
    lines = [f"- {words}: {code(ATTACHMENTS / name)}" for name, words in pictures.items()]
    return [*parts, "\n".join(lines), f"They are {_at()}."]


def _at() -> str:
    """Where the files are that neither git nor DVC has."""
    link = os.environ.get("RETRAIN_ARTIFACTS", "")
    return f"[in the artifacts of this run]({link})" if link else "on the machine that retrained"


def _before(base: str) -> str:
    told = [call("git", "show", f"{base}:./reports/evaluate/{name}.json", check=False) for name in ("about", "metrics")]
    if told[-1].returncode:
        return "the base was not evaluated"
    try:
        # Of older versions metrics.json has the split, too.
        before = {key: value for one in told if not one.returncode for key, value in json.loads(one.stdout).items()}
        numbers = f"{before['images']:d} images, {before['objects']:d} objects"
    except (AttributeError, KeyError, TypeError, ValueError):
        return "the evaluation of the base is not readable"
    return f"the base was evaluated on {numbers} of {code(before.get('split'))}"


def _report() -> list[str]:
    """The score of the new model with its interval, the threshold to deploy, and where the page is."""
    if not (EVALUATION / THRESHOLDS).exists():
        return []
    thresholds = Thresholds.read(EVALUATION / THRESHOLDS)
    scores, intervals = left(EVALUATION / "metrics.json"), left(EVALUATION / "intervals.json") or {}
    score = (scores["masks"] if thresholds.of == "masks" else scores)["map"]
    ends = (intervals.get(thresholds.of) or {}).get("map")
    interval = f"95 % interval {_number(ends[0])} to {_number(ends[1])}" if ends else "interval not measured"
    size = f"{thresholds.images} images of {code(thresholds.split)}"
    return [
        f"mAP of {thresholds.of} {_number(score)}, {interval} ({size}). {_recommended(thresholds)}",
        f"Where it fails, and why: `{PAGE}`, {_where(PAGE)}.",
    ]


def _recommended(thresholds: Thresholds) -> str:
    point, target = thresholds.all, " ".join(f"{name} {value:g}" for name, value in (thresholds.target or {}).items())
    if point.threshold is None:
        return "No threshold is recommended: nothing was measured."
    why = "for the best F1" if not target else f"for {target}" if point.reached else f"({target} is not reached)"
    gives = f"precision {_number(point.precision)}, recall {_number(point.recall)}, F1 {_number(point.f1)}"
    return f"Recommended threshold {point.threshold:g} {why}: {gives}."


def _alone() -> str:
    paths = [EVALUATION / name for name in ("about.json", "metrics.json")]
    if not all(path.exists() for path in paths):
        return "There is no evaluation."
    about, metrics = (json.loads(path.read_text()) for path in paths)
    told = ", ".join(f"{SCORES[key]} {_number(metrics.get(key))}" for key in SCORES)
    return f"{code(about['split'])}: {metrics['images']:d} images, {metrics['objects']:d} objects; {told}."


def _pictures() -> str:
    """Where the pictures are: the artifact of this run, and DVC."""
    names = sorted(path.name for path in PICTURES.glob("*.png"))
    if not names:
        return f"`dvc pull {PICTURES}`"
    return f"{_names(names)}: {_where(PICTURES)}"


def _where(path: Path) -> str:
    link = os.environ.get("RETRAIN_ARTIFACTS", "")
    return f"[in the artifacts of this run]({link}), or `dvc pull {path}`" if link else f"`dvc pull {path}`"


def _numbers(old: float | None, new: float | None) -> tuple[str, str, str]:
    change = None if old is None or new is None else 100 * (new - old)
    return _number(old), _number(new), _points(change)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
