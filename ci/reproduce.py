"""Run the stages with `dvc repro`, which also pulls the files that it needs. If a stage fails, write the comment."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ci.remote import repro_error
from ci.secrets import redacted
from ci.steps import PLAN, RAN, nothing_to_do, read_state, show, step, write_comment
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.markdown import block, code, row
from rfdetr_core.verification.lock import copy_linked_results

FINDINGS, MAX_ROWS = Path("reports/dataset/findings.csv"), 50


def main() -> None:
    """Run the stages, and write which of them ran and which came from the cache.

    Raises:
        UserError: a stage failed. Nothing was pushed to the remote or to git.
    """
    if nothing_to_do():
        return
    force = ["--force"] if read_state(PLAN)["force"] else []
    status, output = show("dvc", "repro", "--pull", "--allow-missing", *force)
    ran = re.findall(r"^Running stage '([^']+)'", output, flags=re.MULTILINE)
    cached = re.findall(r"^Stage '([^']+)' is cached", output, flags=re.MULTILINE)
    RAN.write_text(json.dumps({"ran": ran, "cached": cached}) + "\n")
    if status:
        stage = next(iter(re.findall(r"failed to reproduce '([^']+)'", output)), ran[-1] if ran else "dvc repro")
        write_comment(failure(stage, output))
        reason = repro_error(output)
        why = f": {reason}" if reason else " with the message above"
        raise UserError(f"{stage} failed{why}. Nothing was pushed.")
    copy_linked_results(Path())


def failure(stage: str, output: str) -> str:
    """The comment about a stage that failed."""
    lines = [
        f"## Not retrained: {code(stage)} failed",
        "",
        "Nothing was pushed: the DVC remote, `dvc.lock` and the branches are unchanged.",
    ]
    rows = _findings() if stage == "validate" and FINDINGS.exists() else []
    if rows:
        header = list(rows[0])
        lines += ["", row(*header), row(*["---"] * len(header))]
        lines += [row(*(code(redacted(cells[name])) for name in header)) for cells in rows[:MAX_ROWS]]
        lines += [f"\nand {len(rows) - MAX_ROWS} more, in `{FINDINGS}`"] if len(rows) > MAX_ROWS else []
    if reason := repro_error(output):
        lines += ["", f"{reason[0].upper()}{reason[1:]}."]
    last = block(redacted("\n".join(output.strip().splitlines()[-15:])))
    return "\n".join([*lines, "", last, ""])


def _findings() -> list[dict[str, str]]:
    """The rows of findings.csv, errors first."""
    import pandas as pd

    table = pd.read_csv(FINDINGS, dtype=str, keep_default_na=False)
    return table.sort_values("severity", key=lambda severity: severity != "error", kind="stable").to_dict("records")


if __name__ == "__main__":
    step(main)
