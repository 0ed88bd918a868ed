"""Compare the new model with the base, and decide by the gate whether the new model may replace it.

The base is the model of the commit that was retrained, or of RETRAIN_BASE. Both models are scored on the new test
split. The results are `.retrain/comparison.json`, a page, and the pictures of the comment.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.remote import remote_error
from ci.secrets import redacted
from ci.steps import ATTACHMENTS, COMPARED, COMPARISON, MODEL, STATE, base, call, nothing_to_do, step
from rfdetr_core.audit.history import cache_path
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.manifest import DataConfig, read_classes
from rfdetr_core.base.markdown import code
from rfdetr_core.base.params import read_section
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import say
from rfdetr_core.config.settings import GateConfig
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.report.config import ReportConfig

if TYPE_CHECKING:
    from rfdetr_core.report.comparison import FileComparison

BASE_MODEL, BASE_HISTORY = STATE / "base.pth", STATE / "base_history.csv"
HISTORY = MODEL.with_name("history.csv")
FIRST = "this is the first result, because the base has no dvc.lock"


def verdict(comparison: dict[str, Any], config: GateConfig) -> tuple[str, str]:
    """The verdict (passed, failed or undecided), and the reasons as Markdown that names classes as code.

    A drop is a decrease of a score. A drop beyond its limit fails if its whole interval is below 0. If 0 is in the
    interval, the drop may be chance and passes. If there are too few images for an interval, the verdict is undecided.
    If the new model no longer finds a class, but the drop may be chance, the verdict is undecided, too.
    """
    if config.max_drop is None:
        return "passed", "gate.max_drop is null: every result passes"
    if comparison.get("missing") == FIRST:
        return "passed", f"{FIRST}; there is nothing to compare with"
    if comparison.get("missing"):
        return "failed", _with_advice_to_accept(comparison["missing"].removesuffix("."))
    failed, undecided = _judge_classes(comparison, config)
    change = comparison["difference"]
    if change is None:
        return "failed", _with_advice_to_accept("; ".join([f"the {comparison['split']} split has no object", *failed]))
    why = f"mAP changed by {change:+.2f} points, "
    why += interval_text(comparison["interval"], comparison["images_with_objects"], "95 % interval ")
    why += f"; gate.max_drop allows a fall of {config.max_drop} points"
    fell = change < -config.max_drop
    map_verdict = _judge_drop(comparison["interval"]) if fell else "passed"
    if fell and map_verdict == "passed":
        why += ", but this fall may be chance: 0 is in the interval"
    overall = "failed" if failed or map_verdict == "failed" else "undecided" if undecided else map_verdict
    return overall, "; ".join([why, *failed, *undecided])


def _with_advice_to_accept(why: str) -> str:
    return f"{why}. To accept this result without a comparison: gate.max_drop: null"


def _judge_classes(comparison: dict[str, Any], config: GateConfig) -> tuple[list[str], list[str]]:
    """Two lists of reasons that concern classes: reasons for "failed", and reasons for "undecided"."""
    limit = math.inf if config.max_drop_class is None else config.max_drop_class
    unknown, names = comparison["no_longer_known"], defaultdict[tuple[str, str], list[str]](list)
    lost = "the base finds objects of these classes at its best threshold, the new model finds none"
    worse = f"AP of these classes fell by more than gate.max_drop_class ({limit} points)"
    for row in comparison["per_class"]:
        if not row["instances"] or row["class"] in unknown:
            continue
        change, class_verdict = 100 * (row["new"] - row["old"]), _judge_drop(row["interval"])
        interval = interval_text(row["interval"], row["images"], "interval ")
        description = f"{code(row['class'])} (AP {change:+.2f} points, {interval})"
        if row["lost"]:
            names["failed" if class_verdict == "failed" else "undecided", lost].append(description)
        elif change < -limit and class_verdict != "passed":
            names[class_verdict, worse].append(description)
    if unknown:
        names["failed", "the new model does not know these classes of the base"] += map(code, unknown)
    return (
        [f"{why}: {listed(some, 10)}" for (result, why), some in names.items() if result == "failed"],
        [
            f"{why}, but this may be chance: {listed(some, 10)}"
            for (result, why), some in names.items()
            if result != "failed"
        ],
    )


def _judge_drop(interval: list[float | None]) -> str:
    """The verdict on a drop beyond its limit, by the interval of the change."""
    high = interval[1]
    return "undecided" if high is None else "failed" if high < 0 else "passed"


def interval_text(interval: list[float | None], images: int, name: str = "") -> str:
    """An interval in points, as text. Without an interval, the text says that there are too few images.

    Args:
        interval: its ends, in points; None if it was not computed.
        images: the number of images that contain an object.
        name: a word to put before the interval, with a space at its end.
    """
    low, high = interval
    if low is None or high is None:
        return f"objects in {images} {'image' if images == 1 else 'images'}: too few for an interval"
    return f"{name}{low:+.2f} to {high:+.2f}"


def fetch_base(commit: str) -> str | None:
    """Copy the model of the base to BASE_MODEL. Returns FIRST if the base has no dvc.lock.

    Raises:
        UserError: the base's dvc.lock names no model, or the model is neither local nor in the remote.
    """
    if not call("git", "ls-tree", "--name-only", commit, "--", LOCK).stdout:
        return FIRST
    md5 = Lock.parse(call("git", "show", f"{commit}:./{LOCK}").stdout.encode()).out(MODEL.as_posix())
    if md5 is None:
        raise UserError(f"{LOCK} of the base {commit[:10]} has no {MODEL}: the base was not trained")
    model, failed = cache_path(Path(), md5), f"the model of the base {commit[:10]} cannot be fetched"
    try:
        _pull(md5)
    except Exception as error:  # each kind of remote raises its own errors
        reason = f"{type(error).__name__}: {error}"
        why = remote_error(reason)
        raise UserError(f"{failed}{f': {why}' if why else ''} ({reason})") from error
    if not model.exists():  # DVC does not report an HTTP server that cannot be reached
        raise UserError(f"{failed}: the remote does not have it, or cannot be reached")
    files.copy(model, BASE_MODEL)
    return None


def _pull(md5: str) -> None:
    """Fetch a file from the remote into the cache.

    `dvc get` is not used: it does not find the cache if the project is in a subfolder of the git repository.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo() as repo:
        if not repo.cache.local.exists(md5):
            repo.cloud.pull([HashInfo("md5", md5)])


