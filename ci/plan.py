"""Which stages will run, told from dvc.yaml, dvc.lock, params.yaml, .dvc files and git: nothing is pulled or run.

`dvc repro --dry` cannot tell where the data is not here. As a step it writes .retrain/plan.json, and `stages=...` to
the file that GITHUB_OUTPUT names. Certain: something that the stage reads or wrote is not as in dvc.lock. Possible:
a stage before it is certain, and may write something new.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from ci.claim import claimed_source, fault
from ci.overrides import apply_overrides
from ci.steps import COMPARED, PLAN, STATE, TRAILER, set_output, step
from rfdetr_core.base.code import STAGE
from rfdetr_core.base.errors import listed
from rfdetr_core.base.printing import say
from rfdetr_core.lineage.lock import LOCK, Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import CodeDigests, Pipeline, check_contents, check_pipeline, read_stages
from rfdetr_core.verification.report import Report


def certain(root: Path) -> dict[str, list[str]]:
    """The stages that differ from dvc.lock, each with what differs."""
    if not (root / LOCK).exists():
        return {name: [f"there is no {LOCK}"] for name in read_stages(root)}
    contents, pipeline = Contents(root), Pipeline.read(root)
    outs = {path: md5 for _, path, md5 in pipeline.lock.outs()}
    digests, code = CodeDigests(contents), pipeline.lock.stages.get(STAGE)
    # Where DVC will not run `code`, the other stages see the files that are there.
    anew = digests if code is None or digests.will_run(code) else None
    found = {}
    for name, stage in pipeline.stages.items():
        entry = pipeline.lock.stages.get(name)
        alone, report = Pipeline({name: stage}, Lock({name: entry} if entry else {})), Report()
        check_pipeline(report, contents, alone)
        check_contents(report, contents, alone, leave="", only_git=True, code=anew)
        read = [path for path, md5 in (entry.deps if entry else {}).items() if outs.get(path, md5) != md5]
        reasons: dict[str, None] = {}
        for what in [*(what for what, _, _ in report.mismatches), *read]:
            if name != STAGE and entry and what in digests.stages and what in entry.deps:  # name the modules behind it
                modules = [module for module, _, _ in digests.differences(what, entry.deps[what])]
            else:
                modules = []
            reasons |= dict.fromkeys(module.removeprefix("code ") for module in modules or [what])
        if reasons:
            found[name] = list(reasons)
    return found


def possible(root: Path, start: set[str]) -> list[str]:
    """The stages after those of `start`, without them, in an order in which they can run.

    What `code` writes anew is known beforehand: the stages that read it are certain.
    """
    stages, found = read_stages(root), start - {STAGE}
    for name, stage in stages.items():
        found |= {name} if stage.after & found else set()
    return [name for name in stages if name in found - start]


def main() -> None:
    """Print and write the plan."""
    parser = argparse.ArgumentParser("python -m ci.plan", description=__doc__)
    parser.add_argument("--force", action="store_true", help="every stage runs, changed or not")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="first write these to params.yaml")
    options = parser.parse_args()
    for old in STATE.iterdir():  # of an earlier retraining on this machine
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    COMPARED.unlink(missing_ok=True)
    values = [one for text in options.set for one in text.split()]
    if values:
        apply_overrides(values)
    changed = certain(Path())
    if not values and (source := claimed_source()):
        reason = fault(source, changed)
        told = "a retraining made this commit" if reason is None else f"no retraining made this commit: {reason}"
        say(f"{told} ({TRAILER}: {source})")
    if options.force:
        changed = {name: changed.get(name, ["asked for"]) for name in read_stages(Path())}
    later = possible(Path(), set(changed))
    PLAN.write_text(json.dumps({"certain": changed, "possible": later, "force": options.force}, indent=2) + "\n")
    for name, reasons in changed.items():
        say(f"{name:12} runs: {listed(reasons)}")
    for name in later:
        say(f"{name:12} runs if what it reads comes out otherwise")
    if not changed:
        print("no stage runs")
    set_output("stages", " ".join([*changed, *later]))


if __name__ == "__main__":
    step(main)
