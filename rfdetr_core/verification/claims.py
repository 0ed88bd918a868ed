"""Checks of the lineage, the run records and the evaluation against local files and dvc.lock. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from rfdetr_core.audit.history import EVALUATION, MODEL, History
from rfdetr_core.audit.trace import Archive
from rfdetr_core.base import files, provenance
from rfdetr_core.base.code import semantic_digest
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.imports import module_file
from rfdetr_core.base.manifest import roots, row_of
from rfdetr_core.base.params import parse
from rfdetr_core.base.provenance import flattened
from rfdetr_core.base.schema import FileSchema, checked
from rfdetr_core.checkpoint.schema import Evaluation, RecordFile, Scores, Selection
from rfdetr_core.config.preflight import is_version, locked_versions
from rfdetr_core.config.settings import SECTIONS
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.lineage.records import FOLDER, RECORD, record_names
from rfdetr_core.selection.select import select
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report

SCORES, SELECTION = "output/scores.json", "output/selection.json"
_LOCK = "requirements/numeric.lock"


def check_lineage(
    report: Report, contents: Contents, pipeline: Pipeline, lineage: Mapping[str, Any], source: str
) -> None:
    """Compare the lineage of the model that dvc.lock names with dvc.lock, params, code and local files.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        lineage: The lineage, from the model file or its run record.
        source: Where the lineage comes from.
    """
    check_training(report, contents, pipeline, lineage.get("training") or {}, source)
    _check_code(report, contents, lineage.get("code") or {}, source)
    selection = read_json(report, contents, SELECTION, Selection)
    if selection is not None:
        for key in sorted(selection.keys() | lineage.get("selection", {}).keys()):
            report.equal(f"{key} of {SELECTION}", (lineage.get("selection") or {}).get(key), selection.get(key), source)


def check_training(
    report: Report, contents: Contents, pipeline: Pipeline, record: Mapping[str, Any], source: str
) -> None:
    """Compare a training record with dvc.lock, params, code and local files.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        record: The training record, from a model file or its run record.
        source: Where the training record comes from.
    """
    check_custom(report, record, source)
    _check_params(report, record.get("params") or {}, pipeline.lock.params_of("train"), source)
    _check_inputs(report, contents, record.get("inputs") or {}, source)
    for name, digests in (record.get("files") or {}).items():
        if contents.sha256(name) is not None:
            actual = provenance.identity(contents.root / name)
            for key in sorted(digests):
                report.equal(f"{key} of {name}", digests[key], actual[key], source)
    for split, count in (record.get("counts") or {}).items():
        rows = read_json(report, contents, f"manifest/{split}.json")
        if rows is not None:
            report.equal(f"images of {split}", count.get("images"), len(rows), source)
            if "roots" in record:
                _check_roots(report, record, split, rows, source)
    _check_code(report, contents, record.get("code") or {}, source)
    _check_environment(report, contents, record, source)
    _check_classes(report, record.get("classes") or {}, source)
    for key, sha256 in (record.get("weights") or {}).items():
        name = (record.get("params") or {}).get("train" if key == "resume" else "model", {}).get(key)
        if name is None or sha256 is None:
            report.equal(f"digest of the weights for {key}", name and "a digest", sha256, source)
        elif (digest := contents.sha256(f"weights/{name}")) is not None:
            report.equal(f"weights/{name}", sha256, digest, source)
        else:
            report.skip(f"weights/{name}", "missing: not in this clone")
        parent = (record.get("parents") or {}).get(key)
        report.equal(f"sha256 of the parent for {key}", sha256, parent and parent.get("sha256"), source)


def check_custom(report: Report, record: Mapping[str, Any], source: str) -> None:
    """Report each part of a training that a script chose, as unchecked. The script is not in this project.

    Args:
        report: Receives the changed parts, as unchecked.
        record: The training record.
        source: Where the training record comes from.
    """
    for part, changed in (record.get("custom") or {}).items():
        changes = ", ".join(map(str, changed)) if isinstance(changed, dict | list) else str(changed)
        report.skip(f"{part} that a script chose, in {source}", f"the script is not in this project: {changes}")


def check_git_manifests(report: Report, history: History, record: Mapping[str, Any], source: str) -> None:
    """Compare the manifests of a training record with the git objects that the record names.

    Args:
        report: Receives the mismatches.
        history: The history that has the git objects.
        record: The training record.
        source: Where the training record comes from.
    """
    # Annotations are kept by DVC, not by git.
    named = {name: digests for name, digests in (record.get("files") or {}).items() if name.startswith("manifest/")}
    for name, (_, content) in zip(named, history.read(digests["git"] for digests in named.values()), strict=True):
        if content is None:
            report.skip(f"{name} of {source}", history.why_missing(record["files"][name]["git"]))
        else:
            same = report.equal(f"{name} in git", record["inputs"].get(name), files.sha256_bytes(content), source)
            if same and "roots" in record:
                _check_roots(report, record, PurePosixPath(name).stem, files.parse_json(content), source)


def _check_roots(
    report: Report, record: Mapping[str, Any], split: str, rows: Sequence[Mapping[str, Any]], source: str
) -> None:
    """Compute the Merkle roots of a split from its manifest and compare them with the record. Proofs depend on them."""
    stored, recomputed = flattened(record["roots"].get(split) or {}), flattened(roots(map(row_of, rows)))
    for key in sorted(stored.keys() | recomputed.keys()):
        report.equal(f"roots.{split}.{key} of {source}", recomputed.get(key), stored.get(key), f"manifest/{split}.json")


def check_selection(report: Report, contents: Contents) -> None:
    """Select the best track again from scores.json and compare the result with selection.json."""
    scores = read_json(report, contents, SCORES, Scores)
    selection = read_json(report, contents, SELECTION, Selection)
    if scores is None or selection is None:
        return
    try:
        recomputed = select(scores)
    except UserError as error:
        report.wrong(SCORES, "scores that can be compared", f"an error: {error}", "selected again")
        return
    for key in sorted(recomputed.keys() | selection.keys()):
        report.equal(f"{key} of {SELECTION}", recomputed.get(key), selection.get(key), f"selected again from {SCORES}")


def check_evaluation(
    report: Report,
    contents: Contents,
    pipeline: Pipeline,
    model: Mapping[str, Any] | None,
    trained: Mapping[str, Any] | None = None,
) -> None:
    """Check the lineage of the evaluation, reports/evaluate/lineage.json.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        model: The known digests of the model file; None if there are none.
        trained: The training record of the model; None if it is not known.
    """
    stored = read_json(report, contents, EVALUATION, Evaluation)
    if stored is None:
        return
    for key in sorted((model or {}).keys() & stored.get("model", {}).keys()):
        report.equal(f"{key} of {MODEL}", stored["model"][key], (model or {})[key], EVALUATION)
    _check_params(report, stored.get("params") or {}, pipeline.lock.params_of("evaluate"), EVALUATION)
    inputs = stored.get("inputs") or {}
    _check_inputs(report, contents, {name: digests.get("sha256") for name, digests in inputs.items()}, EVALUATION)
    _check_code(report, contents, stored.get("code") or {}, EVALUATION)
    _check_environment(report, contents, stored, EVALUATION)
    _check_packages(report, contents, stored, trained or {})
    about = read_json(report, contents, "reports/evaluate/about.json", FileSchema)
    if about is not None:
        report.equal("split of reports/evaluate/about.json", stored.get("split"), about.get("split"), EVALUATION)


def _check_params(report: Report, recorded: Mapping[str, Any], locked: Mapping[str, Any], source: str) -> None:
    """Compare the params of a lineage, which include defaults, with those of dvc.lock, which may omit defaults."""
    for section, values in recorded.items():
        locked_values = locked.get(section) or {}
        try:
            config = parse(SECTIONS[section], locked_values, where=f"{LOCK}: {section}").model_dump(mode="json")
        except (UserError, KeyError) as error:
            report.wrong(f"{section} of {LOCK}", "valid params", f"an error: {error}", source)
            continue
        # A key that only newer code has and that dvc.lock does not set is left out: the code itself is compared.
        for key in sorted({*values, *locked_values}):
            report.equal(f"params.yaml: {section}.{key} in {LOCK}", values.get(key), config.get(key), source)


def _check_inputs(report: Report, contents: Contents, inputs: Mapping[str, Any], source: str) -> None:
    for name, sha256 in inputs.items():
        actual = contents.sha256(name)
        if actual is None:
            report.skip(name, "missing: not in this clone")
        else:
            report.equal(f"sha256 of {name}", sha256, actual, source)


def _check_code(report: Report, contents: Contents, code: Mapping[str, str], source: str) -> None:
    for name, digest in code.items():
        actual = contents.sha256(name)
        if actual is not None and actual != digest:  # records of schema 1 have the digest of the bytes
            actual = semantic_digest(contents.root / name)
        report.equal(f"code {name}", digest, actual, source)


def _check_classes(report: Report, classes: Mapping[str, Mapping[str, Any]], source: str) -> None:
    """Compare the modules of custom classes in params.yaml, if the same version of their package is installed."""
    for key, recorded in classes.items():
        subject, package = f"module {recorded['module']} of train.{key}", recorded.get("package")
        try:
            version = metadata.version(package) if package else None
        except metadata.PackageNotFoundError:
            report.skip(subject, f"{package} is not installed")
            continue
        if version != recorded.get("version"):
            report.note(
                f"{source}: {subject} came from {package} {recorded.get('version')}, but version {version} is installed"
            )
        elif (path := module_file(recorded["module"])) is None:
            report.skip(subject, "it is not installed")
        else:
            report.equal(f"sha256 of {subject}", recorded.get("sha256"), files.sha256_file(path), source)


def _check_environment(report: Report, contents: Contents, recorded: Mapping[str, Any], source: str) -> None:
    report.equal(f"environment lock {_LOCK}", recorded.get("lock"), contents.sha256(_LOCK), source)
    packages, installed = recorded.get("packages") or {}, provenance.environment()["packages"]
    differing = [
        f"{key} {packages.get(key)}, here {installed.get(key)}"
        for key in sorted({*packages, *installed})
        if packages.get(key) != installed.get(key)
    ]
    locked = locked_versions(contents.root / _LOCK)
    other = {
        name: version for name, version in packages.items() if name in locked and not is_version(version, locked[name])
    }
    if other:
        versions = ", ".join(f"{name} {version} (locked: {locked[name]})" for name, version in other.items())
        report.note(f"{source}: that run used other package versions than {_LOCK}: {versions}")
    if differing:
        report.note(
            f"{source}: that run used other package versions than are installed here, so a run here can give other "
            f"bytes: {'; '.join(differing)}"
        )


def _check_packages(
    report: Report, contents: Contents, evaluation: Mapping[str, Any], trained: Mapping[str, Any]
) -> None:
    """Check the package versions of an evaluation: each must be the locked one, or that of the training."""
    if evaluation.get("lock") is None or evaluation["lock"] != trained.get("lock"):
        return  # the lock changed between the two
    packages, trained_packages = evaluation.get("packages") or {}, trained.get("packages") or {}
    locked = locked_versions(contents.root / _LOCK) if evaluation.get("lock") == contents.sha256(_LOCK) else {}
    for name in sorted(packages.keys() | trained_packages.keys()):
        actual, expected = packages.get(name), trained_packages.get(name)
        allowed = actual is not None and name in locked and is_version(actual, locked[name])
        if name != "python" and not allowed:
            report.equal(f"version of {name} in {EVALUATION}", expected, actual, f"the training, and {_LOCK}")


def read_json(report: Report, contents: Contents, name: str, schema: type[FileSchema] | None = None) -> Any:
    """The content of a JSON file. None if it is missing or does not match the schema; the report then says so.

    Args:
        report: Receives what is wrong with the file.
        contents: The working tree.
        name: The path of the file, relative to the root.
        schema: The keys and types that the file must have; None: any JSON.
    """
    path = contents.root / name
    if not path.is_file():
        report.skip(name, "missing: not in this clone")
        return None
    try:
        value = files.read_json(path)
        return value if schema is None else checked(value, schema, name)
    except UserError as error:
        report.wrong(name, "valid content", f"an error: {error}", "reading it")
        return None


_RESULT = ("lineage", "file")


def find_record(report: Report, contents: Contents, pipeline: Pipeline) -> dict[str, Any] | None:
    """Find the run record of the model that dvc.lock names, and compare all run records with their names and git.

    A record that was deleted from the working tree is read from the history, so deleting it does not avoid the check.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
    """
    md5 = pipeline.lock.out(MODEL)
    records: dict[str, dict[str, Any]] = {}
    for name in _present(contents):
        record = read_json(report, contents, name, RecordFile)
        with report.reading(name):
            if record is not None:
                names = record_names(record)
                if name != RECORD.as_posix() and PurePosixPath(name).name not in names:
                    report.wrong(
                        f"content of {name}",
                        "the record that belongs to this file name",
                        f"the record of {names[0]}",
                        "its file name",
                    )
                records |= {name: record} if md5 is not None and record["file"]["md5"] == md5 else {}
    if len({files.digest(record) for record in records.values()}) > 1:
        report.wrong(f"records with the MD5 of {MODEL}", "one record", ", ".join(records), LOCK)
    _check_committed(report, contents)
    record, archive = next(iter(records.values()), None), Archive(History(contents.root))
    for old, new in archive.contradictions:
        report.wrong(f"lineage in {new}", f"the lineage that {old} has for this file", "another lineage", "the history")
    if archive.history.shallow:
        report.skip("older commits", "this clone is shallow. Run: git fetch --unshallow")
    if md5 is not None and record is None:
        record = next((record for record in archive.all_records if record["file"]["md5"] == md5), None)
    if record is not None:
        for name in (f"{FOLDER}/{name}" for name in record_names(record)):
            # If only another branch has it, DVC may have restored the model from its cache without writing a record.
            if not (contents.root / name).exists() and contents.events(name):
                report.wrong(name, "the committed record", "a deleted file", f"git log -- {name}")
    elif md5 is not None:
        report.skip(f"the record of {MODEL}", f"missing: no record in {FOLDER}/ or {RECORD} has the MD5 of the model")
    return record


def _present(contents: Contents) -> list[str]:
    """The run records in the working tree."""
    paths = [*sorted((contents.root / FOLDER).glob("*.json")), contents.root / RECORD]
    return [path.relative_to(contents.root).as_posix() for path in paths if path.is_file()]


def _check_committed(report: Report, contents: Contents) -> None:
    """Check that run records are unchanged since their first commit, because strip writes each record once."""
    changed = contents.differs_from_head(FOLDER.as_posix(), RECORD.as_posix())
    for name in changed:
        committed = contents.committed(name)
        if committed is None:
            report.note(f"{name} is not committed")
            continue
        before, after = _parsed(committed), read_json(report, contents, name, RecordFile)
        # A result of another run has other bytes. For the same bytes, strip does not rewrite the record.
        if after and before and before != after and before["file"] == after["file"]:
            report.wrong(f"content of {name}", "the committed content", "other content", "git")
        elif before != after and name != RECORD.as_posix():  # record.json changes with each result
            report.note(f"{name} differs from its committed version")
    for name in _present(contents):
        with report.reading(name):
            if name not in changed and (commit := _rewritten(contents, name)):
                report.wrong(
                    f"run of {name}", "the facts of its first commit", f"changes by commit {commit}", "git log"
                )


def _rewritten(contents: Contents, name: str) -> str | None:
    """The commit that changed only the run facts of a record; None if no commit changed it."""
    blob, sound, last = None, set(), None
    for commit, new in contents.events(name):
        rewrites = blob is not None and new is not None and _same_result(contents, blob, new)
        if new is not None and not rewrites:
            sound.add(new)
        elif new not in sound:
            last = commit
        blob = new or blob
    return last if blob not in sound else None


def _same_result(contents: Contents, old: str, new: str) -> bool:
    before, after = (_parsed(contents.blob(blob) or b"") for blob in (old, new))
    # A damaged record is not compared.
    return bool(before and after and before != after and all(before[key] == after[key] for key in _RESULT))


def _parsed(content: bytes) -> dict[str, Any] | None:
    """Parse a run record of the history; None if it is damaged."""
    try:
        return checked(files.parse_json(content), RecordFile, "a record")
    except (ValueError, UserError):
        return None
