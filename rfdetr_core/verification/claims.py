"""What lineage and records claim, against what is at hand. Without torch."""

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


def check_lineage(report: Report, contents: Contents, pipeline: Pipeline, lineage: Mapping[str, Any], by: str) -> None:
    """The lineage of the model that dvc.lock names, with lock, params, code and files at hand."""
    check_training(report, contents, pipeline, lineage.get("training") or {}, by)
    _check_code(report, contents, lineage.get("code") or {}, by)
    selection = read_json(report, contents, SELECTION, Selection)
    if selection is not None:
        for key in sorted(selection.keys() | lineage.get("selection", {}).keys()):
            report.equal(f"{key} of {SELECTION}", (lineage.get("selection") or {}).get(key), selection.get(key), by)


def check_training(report: Report, contents: Contents, pipeline: Pipeline, record: Mapping[str, Any], by: str) -> None:
    """What train wrote of itself."""
    check_custom(report, record, by)
    _check_params(report, record.get("params") or {}, pipeline.lock.params_of("train"), by)
    _check_inputs(report, contents, record.get("inputs") or {}, by)
    for name, one in (record.get("files") or {}).items():
        if contents.sha256(name) is not None:
            found = provenance.identity(contents.root / name)
            for key in sorted(one):
                report.equal(f"{key} of {name}", one[key], found[key], by)
    for split, count in (record.get("counts") or {}).items():
        rows = read_json(report, contents, f"manifest/{split}.json")
        if rows is not None:
            report.equal(f"images of {split}", count.get("images"), len(rows), by)
            if "roots" in record:
                _check_roots(report, record, split, rows, by)
    _check_code(report, contents, record.get("code") or {}, by)
    _check_environment(report, contents, record, by)
    _check_classes(report, record.get("classes") or {}, by)
    for key, sha256 in (record.get("weights") or {}).items():
        name = (record.get("params") or {}).get("train" if key == "resume" else "model", {}).get(key)
        if name is None or sha256 is None:
            report.equal(f"weights {key}", name and "a digest", sha256, by)
        elif (digest := contents.sha256(f"weights/{name}")) is not None:
            report.equal(f"weights/{name}", sha256, digest, by)
        else:
            report.skip(f"weights/{name}", "gone: it is not here")
        parent = (record.get("parents") or {}).get(key)
        report.equal(f"parent {key}", sha256, parent and parent.get("sha256"), by)


def check_custom(report: Report, record: Mapping[str, Any], by: str) -> None:
    """What a script changed of a training: nothing here can be compared with it."""
    for part, changed in (record.get("custom") or {}).items():
        told = ", ".join(map(str, changed)) if isinstance(changed, dict | list) else str(changed)
        report.skip(f"{part} that a script chose, of {by}", f"not of this project: {told}")


def check_past(report: Report, history: History, record: Mapping[str, Any], by: str) -> None:
    """The inputs of a training against the git objects that it names."""
    # Annotations are kept by DVC, not by git.
    named = {name: one for name, one in (record.get("files") or {}).items() if name.startswith("manifest/")}
    for name, (_, content) in zip(named, history.read(one["git"] for one in named.values()), strict=True):
        if content is None:
            report.skip(f"{name} of {by}", history.why_missing(record["files"][name]["git"]))
        else:
            same = report.equal(f"{name} in git", record["inputs"].get(name), files.sha256_bytes(content), by)
            if same and "roots" in record:
                _check_roots(report, record, PurePosixPath(name).stem, files.parse_json(content), by)


def _check_roots(
    report: Report, record: Mapping[str, Any], split: str, rows: Sequence[Mapping[str, Any]], by: str
) -> None:
    """The Merkle roots of a split, which proofs for outsiders are checked with, against the rows of its manifest."""
    told, made = flattened(record["roots"].get(split) or {}), flattened(roots(map(row_of, rows)))
    for key in sorted(told.keys() | made.keys()):
        report.equal(f"roots.{split}.{key} of {by}", made.get(key), told.get(key), f"manifest/{split}.json")


def check_selection(report: Report, contents: Contents) -> None:
    """Choose again by the scores."""
    scores = read_json(report, contents, SCORES, Scores)
    selection = read_json(report, contents, SELECTION, Selection)
    if scores is None or selection is None:
        return
    try:
        again = select(scores)
    except UserError as error:
        report.wrong(SCORES, "scores that can be compared", str(error), "chosen again")
        return
    for key in sorted(again.keys() | selection.keys()):
        report.equal(f"{key} of {SELECTION}", again.get(key), selection.get(key), f"chosen again from {SCORES}")


