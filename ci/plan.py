"""Plan a retraining: which stages will run, why, and for how long. Nothing is pulled and nothing is run.

The step writes .retrain/plan.json, .retrain/plan.md (the comment of a pull request), and `stages=...` to the file that
GITHUB_OUTPUT names.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from ci.claim import claim_error, claimed_source
from ci.overrides import apply_overrides
from ci.steps import COMPARED, PLAN, PLAN_COMMENT, STATE, TRAILER, set_output, shorten, step
from rfdetr_core.base.code import STAGE
from rfdetr_core.base.errors import listed
from rfdetr_core.base.markdown import code, row
from rfdetr_core.base.printing import say
from rfdetr_core.verification.changed import changed_stages
from rfdetr_core.verification.durations import duration_text
from rfdetr_core.verification.plan import Plan, PlannedStage, plan

MAX_ROWS = 50
_VERDICTS = {"runs": "reruns", "may run": "may rerun", "cached": "from the cache"}


def markdown(planned: Plan) -> str:
    """The comment on a pull request: the stages that will run after a merge.

    The reason for a stage may come from an earlier commit than those of the pull request. Text from data, params or git
    is passed through `code`.
    """
    if not planned.stages:
        return "## After a merge, no stage will run\n"
    count = len(planned.having("runs"))
    total = planned.total_in_words()
    stages = f"{count or 'no'} stage{'s' * (count > 1)} will run"
    lines = [f"## After a merge, {stages}" + (f": {total}" if total else ""), ""]
    lines += [row("stage", "", "duration", "since"), "|---|---|---|---|"]
    lines += [_row(stage) for stage in planned.stages[:MAX_ROWS]]
    if more := len(planned.stages) - MAX_ROWS:
        lines += ["", f"and {more} more"] if more > 0 else []
    lines += ["", 'A stage that "may rerun" does so only if its inputs change.']
    machines = [f"{code(machine)} ({', '.join(map(code, names))})" for machine, names in planned.machines()]
    lines += [f"Durations are those of the last runs, on {'; '.join(machines)}."] if machines else []
    return "\n".join(lines) + "\n"


def _row(stage: PlannedStage) -> str:
    time = "-" if stage.verdict == "cached" or stage.name == STAGE else "not known"
    if time != "-" and stage.seconds is not None:
        time = duration_text(stage.seconds)
    reasons = listed((code(reason.text.replace(" -> ", " → ")) for reason in stage.reasons), 5)
    return row(code(stage.name), _VERDICTS[stage.verdict], time, reasons or "-")


def main() -> None:
    """Print and write the plan."""
    parser = argparse.ArgumentParser("python -m ci.plan", description=__doc__)
    parser.add_argument("--force", action="store_true", help="run every stage, changed or not")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="write these values to params.yaml first"
    )
    options = parser.parse_args()
    for old in STATE.iterdir():  # files of an earlier retraining on this machine
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    COMPARED.unlink(missing_ok=True)
    values = [word for text in options.set for word in text.split()]
    if values:
        apply_overrides(values)
    if not values and (source := claimed_source()):
        reason = claim_error(source, changed_stages(Path()))
        text = "a retraining made this commit" if reason is None else f"no retraining made this commit: {reason}"
        say(f"{text} ({TRAILER}: {source})")
    planned = plan(Path(), force=options.force, compare_local=False)
    # To restore a stage from its cache, DVC must be asked to run it. So the cached stages are listed, too.
    runs = {stage.name: [reason.what for reason in stage.reasons] for stage in planned.having("runs", "cached")}
    later = [stage.name for stage in planned.having("may run")]
    PLAN.write_text(json.dumps({"certain": runs, "possible": later, "force": options.force}, indent=2) + "\n")
    PLAN_COMMENT.write_text(shorten(markdown(planned), "the log of this run"))
    say(*planned.lines())
    set_output("stages", " ".join([*runs, *later]))


if __name__ == "__main__":
    step(main)
