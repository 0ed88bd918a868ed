"""Which stages will run, told from dvc.yaml, dvc.lock, params.yaml, .dvc files and git: nothing is pulled or run.

`dvc repro --dry` cannot tell where the data is not here. As a step it writes .retrain/plan.json, and `stages=...` to
the file that GITHUB_OUTPUT names. Certain: something that the stage reads or wrote is not as in dvc.lock. Possible:
a stage before it is certain, and may write something new.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from ci.steps import PLAN, STATE, TRAILER, call, step
from rfdetr_core.audit.history import LOCK
from rfdetr_core.base.params import PARAMS_FILE, load_yaml
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline, check_contents, check_pipeline
from rfdetr_core.verification.report import Report


def certain(root: Path) -> dict[str, list[str]]:
    """The stages that differ from dvc.lock, each with what differs."""
    if not (root / LOCK).exists():
        return {str(name): [f"there is no {LOCK}"] for name in load_yaml(root / "dvc.yaml")["stages"]}
    contents, pipeline = Contents(root), Pipeline.read(root)
    outs = {path: one["md5"] for entry in pipeline.lock.values() for path, one in entry["outs"].items()}
    found = {}
    for name, stage in pipeline.stages.items():
        entry = pipeline.lock.get(name)
        alone, report = Pipeline({name: stage}, {name: entry} if entry else {}, ()), Report()
        check_pipeline(report, contents, alone)
        check_contents(report, contents, alone, leave="", only_git=True)
        deps = entry["deps"] if entry else {}
        read = [path for path, one in deps.items() if path in outs and outs[path] != one["md5"]]
        reasons = dict.fromkeys([what for what, _, _ in report.mismatches] + read)
        if reasons:
            found[name] = list(reasons)
    return found


def possible(root: Path, start: set[str]) -> list[str]:
    """The stages after those of `start`, without them, in the order of dvc.yaml."""
    stages = load_yaml(root / "dvc.yaml")["stages"]
    made = {name: _paths(entry, "outs", "metrics", "plots") for name, entry in stages.items()}
    found = set(start)
    while True:
        outs = [out for name in found for out in made[name]]
        more = {
            name
            for name, entry in stages.items()
            for dep in _paths(entry, "deps")
            if name not in found and any(out == dep or out.startswith(f"{dep}/") for out in outs)
        }
        if not more:
            return [name for name in stages if name in found - start]
        found |= more


def _paths(entry: dict[str, list[object]], *kinds: str) -> list[str]:
    rows = [one for kind in kinds for one in entry.get(kind) or []]
    return [str(next(iter(one))) if isinstance(one, dict) else str(one) for one in rows]


def made_here() -> bool:
    """Whether HEAD is the very commit that an earlier retraining made of its parent."""
    told = call("git", "log", "-1", f"--format=%P|%(trailers:key={TRAILER},valueonly,separator=%x2C)").stdout.strip()
    parents, _, source = told.partition("|")
    return bool(source) and parents == source


def main() -> None:
    """Print and write the plan."""
    parser = argparse.ArgumentParser("python -m ci.plan", description=__doc__)
    parser.add_argument("--force", action="store_true", help="every stage runs, changed or not")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="first write these to params.yaml")
    options = parser.parse_args()
    for old in STATE.iterdir():  # of an earlier retraining on this machine
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    values = [one for text in options.set for one in text.split()]
    if values:
        from dvc.utils.hydra import apply_overrides  # what `dvc exp run -S` does

        apply_overrides(PARAMS_FILE, values)
    changed = certain(Path())
    if made_here() and not values:
        print("this commit was made by a retraining")
        changed = {}
    if options.force:
        changed = {str(name): changed.get(name, ["asked for"]) for name in load_yaml(Path("dvc.yaml"))["stages"]}
    later = possible(Path(), set(changed))
    PLAN.write_text(json.dumps({"certain": changed, "possible": later, "force": options.force}, indent=2) + "\n")
    for name, reasons in changed.items():
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        print(f"{name:12} runs: {', '.join(reasons[:3])}{more}")
    for name in later:
        print(f"{name:12} runs if what it reads comes out otherwise")
    if not changed:
        print("no stage runs")
    if os.environ.get("GITHUB_OUTPUT"):
        with Path(os.environ["GITHUB_OUTPUT"]).open("a") as file:
            file.write(f"stages={' '.join([*changed, *later])}\n")


if __name__ == "__main__":
    step(main)