def check_evaluation(
    report: Report,
    contents: Contents,
    pipeline: Pipeline,
    model: Mapping[str, Any] | None,
    trained: Mapping[str, Any] | None = None,
) -> None:
    """The lineage of the evaluation; model: the digests of the model file, as far as they are known; trained: what the
    training of the model recorded."""
    told = read_json(report, contents, EVALUATION, Evaluation)
    if told is None:
        return
    for key in sorted((model or {}).keys() & told.get("model", {}).keys()):
        report.equal(f"{key} of {MODEL}", told["model"][key], (model or {})[key], EVALUATION)
    _check_params(report, told.get("params") or {}, pipeline.lock.params_of("evaluate"), EVALUATION)
    inputs = told.get("inputs") or {}
    _check_inputs(report, contents, {name: one.get("sha256") for name, one in inputs.items()}, EVALUATION)
    _check_code(report, contents, told.get("code") or {}, EVALUATION)
    _check_environment(report, contents, told, EVALUATION)
    _check_packages(report, contents, told, trained or {})
    about = read_json(report, contents, "reports/evaluate/about.json", FileSchema)
    if about is not None:
        report.equal("split of reports/evaluate/about.json", told.get("split"), about.get("split"), EVALUATION)


def _check_params(report: Report, told: Mapping[str, Any], locked: Mapping[str, Any], by: str) -> None:
    """Params with their defaults, as the lineage has them, against those given in dvc.lock."""
    for section, values in told.items():
        given = locked.get(section) or {}
        try:
            config = parse(SECTIONS[section], given, where=f"{LOCK}: {section}").model_dump(mode="json")
        except (UserError, KeyError) as error:
            report.wrong(f"{section} of {LOCK}", "params that are valid", str(error), by)
            continue
        # A key that came with newer code and was not given: the code itself is compared.
        for key in sorted({*values, *given}):
            report.equal(f"params.yaml: {section}.{key} in {LOCK}", values.get(key), config.get(key), by)


def _check_inputs(report: Report, contents: Contents, inputs: Mapping[str, Any], by: str) -> None:
    for name, sha256 in inputs.items():
        found = contents.sha256(name)
        if found is None:
            report.skip(name, "gone: it is not here")
        else:
            report.equal(f"sha256 of {name}", sha256, found, by)


def _check_code(report: Report, contents: Contents, code: Mapping[str, str], by: str) -> None:
    for name, digest in code.items():
        found = contents.sha256(name)
        if found is not None and found != digest:  # as records of schema 1 have it
            found = semantic_digest(contents.root / name)
        report.equal(f"code {name}", digest, found, by)


def _check_classes(report: Report, classes: Mapping[str, Mapping[str, Any]], by: str) -> None:
    """Files of installed packages that params.yaml named classes of, where the same version is installed here."""
    for key, one in classes.items():
        what, package = f"module {one['module']} of train.{key}", one.get("package")
        try:
            version = metadata.version(package) if package else None
        except metadata.PackageNotFoundError:
            report.skip(what, f"{package} is not installed")
            continue
        if version != one.get("version"):
            report.note(f"{by}: {what} is of {package} {one.get('version')}, here {version}")
        elif (path := module_file(one["module"])) is None:
            report.skip(what, "it is not installed")
        else:
            report.equal(f"sha256 of {what}", one.get("sha256"), files.sha256_file(path), by)


def _check_environment(report: Report, contents: Contents, made: Mapping[str, Any], by: str) -> None:
    report.equal(f"environment lock {_LOCK}", made.get("lock"), contents.sha256(_LOCK), by)
    packages, here = made.get("packages") or {}, provenance.environment()["packages"]
    differing = [
        f"{key} {packages.get(key)}, here {here.get(key)}"
        for key in sorted({*packages, *here})
        if packages.get(key) != here.get(key)
    ]
    locked = locked_versions(contents.root / _LOCK)
    other = {name: found for name, found in packages.items() if name in locked and not is_version(found, locked[name])}
    if other:
        told = ", ".join(f"{name} {found} (locked: {locked[name]})" for name, found in other.items())
        report.note(f"{by}: made with packages that are not those of {_LOCK}: {told}")
    if differing:
        report.note(f"{by}: made with other packages, so bytes made here can differ: {'; '.join(differing)}")


def _check_packages(
    report: Report, contents: Contents, evaluation: Mapping[str, Any], trained: Mapping[str, Any]
) -> None:
    """The versions of an evaluation: those of the lock, which stages are run with, or those of the training."""
    if evaluation.get("lock") is None or evaluation["lock"] != trained.get("lock"):
        return  # the lock changed between the two
    packages, before = evaluation.get("packages") or {}, trained.get("packages") or {}
    locked = locked_versions(contents.root / _LOCK) if evaluation.get("lock") == contents.sha256(_LOCK) else {}
    for name in sorted(packages.keys() | before.keys()):
        found, expected = packages.get(name), before.get(name)
        allowed = found is not None and name in locked and is_version(found, locked[name])
        if name != "python" and not allowed:
            report.equal(f"version of {name} in {EVALUATION}", expected, found, f"the training, and {_LOCK}")


