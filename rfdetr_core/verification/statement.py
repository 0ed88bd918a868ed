"""Build the in-toto statement of a model file. Its predicate is SLSA provenance, version 1.

The formats: https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. Most of a statement repeats the lineage
in the file. The commit, the run and the journal come from the history (see `HistoryFacts`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rfdetr_core.audit.exported import SUFFIXES as EXPORTED
from rfdetr_core.audit.exported import contradictions, is_derived, plain_description
from rfdetr_core.audit.history import History
from rfdetr_core.audit.proofs import roots_of
from rfdetr_core.audit.trace import Archive, Trace, title_of, trace
from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import Exported, read_exported
from rfdetr_core.checkpoint.files import Checkpoint, read_checkpoint, tensor_digest
from rfdetr_core.lineage.compose import description_digest
from rfdetr_core.lineage.journal import heads

REPOSITORY, SIGNING_KEY = (
    "repository",
    "signing key",
)  # names of entries in resolvedDependencies and builderDependencies
# The values of `lineageFrom`: whether a commit confirms the lineage, or only the file itself has it.
GIT = "git"
OWN_WORD = "the file's own word"


@dataclass(frozen=True)
class HistoryFacts:
    """What the history of a project says about a model file: the part of a statement that is not in the file.

    Attributes:
        traced: The commits and records that have the file.
        archive: The records in the history.
        heads: The heads of the journal, see `lineage.journal.heads`.
    """

    traced: Trace
    archive: Archive
    heads: dict[str, str]

    @classmethod
    def of(cls, file: Path, root: Path) -> HistoryFacts:
        """Look up a file in the commits of a project. Uncommitted files do not count.

        Raises:
            UserError: The folder is not in a git repository, or the file cannot be read.
        """
        archive = Archive(History(root))
        return cls(trace(file, archive), archive, heads(archive.history.root))

    @property
    def history(self) -> History:
        """The commits of the project."""
        return self.archive.history

    @property
    def confirmed(self) -> bool:
        """Whether a commit has the file, or its weights with the same lineage."""
        return self.traced.confirmed

    @property
    def address(self) -> str | None:
        """The public address of the remote `origin`; None if there is none."""
        return git.public_address((git.answer(self.history.root, "remote", "get-url", "origin") or "").strip())

    @property
    def run(self) -> dict[str, Any] | None:
        """The facts of the run that made the file, from its run record."""
        return self._record["run"] if self._record else None

    @property
    def _record(self) -> dict[str, Any] | None:
        sha256 = self.traced.sha256
        return next((run for run in self.archive.runs if run["file"]["sha256"] == sha256), self.traced.record)

    @property
    def dependency(self) -> dict[str, Any] | None:
        """The repository at the commit that added the file, as an entry of resolvedDependencies."""
        if not self.traced.links:
            return None
        uri = {"uri": f"git+{self.address}"} if self.address else {}
        return {"name": REPOSITORY, **uri, "digest": {"gitCommit": self.traced.links[0].commit.id}}

    @property
    def metadata(self) -> dict[str, str]:
        """The name of the run record, and when the training began and ended."""
        record = self._record
        return {"invocationId": title_of(record), **_times(record["run"])} if record else {}


def statement_of(file: Path, history_facts: HistoryFacts | None = None, key: str | None = None) -> dict[str, Any]:
    """Build the statement of a model file.

    The subject is the file. `resolvedDependencies` are the manifests, annotations, code, params, parent
    weights and the environment lock.
    For an exported file, the source checkpoint and the measured parity are added.

    Args:
        file: The model file.
        history_facts: What the history says about the file. If it is None or does not confirm the file, the statement
            says that its lineage comes only from the file.
        key: The id of the key that signs the statement.

    Raises:
        UserError: The file is not a model file, has no lineage, or has the lineage of another model.
    """
    checkpoint, exported, _ = read_model(file)
    lineage = checkpoint.lineage or {}
    training = lineage["training"]
    confirmed = history_facts if history_facts and history_facts.confirmed else None
    repository = confirmed.dependency if confirmed else None
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": part.name, "digest": {"sha256": files.sha256_file(part)}} for part in parts_of(file)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"urn:rfdetr-dvc:pipeline:{lineage.get('schema', 1)}",
                "externalParameters": {"variant": lineage["variant"], "params": training["params"]},
                "internalParameters": {
                    "lineageFrom": GIT if confirmed else OWN_WORD,
                    **{key: training[key] for key in ("packages", "machine", "counts")},
                    "selection": lineage["selection"],
                    **({"roots": roots_of(training)} if training.get("roots") else {}),
                    **({"custom": training["custom"]} if "custom" in training else {}),
                    **({"export": plain_description(exported)} if exported else {}),
                    **({"journal": confirmed.heads} if confirmed and confirmed.heads else {}),
                },
                "resolvedDependencies": [
                    *([repository] if repository else []),
                    *_materials(lineage),
                    *(_source(exported) if exported else ()),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:rfdetr-dvc:dvc-repro",
                    **({"builderDependencies": [{"name": SIGNING_KEY, "digest": {"sha256": key}}]} if key else {}),
                },
                **({"metadata": confirmed.metadata} if confirmed and confirmed.metadata else {}),
                "byproducts": [{"name": "tensors", "digest": {"sha256": lineage["tensors"]}}],
            },
        },
    }


def read_model(file: Path) -> tuple[Checkpoint, Exported | None, str]:
    """Read a model file: its checkpoint content, the exported file (None for a checkpoint), and its weights digest.

    Raises:
        UserError: The file is not a model file, has no lineage, or has the lineage of another model.
    """
    exported = read_exported(file) if file.suffix in EXPORTED else None
    checkpoint = exported.checkpoint if exported else read_checkpoint(file)
    tensors = exported.description.tensors if exported else tensor_digest(checkpoint.weights)
    lineage = checkpoint.lineage
    if lineage is None:
        raise UserError(f"{file} has no lineage. Give the stripped model: output/checkpoint_best_total.pth")
    actual = (checkpoint.model_name, description_digest(checkpoint), tensors)
    if actual != tuple(lineage.get(key) for key in ("variant", "description", "tensors")) or checkpoint.unknown:
        raise UserError(f"{file} does not match its lineage. To see what differs: python -m rfdetr_core verify {file}")
    if exported and (is_derived(exported) or [*contradictions(exported)]):
        raise UserError(
            f"{file} differs from what was exported. To see what differs: python -m rfdetr_core verify {file}"
        )
    return checkpoint, exported, tensors


def document_subjects(folder: Path, beside: Path, without: Collection[Path] = ()) -> list[dict[str, Any]]:
    """The files of a folder as subjects of a statement. Hidden files are left out.

    Args:
        folder: The folder with the documents.
        beside: The folder of the statement. The documents are named by their path relative to it.
        without: Files that are not documents, such as the statement itself.

    Raises:
        UserError: The folder does not exist, is not a folder, or has no document.
    """
    excluded = {path.resolve() for path in without}
    candidates = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    paths = [path for path in candidates if not path.name.startswith(".") and path.resolve() not in excluded]
    if not paths:
        problem = (
            "does not exist" if not folder.exists() else "has no documents" if folder.is_dir() else "is not a folder"
        )
        raise UserError(
            f"{folder} {problem}. Write the documents first: python -m rfdetr_core document FILE --out {folder}"
        )
    way = Path(os.path.relpath(folder.resolve(), beside.resolve()))
    return [{"name": (way / path.name).as_posix(), "digest": {"sha256": files.sha256_file(path)}} for path in paths]


def parts_of(file: Path) -> list[Path]:
    """The files of a model. An OpenVINO model has two."""
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def _times(run: Mapping[str, Any]) -> dict[str, str]:
    """When a training began and ended, in SLSA's format; empty if the record does not say."""
    try:
        began = datetime.fromisoformat(run["started"]).astimezone(UTC)
        times = {"startedOn": began, "finishedOn": began + timedelta(seconds=run["seconds"])}
    except (KeyError, TypeError, ValueError, OverflowError):
        return {}
    return {name: f"{time:%Y-%m-%dT%H:%M:%SZ}" for name, time in times.items()}


def _source(exported: Exported) -> Iterator[dict[str, Any]]:
    yield {"name": "checkpoint", "digest": {"sha256": exported.description.source}}


def _materials(lineage: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    training = lineage["training"]
    for name, sha256 in sorted(training["inputs"].items()):
        blob = training["files"].get(name, {}).get("git")
        yield {"name": name, "digest": {"sha256": sha256, **({"gitBlob": blob} if blob else {})}}
    kind = "sha256" if lineage.get("schema", 1) == 1 else "semanticSha256"
    for name, digest in sorted((training["code"] | lineage["code"]).items()):
        yield {"name": name, "digest": {kind: digest}}
    yield {"name": "params", "digest": {"sha256": files.digest(training["params"])}}
    for key, parent in sorted(training["parents"].items()):
        yield {"name": f"weights/{parent['name']}", "digest": {"sha256": parent["sha256"]}, "annotations": {"as": key}}
    if training.get("lock") is not None:
        yield {"name": "requirements/numeric.lock", "digest": {"sha256": training["lock"]}}
