"""The base's model and the new one, both scored on the new test split; and whether the gate lets the new one pass."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.remote import fault
from ci.secrets import redacted
from ci.steps import ATTACHMENTS, COMPARED, COMPARISON, MODEL, STATE, base, call, nothing_to_do, step
from rfdetr_core.audit.history import cached
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
FIRST = "the base has no dvc.lock: this is the first result"


def verdict(comparison: dict[str, Any], config: GateConfig) -> tuple[str, str]:
    """passed, failed or undecided; and why, in a sentence, which names classes as code in Markdown.

    A fall beyond its limit fails if all of its interval is below 0. If 0 is in the interval, the fall may be chance and
    passes. A fall in too few images for an interval is undecided, and so is a lost class whose fall may be chance.
    """
    if config.max_drop is None:
        return "passed", "gate.max_drop is null: any number passes"
    if comparison.get("missing") == FIRST:
        return "passed", f"nothing to compare with: {FIRST}"
    if comparison.get("missing"):
        return "failed", _refused(comparison["missing"].removesuffix("."))
    failed, undecided = _of_classes(comparison, config)
    change = comparison["difference"]
    if change is None:
        return "failed", _refused("; ".join([f"the {comparison['split']} split has no object", *failed]))
    why = f"mAP changed by {change:+.2f} points, "
    why += shown(comparison["interval"], comparison["images_with_objects"], "95 % interval ")
    why += f"; gate.max_drop allows a fall of {config.max_drop} points"
    fell = change < -config.max_drop
    found = _judged(comparison["interval"]) if fell else "passed"
    if fell and found == "passed":
        why += ", and this fall may be chance, since 0 is in the interval"
    said = "failed" if failed or found == "failed" else "undecided" if undecided else found
    return said, "; ".join([why, *failed, *undecided])


def _refused(why: str) -> str:
    return f"{why}. To accept this result without a comparison: gate.max_drop: null"


def _of_classes(comparison: dict[str, Any], config: GateConfig) -> tuple[list[str], list[str]]:
    """Why the gate fails for classes, and what it cannot decide of them."""
    limit = math.inf if config.max_drop_class is None else config.max_drop_class
    unknown, names = comparison["no_longer_known"], defaultdict[tuple[str, str], list[str]](list)
    lost = "at its best threshold the new model finds no object of these classes, the base does"
    worse = f"AP of these classes fell by more than gate.max_drop_class, {limit} points"
    for row in comparison["per_class"]:
        if not row["instances"] or row["class"] in unknown:
            continue
        change, said = 100 * (row["new"] - row["old"]), _judged(row["interval"])
        told = f"{code(row['class'])} (AP {change:+.2f} points, {shown(row['interval'], row['images'], 'interval ')})"
        if row["lost"]:
            names["failed" if said == "failed" else "undecided", lost].append(told)
        elif change < -limit and said != "passed":
            names[said, worse].append(told)
    if unknown:
        names["failed", "the new model does not know these classes of the base"] += map(code, unknown)
    return (
        [f"{why}: {listed(some, 10)}" for (said, why), some in names.items() if said == "failed"],
        [
            f"{why}, but this may be chance: {listed(some, 10)}"
            for (said, why), some in names.items()
            if said != "failed"
        ],
    )


def _judged(interval: list[float | None]) -> str:
    """The verdict on a fall beyond its limit."""
    high = interval[1]
    return "undecided" if high is None else "failed" if high < 0 else "passed"


def shown(interval: list[float | None], images: int, name: str = "") -> str:
    """An interval in points, in words; or that so few images have an object that there is none."""
    low, high = interval
    if low is None or high is None:
        return f"objects in {images} {'image' if images == 1 else 'images'}: too few for an interval"
    return f"{name}{low:+.2f} to {high:+.2f}"


def fetch_base(commit: str) -> str | None:
    """Put the base's model into BASE_MODEL; FIRST where the base has no dvc.lock.

    Raises:
        UserError: its dvc.lock has no model, or the model is not here and cannot be fetched.
    """
    if not call("git", "ls-tree", "--name-only", commit, "--", LOCK).stdout:
        return FIRST
    md5 = Lock.parse(call("git", "show", f"{commit}:./{LOCK}").stdout.encode()).out(MODEL.as_posix())
    if md5 is None:
        raise UserError(f"{LOCK} of the base {commit[:10]} has no {MODEL}: it was not trained")
    model, failed = cached(Path(), md5), f"the model of the base {commit[:10]} cannot be fetched"
    try:
        _pull(md5)
    except Exception as error:  # each kind of remote has its own
        reason = f"{type(error).__name__}: {error}"
        why = fault(reason)
        raise UserError(f"{failed}{f': {why}' if why else ''} ({reason})") from error
    if not model.exists():  # DVC says nothing of an HTTP server that is away
        raise UserError(f"{failed}: the remote does not have it, or cannot be reached")
    files.copy(model, BASE_MODEL)
    return None


def _pull(md5: str) -> None:
    """Bring a file from the remote to the cache. `dvc get` finds no cache where the project is no root of git's."""
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo() as repo:
        if not repo.cache.local.exists(md5):
            repo.cloud.pull([HashInfo("md5", md5)])


def scored(gate: GateConfig, commit: str) -> dict[str, Any]:
    """Score both models, and write the page and the pictures of their differences.

    commit: the base.

    Raises:
        NotComparableError: their scores would say nothing.
        UserError: what they are scored on is not here.
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
    few = f"Of fewer than {FEW_IMAGES} images, the ends of the intervals are uncertain, too"
    instead = {  # of a sentence that says "No verdict", as the page does, though the gate has one
        "too few images": f"{few}, and the page does not say which model is better. The gate decides all the same.",
        "not measured": "The split has no object: nothing was measured.",
    }
    content["sentence"] = instead.get(content["conclusion"], content["sentence"])
    return content if content["conclusion"] == "same weights" else content | pictured(compared, commit)


def pictured(compared: FileComparison, commit: str) -> dict[str, Any]:
    """Write the pictures of the comment: what each shows by its name; or why there are none."""
    from rfdetr_core.report.comparison.png import write_pictures

    try:
        return {"pictures": write_pictures(ATTACHMENTS, compared, histories(commit))}
    except Exception as error:  # noqa: BLE001 - a picture may not cost the result of a training
        return {"unpictured": redacted(f"{type(error).__name__}: {error}")}


def histories(commit: str) -> dict[str, Path]:
    """The history.csv of the base, which goes from git to BASE_HISTORY, and of the new model, where there are any."""
    done = call("git", "show", f"{commit}:./{HISTORY}", check=False)
    if not done.returncode:
        BASE_HISTORY.write_text(done.stdout)
    return {name: path for name, path in (("base", BASE_HISTORY), ("new", HISTORY)) if path.exists()}


def main() -> None:
    """Leave the comparison and its page, or why there is none."""
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
            content |= scored(gate, content["base"])
        except NotComparableError as error:
            content["missing"] = redacted(str(error))
    content["verdict"], content["why"] = verdict(content, gate)
    COMPARISON.write_text(json.dumps(content, indent=2) + "\n")
    say(f"gate {content['verdict']}: {content['why']}")


if __name__ == "__main__":
    step(main)
