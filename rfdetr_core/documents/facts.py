"""Collect the facts about a model file: its lineage, the history of the project, and its evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfdetr_core.audit.history import MODEL, Commit, rows_of
from rfdetr_core.audit.trace import title_of
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.metadata import parse_metadata
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.provenance import NUMERIC_LOCK
from rfdetr_core.checkpoint.exported import Exported
from rfdetr_core.checkpoint.files import Checkpoint
from rfdetr_core.documents.evaluation import Evaluation, evaluation_lineage, read_evaluation, without_root
from rfdetr_core.lineage.journal import entries, json_params
from rfdetr_core.verification.statement import HistoryFacts, parts_of, read_model

TRAINED, CHOSEN, SCORED = "training", "choosing the epoch", "scoring"
LOCK = f"{NUMERIC_LOCK.parent.name}/{NUMERIC_LOCK.name}"
PROVIDER = "To be filled in by the provider"
ASKED = (
    "licence",
    "source",
)  # metadata columns that a user of a dataset needs; if values are missing, the provider is asked
MOST = 20  # the longest list of values of a column, or of folders of a split
_USES = {"train": TRAINED, "valid": CHOSEN}


@dataclass(frozen=True)
class Split:
    """A split of the dataset, as named by the lineage of the model or of its evaluation.

    Attributes:
        name: Its name.
        uses: The use of its images: TRAINED, CHOSEN, SCORED.
        images: The number of images.
        objects: The number of objects; None if it is not known.
        digests: The SHA-256 of its annotations, its manifest and the class table, by the path of the file.
        roots: The Merkle trees over its images: `size` and `root` by the name of the tree.
        classes: Objects by class; None if the annotations are not local.
        metadata: The values of metadata/ by image and column (`licence`, `source`, ...); None if metadata/ could not be
            read.
    """

    name: str
    uses: tuple[str, ...]
    images: int
    objects: int | None
    digests: dict[str, str]
    roots: dict[str, dict[str, Any]] = field(default_factory=dict)
    classes: dict[str, int] | None = None
    metadata: dict[str, dict[str, str]] | None = None

    def values(self, column: str) -> dict[str, int]:
        """The number of images with each value of a metadata column; the most frequent first."""
        return most_frequent(row[column] for row in (self.metadata or {}).values() if column in row)

    def without(self, column: str) -> int:
        """The number of images without a value in a metadata column."""
        return max(0, self.images - sum(self.values(column).values()))


def most_frequent(values: Iterable[str]) -> dict[str, int]:
    """The count of each value; the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))


@dataclass(frozen=True)
class Facts:
    """The facts from which documents are written. Nothing depends on the folder of the project.

    Attributes:
        file: The model file.
        root: The project.
        checkpoint: The content of the file. For an exported file: that of its source checkpoint without the weights.
        lineage: The lineage in the file.
        history_facts: What the history of the project says about the file; None outside of a git repository.
        digests: The SHA-256 of each file of the model, by name. An OpenVINO model has two files.
        exported: The description of an exported file; None for a checkpoint.
        evaluation: The local evaluation of these weights; None if there is none.
        splits: The splits for training, choosing the epoch and scoring, by name.
        run: The facts in the run record: `started`, `seconds`, `host`, `gpu`, ...
        durations: Seconds by stage, from the journal entries of this model.
        notes: A sentence for each input that was ignored, and for each that is used but not confirmed.
    """

    file: Path
    root: Path
    checkpoint: Checkpoint
    lineage: dict[str, Any]
    history_facts: HistoryFacts | None
    digests: dict[str, str] = field(default_factory=dict)
    exported: Exported | None = None
    evaluation: Evaluation | None = None
    splits: dict[str, Split] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    durations: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def training(self) -> dict[str, Any]:
        """The training record: params, inputs, code, packages, machine, parents, and more."""
        return dict(self.lineage["training"])

    @property
    def class_names(self) -> list[str]:
        """The names of the classes that the model detects."""
        return [str(name) for name in self.checkpoint.args.get("class_names") or ()]

    @property
    def packages(self) -> dict[str, str]:
        """The versions of Python and of the packages that influence the weights."""
        return dict(self.training["packages"])

    @property
    def confirmed(self) -> bool:
        """Whether a commit has the file, or its weights with the same lineage."""
        return self.history_facts is not None and self.history_facts.confirmed

    @property
    def commit(self) -> Commit | None:
        """The commit that added the file."""
        links = self.history_facts.traced.links if self.history_facts and self.confirmed else ()
        return links[0].commit if links else None

    @property
    def confirmed_by(self) -> str:
        """The source that confirms the file: a commit, a run record, or only the file itself."""
        return (
            "a commit"
            if self.commit
            else "a run record in git, but no dvc.lock"
            if self.confirmed
            else "the file alone"
        )

    @property
    def address(self) -> str | None:
        """The public address of the repository, without user and password."""
        return self.history_facts.address if self.history_facts else None

    @property
    def record(self) -> str | None:
        """The path of the run record in the history."""
        record = self.history_facts.traced.record if self.history_facts else None
        return title_of(record) if record else None

    def recorded(self, name: str) -> bytes | None:
        """The recorded content of an input: a file that the training record or the evaluation names.

        The local file is used if it has the recorded digest, else git's version. None if neither exists.
        """
        scored = self.evaluation.lineage if self.evaluation else None
        return _recorded(self.root, self.history_facts, self.training, scored, name)

    @property
    def place(self) -> str:
        """The path of the model file in the project, if the history has it; else the name of the file."""
        path = self.history_facts.traced.path if self.history_facts else None
        return path or (MODEL if self.file.name == Path(MODEL).name else self.file.name)