def read_json(report: Report, contents: Contents, name: str, schema: type[FileSchema] | None = None) -> Any:
    """The content of a JSON file; None where it is not at hand or is not what the schema asks for, which is told."""
    path = contents.root / name
    if not path.is_file():
        report.skip(name, "gone: it is not here")
        return None
    try:
        value = files.read_json(path)
        return value if schema is None else checked(value, schema, name)
    except UserError as error:
        report.wrong(name, "its layout", str(error), "reading it")
        return None


_RESULT = ("lineage", "file")


def record_of(report: Report, contents: Contents, pipeline: Pipeline) -> dict[str, Any] | None:
    """The record of the model that dvc.lock names; all records are compared with their names and with git.

    A record that is not in the working tree, and is in the history, is given as well: to delete it hides nothing.
    """
    md5 = pipeline.lock.out(MODEL)
    found: dict[str, dict[str, Any]] = {}
    for name in _present(contents):
        record = read_json(report, contents, name, RecordFile)
        with report.reading(name):
            if record is not None:
                own = record_names(record)
                if name != RECORD.as_posix() and PurePosixPath(name).name not in own:
                    report.wrong(f"content of {name}", "the record that its name says", f"that of {own[0]}", "its name")
                found |= {name: record} if md5 is not None and record["file"]["md5"] == md5 else {}
    if len({files.digest(one) for one in found.values()}) > 1:
        report.wrong(f"records with the MD5 of {MODEL}", "one", ", ".join(found), LOCK)
    _check_committed(report, contents)
    record, archive = next(iter(found.values()), None), Archive(History(contents.root))
    for old, new in archive.contradictions:
        report.wrong(f"lineage in {new}", f"that of {old}, which is of the same file", "another", "the history")
    if archive.history.shallow:
        report.skip("what older commits have", "this clone is shallow: git fetch --unshallow")
    if md5 is not None and record is None:
        record = next((one for one in archive.all_records if one["file"]["md5"] == md5), None)
    if record is not None:
        for name in (f"{FOLDER}/{name}" for name in record_names(record)):
            # Where it is on another branch alone, DVC may have restored the model from its cache, which writes no file.
            if not (contents.root / name).exists() and contents.events(name):
                report.wrong(name, "a record, as it was committed", "it was deleted", f"git log -- {name}")
    elif md5 is not None:
        report.skip(f"the record of {MODEL}", f"gone: neither {FOLDER}/ nor {RECORD} has its MD5")
    return record


def _present(contents: Contents) -> list[str]:
    """The records in the working tree."""
    paths = [*sorted((contents.root / FOLDER).glob("*.json")), contents.root / RECORD]
    return [path.relative_to(contents.root).as_posix() for path in paths if path.is_file()]


def _check_committed(report: Report, contents: Contents) -> None:
    """Records as they were first committed: strip writes that of a result once, and never again."""
    changed = contents.differs_from_head(FOLDER.as_posix(), RECORD.as_posix())
    for name in changed:
        committed = contents.committed(name)
        if committed is None:
            report.note(f"{name} is not committed")
            continue
        before, after = _parsed(committed), read_json(report, contents, name, RecordFile)
        # A result made otherwise has other bytes: the record of a file that is the same stays as it is.
        if after and before and before != after and before["file"] == after["file"]:
            report.wrong(f"content of {name}", "as committed", "changed", "git")
        elif before != after and name != RECORD.as_posix():  # that one changes with each result
            report.note(f"{name} differs from the committed one")
    for name in _present(contents):
        with report.reading(name):
            if name not in changed and (commit := _rewritten(contents, name)):
                report.wrong(f"run of {name}", "as it was first committed", f"changed in commit {commit}", "git log")


def _rewritten(contents: Contents, name: str) -> str | None:
    """The commit that changed what a record says of the run, and nothing else; None if what is there is as written."""
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
    before, after = (_parsed(contents.blob(one) or b"") for one in (old, new))
    # If one of them was damaged, the other is no copy of it.
    return bool(before and after and before != after and all(before[key] == after[key] for key in _RESULT))


def _parsed(content: bytes) -> dict[str, Any] | None:
    """A record of the history; None where it is damaged."""
    try:
        return checked(files.parse_json(content), RecordFile, "a record")
    except (ValueError, UserError):
        return None