def score_models(gate: GateConfig, commit: str) -> dict[str, Any]:
    """Score both models, and write the page and the pictures of their differences. commit: the commit of the base.

    Raises:
        NotComparableError: a comparison of their scores would be meaningless.
        UserError: the data to score them on is missing.
    """
    from rfdetr_core.evaluation.comparison import DRAWS
    from rfdetr_core.evaluation.operating import FEW_IMAGES
    from rfdetr_core.report.comparison import compare_files, write_comparison

    where = ProjectPaths(Path(read_section(DataConfig, "data").dir))
    split = files.read_json(Path("reports/evaluate/about.json"))["split"]
    batch_size = read_section(EvaluateConfig, "evaluate").batch_size
    resamples = max(gate.resamples, DRAWS * len(read_classes(where.classes)))
    compared = compare_files(BASE_MODEL, MODEL, where, split, resamples=resamples, batch_size=batch_size)
    write_comparison(COMPARED, compared, read_section(ReportConfig, "report").crops)
    same = files.sha256_file(BASE_MODEL) == files.sha256_file(MODEL)
    content = compared.scores.to_dict() | {"same": same, "changes": compared.changes.sentence("the base")}
    few = f"With fewer than {FEW_IMAGES} images, the ends of the intervals are uncertain too"
    instead = {  # The page says "No verdict" here. The comment cannot: the gate has a verdict.
        "too few images": f"{few}. The page therefore does not say which model is better; only the gate decides.",
        "not measured": "The split has no object: nothing was measured.",
    }
    content["sentence"] = instead.get(content["conclusion"], content["sentence"])
    return content if content["conclusion"] == "same weights" else content | draw_pictures(compared, commit)


def draw_pictures(compared: FileComparison, commit: str) -> dict[str, Any]:
    """Write the pictures of the comment. Returns their captions by file name, or why there are no pictures."""
    from rfdetr_core.report.comparison.png import write_pictures

    try:
        return {"pictures": write_pictures(ATTACHMENTS, compared, training_curves(commit))}
    except Exception as error:  # noqa: BLE001 - an error in a picture must not discard a training
        return {"unpictured": redacted(f"{type(error).__name__}: {error}")}


def training_curves(commit: str) -> dict[str, Path]:
    """The training curves (history.csv) of the base, copied from git to BASE_HISTORY, and of the new model.

    A file that does not exist is left out.
    """
    done = call("git", "show", f"{commit}:./{HISTORY}", check=False)
    if not done.returncode:
        BASE_HISTORY.write_text(done.stdout)
    return {name: path for name, path in (("base", BASE_HISTORY), ("new", HISTORY)) if path.exists()}


def main() -> None:
    """Write the comparison and its page. Without a comparison, write the reason."""
    if nothing_to_do():
        return
    gate, content = read_section(GateConfig, "gate"), dict[str, Any]()
    try:
        content["base"] = base()
        content["missing"] = fetch_base(content["base"])
    except UserError as error:
        content["missing"] = redacted(str(error))
    if content["missing"] is None:
        from rfdetr_core.evaluation.comparison import NotComparableError

        try:
            content |= score_models(gate, content["base"])
        except NotComparableError as error:
            content["missing"] = redacted(str(error))
    content["verdict"], content["why"] = verdict(content, gate)
    COMPARISON.write_text(json.dumps(content, indent=2) + "\n")
    say(f"gate {content['verdict']}: {content['why']}")


if __name__ == "__main__":
    step(main)