def collect(file: Path, root: Path = Path()) -> Facts:
    """Read a model file, and look it up in the history of the project at `root`.

    Raises:
        UserError: The file is not a model file, has no lineage, or contradicts its lineage or the history.
    """
    checkpoint, exported, tensors = read_model(file)
    lineage = checkpoint.lineage or {}
    notes: list[str] = []
    try:
        history_facts: HistoryFacts | None = HistoryFacts.of(file, root)
    except UserError as error:
        history_facts = None
        reason = without_root(without_root(error, root), file.parent)
        outside = " has no git history to read" in reason
        reason = "the project is not in a readable git repository" if outside else reason.removesuffix(".")
        notes.append(f"{reason}, so the history was not used")
    if history_facts is not None and history_facts.traced.contradicted:
        raise UserError(f"{file} contradicts the history: {history_facts.traced.notes[0]}. No document is written.")
    root = history_facts.history.root if history_facts else root
    scored = evaluation_lineage(root)
    scored = scored if scored and scored["model"]["tensors"] == tensors else None
    splits = _splits(root, history_facts, lineage["training"], scored, notes)
    of_split = splits.get(scored["split"]) if scored else None
    annotations = (
        _recorded(root, history_facts, lineage["training"], scored, f"annotations/{of_split.name}.json")
        if of_split
        else None
    )
    evaluation, evaluation_notes = read_evaluation(
        root, tensors, annotations, (of_split.metadata if of_split else None) or {}
    )
    if evaluation is None and of_split:
        splits = _splits(root, history_facts, lineage["training"], None, [])
    elif evaluation is not None and of_split and of_split.objects is None:
        counted = {"images": evaluation.metrics["images"], "objects": evaluation.metrics["objects"]}
        splits[of_split.name] = Split(**{**vars(of_split), **counted})
    return Facts(
        file=file,
        root=root,
        checkpoint=checkpoint,
        lineage=lineage,
        history_facts=history_facts,
        digests={part.name: files.sha256_file(part) for part in parts_of(file)},
        exported=exported,
        evaluation=evaluation,
        splits=splits,
        run=dict(history_facts.run or {}) if history_facts else {},
        durations=_durations(root, history_facts, notes),
        notes=(*notes, *evaluation_notes),
    )


