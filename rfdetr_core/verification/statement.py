"""The in-toto statement of what made a model file: its predicate is SLSA's provenance, version 1.

The formats: https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. Most of a statement repeats the lineage
in the file. The rest is known to the history alone: the commit, the run, the journal (see `HistoryFacts`).
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

REPOSITORY, SIGNING_KEY = "repository", "signing key"  # names of dependencies
# Where the lineage of a statement comes from.
GIT = "git"
OWN_WORD = "the file's own word"


@dataclass(frozen=True)
class HistoryFacts:
    """What the history of a project knows of a model file: the part of a statement that the file does not have.

    heads: of the journal, see `lineage.journal.heads`.
    """

    traced: Trace
    archive: Archive
    heads: dict[str, str]

    @classmethod
    def of(cls, file: Path, root: Path) -> HistoryFacts:
        """Ask the commits of a project; what is not committed does not count.

        Raises:
            UserError: the folder is in no git repository, or the file cannot be read.
        """
        archive = Archive(History(root))
        return cls(trace(file, archive), archive, heads(archive.history.root))

    @property
    def history(self) -> History:
        """The commits that were asked."""
        return self.archive.history

    @property
    def confirmed(self) -> bool:
        """Whether a commit has the file, or its weights with the lineage that it carries."""
        return self.traced.confirmed

    @property
    def address(self) -> str | None:
        """The public address of the repository: of its remote `origin`; None where it has none."""
        return git.public_address((git.answer(self.history.root, "remote", "get-url", "origin") or "").strip())

    @property
    def run(self) -> dict[str, Any] | None:
        """The facts of the run that made the file, as its record has them."""
        return self._record["run"] if self._record else None

    @property
    def _record(self) -> dict[str, Any] | None:
        sha256 = self.traced.sha256
        return next((run for run in self.archive.runs if run["file"]["sha256"] == sha256), self.traced.record)

    @property
    def dependency(self) -> dict[str, Any] | None:
        """The repository, at the commit that brought the file."""
        if not self.traced.links:
            return None
        uri = {"uri": f"git+{self.address}"} if self.address else {}
        return {"name": REPOSITORY, **uri, "digest": {"gitCommit": self.traced.links[0].commit.id}}

    @property
    def metadata(self) -> dict[str, str]:
        """The record of the run, and when its training began and ended."""
        record = self._record
        return {"invocationId": title_of(record), **_times(record["run"])} if record else {}


def statement_of(file: Path, history_facts: HistoryFacts | None = None, key: str | None = None) -> dict[str, Any]:
    """The statement: subject = the file; materials = manifests, annotations, code, params, weights, environment lock;
    of an exported file also the checkpoint that it was made of, and what was measured of it.

    history_facts: what the history knows; without it, or where no commit vouches for the file, the statement says that it is
    the file's own word. key: the id of the key that signs the statement.

    Raises:
        UserError: no model file, without lineage, or with that of another model.
    """
    checkpoint, exported, _ = read_model(file)
    lineage = checkpoint.lineage or {}
    training = lineage["training"]
    known = history_facts if history_facts and history_facts.confirmed else None
    repository = known.dependency if known else None
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": part.name, "digest": {"sha256": files.sha256_file(part)}} for part in parts_of(file)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"urn:rfdetr-dvc:pipeline:{lineage.get('schema', 1)}",
                "externalParameters": {"variant": lineage["variant"], "params": training["params"]},
                "internalParameters": {
                    "lineageFrom": GIT if known else OWN_WORD,
                    **{key: training[key] for key in ("packages", "machine", "counts")},
                    "selection": lineage["selection"],
                    **({"roots": roots_of(training)} if training.get("roots") else {}),
                    **({"custom": training["custom"]} if "custom" in training else {}),
                    **({"export": plain_description(exported)} if exported else {}),
                    **({"journal": known.heads} if known and known.heads else {}),
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
                **({"metadata": known.metadata} if known and known.metadata else {}),
                "byproducts": [{"name": "tensors", "digest": {"sha256": lineage["tensors"]}}],
            },
        },
    }


def read_model(file: Path) -> tuple[Checkpoint, Exported | None, str]:
    """What a model file says of itself, the exported file that it is, and the digest of its weights.

    Raises:
        UserError: no model file, without lineage, or with that of another model.
    """
    exported = read_exported(file) if file.suffix in EXPORTED else None
    checkpoint = exported.checkpoint if exported else read_checkpoint(file)
    tensors = exported.description.tensors if exported else tensor_digest(checkpoint.weights)
    lineage = checkpoint.lineage
    if lineage is None:
        raise UserError(f"{file} carries no lineage. Name the stripped model: output/checkpoint_best_total.pth")
    own = (checkpoint.model_name, description_digest(checkpoint), tensors)
    if own != tuple(lineage.get(key) for key in ("variant", "description", "tensors")) or checkpoint.unknown:
        raise UserError(f"{file} is not what its lineage says. What differs: python -m rfdetr_core verify {file}")
    if exported and (is_derived(exported) or [*contradictions(exported)]):
        raise UserError(f"{file} is not what was exported. What differs: python -m rfdetr_core verify {file}")
    return checkpoint, exported, tensors


def document_subjects(folder: Path, beside: Path, without: Collection[Path] = ()) -> list[dict[str, Any]]:
    """The files of a folder as subjects of a statement that lies in the folder `beside`: named by their way from there.

    without: files that are no documents, such as the statement itself; hidden files are none either.

    Raises:
        UserError: it is not a folder, or has no document.
    """
    others = {path.resolve() for path in without}
    there = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    paths = [path for path in there if not path.name.startswith(".") and path.resolve() not in others]
    if not paths:
        what = "does not exist" if not folder.exists() else "has no documents" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder} {what}. Write them first: python -m rfdetr_core document FILE --out {folder}")
    way = Path(os.path.relpath(folder.resolve(), beside.resolve()))
    return [{"name": (way / one.name).as_posix(), "digest": {"sha256": files.sha256_file(one)}} for one in paths]


def parts_of(file: Path) -> list[Path]:
    """The files that a model is: an OpenVINO model is two."""
    return [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]


def _times(run: Mapping[str, Any]) -> dict[str, str]:
    """When a training began and ended, as SLSA writes times; nothing where its record does not say."""
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
