"""A check that dvc.yaml runs the stages of this project: their commands, code dependencies and results.

dvc.lock alone cannot reveal a replaced command, because DVC writes into it whatever command was run.
"""

from __future__ import annotations

from rfdetr_core.audit.history import EVALUATION, EXPORT, MODEL
from rfdetr_core.base.code import FOLDER, PACKAGES, STAGE, Code
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.lineage.records import RECORD
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report

COMMAND = "exec python -B -X pycache_prefix=/dev/null -m stages."
SOURCE = "the stages of this project"
# The stage that must write each result. Other modules rely on it.
_WRITERS = {
    **{f"manifest/{name}.json": "validate" for name in (*SPLITS, "classes")},
    **{f"metadata/{split}.csv": "validate" for split in SPLITS},
    **{f"annotations/{name}.json": "convert" for name in (*SPLITS, "classes")},
    "output/checkpoint_best_ema.pth": "train",
    "output/checkpoint_best_regular.pth": "train",
    "output/scores.json": "train",
    "output/history.csv": "train",
    "output/selection.json": "select_best",
    MODEL: "strip",
    RECORD.as_posix(): "strip",
    EVALUATION: "evaluate",
    "reports/evaluate/detections.json": "evaluate",
    "reports/evaluate/masks.json": "evaluate",
    "reports/evaluate/metrics.json": "evaluate",
    "reports/evaluate/about.json": "evaluate",
    "reports/evaluate/index.html": "report",
    "reports/evaluate/thresholds.json": "report",
    "reports/evaluate/intervals.json": "report",
    EXPORT: "export",
}


def check_stages(report: Report, contents: Contents, pipeline: Pipeline) -> None:
    """Compare each stage of dvc.yaml with the module of stages/ that has its name. Stages of users are not checked.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
    """
    project_stages = {STAGE, *Code(contents.root).stages}
    for name, stage in pipeline.stages.items():
        module = name.partition("@")[0]  # a template adds @KEY to the name
        for path in sorted(stage.outs.keys() & _WRITERS.keys()):
            report.equal(f"stage that writes {path}", _WRITERS[path], module, SOURCE)
        if module not in project_stages:
            report.skip(f"stage {name}", f"not a stage of this project. It runs: {stage.cmd}")
            continue
        report.equal(f"command of {name}", f"{COMMAND}{module}", stage.cmd, SOURCE)
        report.equal(f"folder in which {name} runs", ".", stage.folder, SOURCE)
        for path in sorted(_code(module) - stage.deps):
            report.wrong(f"code that {name} depends on", path, None, SOURCE)
        for path in sorted({path for path, writer in _WRITERS.items() if writer == module} - stage.outs.keys()):
            report.wrong(f"outs of {name}: {path}", "an entry in dvc.yaml", None, SOURCE)


def _code(module: str) -> set[str]:
    """The deps of a stage that represent its code."""
    return set(PACKAGES) if module == STAGE else {f"{FOLDER}/{module}.json"}
