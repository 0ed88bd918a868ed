"""The comment of a pull request: the verdict of the gate, the scores of both models on the same test split, the changes
and pictures.

Text that comes from data, git or another program is always passed through `code` or `block`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ci.compare import BASE_MODEL, FIRST, interval_text
from ci.steps import ATTACHMENTS, COMPARED, COMPARISON, MODEL, PLAN, RAN, attachment, call, core, read_state
from rfdetr_core.audit.context import SCORES
from rfdetr_core.base.errors import listed
from rfdetr_core.base.markdown import block, code, row
from rfdetr_core.inference.thresholds import NAME as THRESHOLDS
from rfdetr_core.inference.thresholds import Thresholds

EVALUATION = Path("reports/evaluate")
PICTURES, PAGE = EVALUATION / "pictures", EVALUATION / "index.html"
MAX_ROWS = 100  # rows of a table, or entries of a list


def title() -> str:
    """The title of the pull request."""
    content = read_state(COMPARISON) or {}
    change = content.get("difference")
    suffix = "" if change is None else f": test mAP {change:+.2f} points"
    verdict = content.get("verdict", "passed")
    return f"Retrained{suffix}" + (f", gate {verdict}" if verdict != "passed" else "")


def comment(published: str) -> str:
    """The comment, in Markdown. The new result must be committed before: its images are looked up in git.

    published: the result of `publish`, as a sentence without a full stop.
    """
    content = read_state(COMPARISON) or {"missing": "it was not scored", "verdict": "failed", "why": "no comparison"}
    ran, plan = read_state(RAN), read_state(PLAN)
    measured = content["missing"] in (None, FIRST)
    parts = [
        f"## {title()}",
        f"Gate {content['verdict']}: {content['why']}." if measured else _gate_without_comparison(content),
    ]
    parts += _evaluation_summary()
    parts.append(f"Stages that ran: {_code_list(ran['ran'])}. Restored from the cache: {_code_list(ran['cached'])}.")
    certain = plan["certain"].items()
    parts.append("\n".join(f"- {code(name)}: {listed(map(code, reasons), 5)}" for name, reasons in certain))
    parts += _scores(content) if content["missing"] is None else [_scores_of_new()]
    parts += _pictures_of_both(content)
    if content["missing"] is None:
        differences = core("audit", "--diff", str(BASE_MODEL), str(MODEL), "--markdown", check=False)
        parts += [
            "### What changed in data, parameters and code",
            differences.stdout.strip() or block(differences.stderr.strip()),
        ]
    parts += ["### Pictures", _evaluation_pictures(), f"MLflow: {_publishing(published)}."]
    return "\n\n".join(parts) + "\n"


def _gate_without_comparison(content: dict[str, Any]) -> str:
    """The verdict of the gate if the models were not compared. The reason is the message of an error."""
    return f"Gate {content['verdict']}, without a comparison:\n\n{block(content['why'])}"


def _code_list(names: list[str]) -> str:
    return listed(map(code, names), MAX_ROWS) or "none"


def _publishing(sentence: str) -> str:
    """The output of `publish`, as code. An address without special characters stays a link: it has no markup."""
    return sentence if re.fullmatch(r"published as run https?://[\w.:/#-]+", sentence) else code(sentence)


def _scores(content: dict[str, Any]) -> list[str]:
    """The scores of both models on the present split, as tables.

    The first line has the size of the split now, and its size when the base was evaluated.
    """
    before = _base_evaluation(content["base"])
    rows = [row(SCORES[key], *_numbers(content["old"][key], content["new"][key])) for key in SCORES]
    table = ["| | base | new | difference |", "|---|---|---|---|", *rows]
    classes = ["| class | objects | base AP | new AP | difference | its interval |", "|---|---|---|---|---|---|"]
    classes += [
        row(
            code(class_row["class"]),
            f"{class_row['instances']:d}",
            *_numbers(class_row["old"], class_row["new"]),
            _class_interval(class_row),
        )
        for class_row in content["per_class"][:MAX_ROWS]
    ]
    unknown = _code_list(content["unknown_to_old"])
    return [
        f"### Both models on the {code(content['split'])} split as it is now",
        f"{content['images']} images, {content['objects']} objects ({before}). Scores of {content['of']}, 0 to 1."
        + (" The base and the new model are the same file." if content["same"] else "")
        + (f" The base does not know these classes: {unknown}." if content["unknown_to_old"] else ""),
        content["sentence"],
        "\n".join(table),
        f"Difference of mAP in points: {_points(content['difference'])}; {_difference_interval(content)}. "
        "The intervals of the classes are wider: they are corrected for the number of classes.",
        "\n".join(classes),
        *_comparison_page(content["changes"]),
    ]


def _class_interval(class_row: dict[str, Any]) -> str:
    return interval_text(class_row["interval"], class_row["images"]) if class_row["instances"] else "-"


def _difference_interval(content: dict[str, Any]) -> str:
    ends = interval_text(content["interval"], content["images_with_objects"])
    if content["interval"][0] is None:
        return ends
    return f"95 % interval {ends}, from {content['resamples']} resamplings of the images (seed 0)"


def _comparison_page(changes: str) -> list[str]:
    """The number of changed detections, and the place of the comparison page. Empty if there is no page."""
    if not COMPARED.exists():
        return []
    return [f"{changes} Images, slices and crops: `{COMPARED}` (A is the base, B the new model), {_artifacts_place()}."]


def _pictures_of_both(content: dict[str, Any]) -> list[str]:
    """The pictures of both models, or the reason why there are none. A picture without an address is only named."""
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
    return [*parts, "\n".join(lines), f"They are {_artifacts_place()}."]


def _artifacts_place() -> str:
    """The place of files that are in neither git nor DVC."""
    link = os.environ.get("RETRAIN_ARTIFACTS", "")
    return f"[in the artifacts of this run]({link})" if link else "on the machine that ran the retraining"


def _base_evaluation(base: str) -> str:
    """The size of the split that the base was evaluated on, in words."""
    files = [
        call("git", "show", f"{base}:./reports/evaluate/{name}.json", check=False) for name in ("about", "metrics")
    ]
    if files[-1].returncode:
        return "the base was not evaluated"
    try:
        # Older versions wrote the split into metrics.json.
        before = {key: value for file in files if not file.returncode for key, value in json.loads(file.stdout).items()}
        numbers = f"{before['images']:d} images, {before['objects']:d} objects"
    except (AttributeError, KeyError, TypeError, ValueError):
        return "the evaluation of the base is not readable"
    return f"the base was evaluated on {numbers} of {code(before.get('split'))}"


def _evaluation_summary() -> list[str]:
    """The score of the new model with its interval, the threshold to deploy, and the place of the evaluation page."""
    if not (EVALUATION / THRESHOLDS).exists():
        return []
    thresholds = Thresholds.read(EVALUATION / THRESHOLDS)
    scores, intervals = read_state(EVALUATION / "metrics.json"), read_state(EVALUATION / "intervals.json") or {}
    score = (scores["masks"] if thresholds.of == "masks" else scores)["map"]
    ends = (intervals.get(thresholds.of) or {}).get("map")
    interval = f"95 % interval {_number(ends[0])} to {_number(ends[1])}" if ends else "interval not measured"
    size = f"{thresholds.images} images of {code(thresholds.split)}"
    return [
        f"mAP of {thresholds.of} {_number(score)}, {interval} ({size}). {_recommended_threshold(thresholds)}",
        f"Where the new model fails, and why: `{PAGE}`, {_dvc_place(PAGE)}.",
    ]


def _recommended_threshold(thresholds: Thresholds) -> str:
    point, target = thresholds.all, " ".join(f"{name} {value:g}" for name, value in (thresholds.target or {}).items())
    if point.threshold is None:
        return "No threshold is recommended: nothing was measured."
    why = "for the best F1" if not target else f"for {target}" if point.reached else f"({target} is not reached)"
    gives = f"precision {_number(point.precision)}, recall {_number(point.recall)}, F1 {_number(point.f1)}"
    return f"Recommended threshold {point.threshold:g} {why}: {gives}."


def _scores_of_new() -> str:
    """The scores of the new model, if the models were not compared."""
    paths = [EVALUATION / name for name in ("about.json", "metrics.json")]
    if not all(path.exists() for path in paths):
        return "There is no evaluation."
    about, metrics = (json.loads(path.read_text()) for path in paths)
    scores = ", ".join(f"{SCORES[key]} {_number(metrics.get(key))}" for key in SCORES)
    return f"{code(about['split'])}: {metrics['images']:d} images, {metrics['objects']:d} objects; {scores}."


def _evaluation_pictures() -> str:
    """The names of the evaluation's pictures, and where they are: in the artifact of this run, and in DVC."""
    names = sorted(path.name for path in PICTURES.glob("*.png"))
    if not names:
        return f"`dvc pull {PICTURES}`"
    return f"{_code_list(names)}: {_dvc_place(PICTURES)}"


def _dvc_place(path: Path) -> str:
    """The place of a file that DVC tracks."""
    link = os.environ.get("RETRAIN_ARTIFACTS", "")
    return f"[in the artifacts of this run]({link}), or `dvc pull {path}`" if link else f"`dvc pull {path}`"


def _numbers(old: float | None, new: float | None) -> tuple[str, str, str]:
    change = None if old is None or new is None else 100 * (new - old)
    return _number(old), _number(new), _points(change)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
