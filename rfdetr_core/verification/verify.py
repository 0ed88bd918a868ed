"""The command `verify`: run every check on the local files and collect the mismatches in one report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.audit.exported import SUFFIXES
from rfdetr_core.audit.history import EVALUATION, EXPORT, MODEL, History
from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT, Code, exact_digests
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.imports import shadowing_files, tracked_bytecode
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import read_section
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.verification.checkout import check_checkout
from rfdetr_core.verification.claims import (
    SCORES,
    SELECTION,
    check_evaluation,
    check_lineage,
    check_selection,
    find_record,
)
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.dataset import check_dataset
from rfdetr_core.verification.environment import check_environment
from rfdetr_core.verification.journal import check_journal
from rfdetr_core.verification.lock import (
    CodeDigests,
    Pipeline,
    check_cache,
    check_contents,
    check_history,
    check_pipeline,
)
from rfdetr_core.verification.recomputed import HISTORY, check_lineage_keys, check_scores
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.stages import check_stages
from rfdetr_core.verification.steps import STEPS, check_chain

SHADOWING_MODULE = "a file that Python imports instead of another module: rename or remove it"


def verify_lock(root: Path) -> Report:
    """Compare dvc.lock with dvc.yaml, params.yaml, the code and other files in git. Takes seconds; needs no torch."""
    report, contents = Report(), Contents(root)
    _check_only_git(report, contents, Pipeline.read(contents.root), "--lock leaves them out")
    return report


def _check_only_git(report: Report, contents: Contents, pipeline: Pipeline, why: str) -> None:
    """Check all files except those that DVC keeps.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        why: The reason that the report gives for not reading the files that DVC keeps.
    """
    _check_git(report, contents, pipeline, only_git=True)
    record = _check_record(report, contents, pipeline, with_lineage=True)
    with report.reading(EVALUATION):
        check_evaluation(report, contents, pipeline, _recorded_digests(record), _training_record(record))
    report.skip("dataset, cache and model files", why)


def verify(root: Path, file: Path | None = None, *, deep: bool = False, rescore: bool = False) -> Report:
    """Check the whole project. If `file` is not the project's current model, check only that file with the history.

    Args:
        root: The project.
        file: A model file, or None for the project.
        deep: Also score the best weights of both tracks on valid again, and read every installed package file.
        rescore: Also run the final model on the evaluated split and compare its detections. The scores of the best
            weights on valid are computed as with `deep`.

    Raises:
        UserError: There is no project, no dvc.lock, or no such file.
    """
    from rfdetr_core.audit.trace import Archive
    from rfdetr_core.verification.exported import check_exported_file, check_exports
    from rfdetr_core.verification.recomputed import METRICS, check_metrics, check_report
    from rfdetr_core.verification.results import check_file, check_project, local_model_digests

    report = Report()
    if file is not None and not _is_current_model(root, file):
        if not file.is_file():
            problem = "is not a file" if file.exists() else "does not exist"
            raise UserError(f"{file} {problem}. Give a model file.")
        with report.reading(f"lineage of {file}"):
            check = check_exported_file if file.suffix in SUFFIXES else check_file
            check(report, file, Archive(History(root)))
        return report
    contents = Contents(root)
    pipeline = Pipeline.read(contents.root)
    with report.reading(LOCK):
        if not check_checkout(report, contents, pipeline):
            _check_only_git(report, contents, pipeline, "they are from another commit. Run: dvc checkout")
            return report
    data = _check_git(report, contents, pipeline, only_git=False)
    with report.reading(LOCK):
        check_cache(report, contents, pipeline)
        check_history(report, contents.root)
    with report.reading(data):
        check_dataset(report, contents, pipeline, data)
    present = (contents.root / MODEL).is_file()
    record = _check_record(report, contents, pipeline, with_lineage=not present)
    with report.reading(f"lineage of {MODEL}"):
        check_project(report, contents, pipeline, record)
    model = local_model_digests(contents)
    if record is not None and model is not None:
        for key in ("sha256", "size"):
            report.equal(f"{key} of {MODEL}", record["file"].get(key), model[key], _record_name(record))
    with report.reading(EVALUATION):
        check_evaluation(report, contents, pipeline, model or _recorded_digests(record), _training_record(record))
        check_lineage_keys(report, contents, data)
    with report.reading(METRICS, UserError):
        check_metrics(report, contents, pipeline, data)
    with report.reading("reports/evaluate/index.html", UserError):
        check_report(report, contents, pipeline, data)
    with report.reading(EXPORT):
        check_exports(report, contents, model, record)
    check_environment(report, deep=deep)
    if deep or rescore:
        from rfdetr_core.verification.rescore import check_detections, check_valid

        if rescore:
            with report.reading("reports/evaluate/detections.json", UserError):
                check_detections(report, contents, pipeline, data)
        with report.reading(HISTORY, UserError):
            check_valid(report, contents, pipeline, data)
    return report


def _check_git(report: Report, contents: Contents, pipeline: Pipeline, *, only_git: bool) -> str:
    """Run the checks that need neither the dataset nor a model file. Returns the path of the dataset folder."""
    data = read_section(DataConfig, "data", contents.root / "params.yaml").dir
    with report.reading(LOCK):
        check_stages(report, contents, pipeline)
        check_pipeline(report, contents, pipeline, by_value=True)
        check_contents(
            report, contents, pipeline, leave="" if only_git else data, only_git=only_git, code=CodeDigests(contents)
        )
    for name in shadowing_files(contents.root):
        report.wrong(f"code {name}", "no file of this name", SHADOWING_MODULE, "Python looks here first")
    for name in tracked_bytecode(contents.root):
        report.wrong(
            f"bytecode {name}", None, "a file in git that Python may run instead of the source", "git ls-files"
        )
    with report.reading("journal"):
        check_journal(report, contents, pipeline, only_git=only_git)
    with report.reading(SCORES):
        check_selection(report, contents)
    with report.reading(HISTORY):
        check_scores(report, contents, pipeline)
    with report.reading(STEPS):
        check_chain(report, contents)
    changed = contents.differs_from_head(LOCK, "manifest", "metadata", SCORES, SELECTION, "reports")
    if changed:
        report.note(f"these files differ from HEAD: {', '.join(changed)}")
    running_code = exact_digests(path.relative_to(ROOT).as_posix() for path in Code().modules.values())
    if any(contents.sha256(name) != sha256 for name, sha256 in running_code.items()):
        report.note(f"the code in {ROOT} made these checks, but {contents.root} has other code")
    return data


def _check_record(
    report: Report, contents: Contents, pipeline: Pipeline, *, with_lineage: bool
) -> dict[str, Any] | None:
    """The run record of the model that dvc.lock names, or None. with_lineage: also check the lineage in the record."""
    with report.reading("records"):
        record = find_record(report, contents, pipeline)
        if record is not None and with_lineage:
            check_lineage(report, contents, pipeline, record["lineage"], _record_name(record))
        return record
    return None


def _recorded_digests(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The digests of the model file in a run record."""
    return None if record is None else {**record["file"], "tensors": record["lineage"]["tensors"]}


def _training_record(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The training record in a run record."""
    return None if record is None else record["lineage"]["training"]


def _record_name(record: Mapping[str, Any]) -> str:
    return f"records/{record['lineage']['tensors'][:16]}...json"


def _is_current_model(root: Path, file: Path) -> bool:
    """Whether a file is the model of the working tree: it has the same path or the same bytes."""
    model = root / MODEL
    same = file.is_file() and model.is_file() and files.sha256_file(file) == files.sha256_file(model)
    return same or file.resolve() == model.resolve()