def _splits(
    root: Path,
    history_facts: HistoryFacts | None,
    training: Mapping[str, Any],
    scored: Mapping[str, Any] | None,
    notes: list[str],
) -> dict[str, Split]:
    """The splits of the training and of the evaluation."""
    splits: dict[str, Split] = {}
    names = list(dict.fromkeys((*training["counts"], *([scored["split"]] if scored else ()))))
    for name in names:
        inputs = dict(training["inputs"])
        if scored and scored["split"] == name:
            inputs |= {path: digests["sha256"] for path, digests in scored["inputs"].items()}
        paths = (f"annotations/{name}.json", f"manifest/{name}.json", "annotations/classes.json")
        uses = ((_USES.get(name, TRAINED),) if name in training["counts"] else ()) + (
            (SCORED,) if scored and scored["split"] == name else ()
        )
        content, manifest = (_recorded(root, history_facts, training, scored, path) for path in paths[:2])
        counts = training["counts"].get(name)
        splits[name] = Split(
            name=name,
            uses=uses,
            images=counts["images"] if counts else len(rows_of(manifest, paths[1])) if manifest else 0,
            objects=counts["objects"] if counts else None,
            digests={path: inputs[path] for path in paths if path in inputs},
            roots=dict((training.get("roots") or {}).get(name) or {}),
            classes=_objects(content),
            metadata=_metadata(root, history_facts, name, inputs.get(paths[1]), notes),
        )
    return splits


def _recorded(
    root: Path,
    history_facts: HistoryFacts | None,
    training: Mapping[str, Any],
    scored: Mapping[str, Any] | None,
    name: str,
) -> bytes | None:
    of_scored = (scored or {}).get("inputs", {}).get(name) or {}
    sha256 = of_scored.get("sha256") or training["inputs"].get(name)
    blob = of_scored.get("git") or training["files"].get(name, {}).get("git")
    path = root / name
    if sha256 is None:
        return None
    if path.is_file() and files.sha256_file(path) == sha256:
        return files.read_bytes(path)
    content = next(history_facts.history.read([blob]))[1] if history_facts and blob else None
    return content if content is not None and files.sha256_bytes(content) == sha256 else None


def _objects(annotations: bytes | None) -> dict[str, int] | None:
    """Objects by class, in the order of the class table."""
    if annotations is None:
        return None
    try:
        content = files.parse_json(annotations)
        counts = Counter(row["category_id"] for row in content["annotations"])
        return {str(row["name"]): counts[row["id"]] for row in content["categories"]}
    except (
        ValueError,
        KeyError,
        TypeError,
    ):  # the digest was compared with the record, so the content was valid when it was recorded
        return None


def _metadata(
    root: Path, history_facts: HistoryFacts | None, split: str, manifest: str | None, notes: list[str]
) -> dict[str, dict[str, str]] | None:
    """The metadata of a split's images: from the commit of the model, else the local file.

    The metadata of a place is used only if the manifest in the same place is the recorded manifest. None if no metadata
    is used.
    """
    project = ProjectPaths(root, manifests=root / "manifest", metadata=root / "metadata")
    path, beside = project.metadata_of(split), project.split(split)[1]
    name = f"metadata/{split}.csv"
    is_usable = path.is_file() and beside.is_file() and files.sha256_file(beside) == manifest
    content = files.read_bytes(path) if is_usable else None
    if history_facts is not None and history_facts.traced.links:
        commit = history_facts.traced.links[0].commit.id
        committed_manifest, committed = (
            blob for _, blob in history_facts.history.read([f"{commit}:./manifest/{split}.json", f"{commit}:./{name}"])
        )
        if committed_manifest is not None and files.sha256_bytes(committed_manifest) == manifest:
            if content is not None and content != committed:
                notes.append(f"{name} differs from its version in the model's commit, so the committed version is used")
            content = committed or b"path\n"
    try:
        return None if content is None else parse_metadata(content, name)
    except UserError as error:
        notes.append(f"{without_root(error, root)}, so licences and sources in {split} are not known")
        return None


def _durations(root: Path, history_facts: HistoryFacts | None, notes: list[str]) -> dict[str, float]:
    """Seconds by stage, from journal entries with the command, inputs and results of this model in dvc.lock."""
    links = history_facts.traced.links if history_facts else ()
    if not links:
        return {}
    try:
        journal_entries = entries(root).values()
    except UserError as error:
        notes.append(f"the journal is not used: {without_root(error, root)}")
        return {}
    stages = {**links[0].lock.stages, **{link.stage: link.entry for link in links}}
    durations = {}
    for stage, entry in stages.items():
        for run in journal_entries:
            outs = {path: out["md5"] for path, out in run["outs"].items()}
            result = (run["stage"], run["cmd"], run["params"], run["deps"], outs)
            if result == (stage, entry.cmd, json_params(entry.params), entry.deps, entry.outs):
                durations[stage] = float(run["run"]["seconds"])
    return durations
