"""The command `plan`: which stages `dvc repro` will run, why, and for how long. Runs and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rfdetr_core.base.code import STAGE
from rfdetr_core.base.errors import listed
from rfdetr_core.base.params import PARAMS_FILE, read_section
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.verification.changed import Difference, differences_by_stage, later_stages, read_pipeline
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.durations import Duration, duration_text, durations
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.restored import restored_stages
from rfdetr_core.verification.resumable import STATE, interrupted

_FORCED = Difference("other", "it was requested")
_READS = Difference("other", "its inputs changed since its last run")


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is not up to date.

    Attributes:
        name: Its name.
        verdict: "runs"; "may run" if that depends on what an earlier stage writes; "cached" if DVC restores it.
        reasons: What differs from dvc.lock.
        last: Its last run; None if it is not known.
        first: Whether dvc.lock has no entry of it.
        finished_epochs: The epochs that an interrupted training has finished; 0 if there is none.
        epochs: The number of epochs of the training that is resumed.
    """

    name: str
    verdict: str
    reasons: tuple[Difference, ...] = ()
    last: Duration | None = None
    first: bool = False
    finished_epochs: int = 0
    epochs: int = 0

    @property
    def seconds(self) -> float | None:
        """The expected duration, from the last run; None if it is not known."""
        if self.verdict == "cached":
            return 0.0
        if self.last is None:
            return None
        return self.last.seconds * (1 - self.finished_epochs / self.epochs if self.finished_epochs else 1)

    @property
    def sentence(self) -> str:
        """What will happen to the stage, in words, without its name and the reasons."""
        if self.verdict == "cached":
            return "will be restored from DVC's cache"
        verb = f"{'will' if self.verdict == 'runs' else 'may'} {'run' if self.first else 'rerun'}"
        if self.name == STAGE:
            return f"{verb} (a second)"
        time = "duration not known" if self.seconds is None else f"about {duration_text(self.seconds)}"
        machine = " on the machine of the last run" if self.seconds is not None and self.verdict == "runs" else ""
        resuming = f", resuming after epoch {self.finished_epochs} of {self.epochs}" if self.finished_epochs else ""
        return f"{verb} ({time}{machine}{resuming})"


@dataclass(frozen=True)
class Plan:
    """The stages that are not up to date, in the order in which they run, and notes for the user."""

    stages: tuple[PlannedStage, ...]
    notes: tuple[str, ...] = ()

    def having(self, *verdicts: str) -> list[PlannedStage]:
        """The stages with one of these verdicts."""
        return [stage for stage in self.stages if stage.verdict in verdicts]

    def total(self, *verdicts: str) -> tuple[float, list[str]]:
        """The summed seconds of the stages with these verdicts, and the stages whose duration is not known."""
        stages = [stage for stage in self.having(*verdicts) if stage.name != STAGE]
        return sum(stage.seconds or 0 for stage in stages), [stage.name for stage in stages if stage.seconds is None]

    def total_in_words(self) -> str:
        """The duration of the stages that run, and of those that may run, in words; empty if none is known."""
        (runs, unknown), (most, not_known) = self.total("runs"), self.total("runs", "may run")
        if not most:
            return ""
        parts = [f"about {duration_text(runs)}{_without_text(unknown)}"] if runs else []
        if self.having("may run") and (duration_text(most), not_known) != (duration_text(runs), unknown):
            condition = "with all stages that may rerun," if runs else "if all stages rerun,"
            parts.append(f"{condition} about {duration_text(most)}{_without_text(not_known)}")
        return "; ".join(parts)

    def machines(self) -> list[tuple[str, list[str]]]:
        """The machines of the last runs, each with the stages that ran there."""
        by_machine: dict[str, list[str]] = {}
        for stage in self.having("runs", "may run"):
            if stage.last is not None:
                by_machine.setdefault(stage.last.machine, []).append(stage.name)
        return list(by_machine.items())

    def lines(self) -> list[str]:
        """The plan as lines of text."""
        width = max((len(stage.name) for stage in self.stages), default=0)
        lines = [f"{stage.name:{width}} {stage.sentence}{_reasons_text(stage.reasons)}" for stage in self.stages]
        total = self.total_in_words()
        lines += [f"in all: {total}"] if total else []
        lines += [
            f"durations are those of the last run on {machine}: {', '.join(stages)}"
            for machine, stages in self.machines()
        ]
        return [*(lines or ["no stage runs"]), *(f"note: {note}" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """The plan as values for JSON."""
        (runs, _), (most, unknown) = self.total("runs"), self.total("runs", "may run")
        return {
            "stages": [_stage_to_dict(stage) for stage in self.stages],
            "seconds": {"runs": round(runs, 1), "all": round(most, 1)},
            "unknown": unknown,
            "notes": list(self.notes),
        }


def plan(root: Path, *, force: bool = False, compare_local: bool = True) -> Plan:
    """Compare the project at `root` with dvc.lock, and read how long its stages took.

    Args:
        root: The project.
        force: Every stage runs, as with `dvc repro --force`.
        compare_local: See `differences_by_stage`. False gives the plan for a clone that will pull the data first.

    Raises:
        UserError: dvc.yaml, params.yaml, dvc.lock or the code cannot be read.
    """
    contents, pipeline = Contents(root), read_pipeline(root)
    differ = differences_by_stage(contents, pipeline, compare_local=compare_local)
    cached, rerun = (
        restored_stages(contents, pipeline, set(differ)) if differ and not force else (set[str](), set[str]())
    )
    notes = _notes(contents, pipeline) if compare_local else []
    if force:
        differ = {name: differ.get(name) or [_FORCED] for name in pipeline.stages}
    differ |= {name: [_READS] for name in rerun | cached if name not in differ}
    runs = differ.keys() - cached
    later = set(later_stages(pipeline.stages, runs)) - cached
    train = _train_config(root)
    last = durations(root, train.epochs if train else None)
    state = interrupted(root) if "train" in runs | later else None
    stages = []
    for name in pipeline.stages:
        verdict = "cached" if name in cached else "runs" if name in runs else "may run" if name in later else None
        if verdict:
            first = name not in pipeline.lock.stages
            stages.append(PlannedStage(name, verdict, tuple(differ.get(name, ())), last.get(name), first))
    if state and state.differs:
        notes.append(f"{STATE} belongs to another training, so train starts from scratch: {state.differs}")
    elif state and train and not force and not {"validate", "convert"} & (runs | later):
        stages = [
            replace(stage, finished_epochs=min(state.epochs, train.epochs), epochs=train.epochs)
            if stage.name == "train"
            else stage
            for stage in stages
        ]
    return Plan(tuple(stages), tuple(notes))


def _notes(contents: Contents, pipeline: Pipeline) -> list[str]:
    """Notes on data that differs from its .dvc file, and on files that DVC needs and that must be pulled."""
    makers = {path for stage in pipeline.stages.values() for path in stage.outs}
    files = {path: md5 for entry in pipeline.lock.stages.values() for path, md5 in (entry.deps | entry.outs).items()}
    files = {path: md5 for path, md5 in files.items() if path in makers and not contents.in_git(path)}
    present = {path for path in files | contents.pointers if (contents.root / path).exists()}
    lost = (path for path, md5 in (files | contents.pointers).items() if not contents.cached(md5).is_file())
    missing = sorted(path for path in lost if path not in present)
    notes = []
    if missing:
        notes.append(f"missing: {listed(missing)}. Run dvc pull first; otherwise DVC reruns the stages that write them")
    for path, md5 in contents.pointers.items():
        if path in present and contents.md5(path) != md5:
            notes.append(
                f"{path} differs from {path}.dvc. To keep the new files: dvc add {path}. "
                f"To restore the old files: dvc checkout {path}"
            )
    return notes


def _reasons_text(reasons: Sequence[Difference]) -> str:
    return f" since {listed(reason.text for reason in reasons)}" if reasons else ""


def _train_config(root: Path) -> TrainConfig | None:
    params = root / PARAMS_FILE
    return read_section(TrainConfig, "train", params) if params.is_file() else None


def _without_text(stages: Sequence[str]) -> str:
    return f", without {listed(stages)}, whose duration is not known" if stages else ""


def _stage_to_dict(stage: PlannedStage) -> dict[str, Any]:
    reasons = [asdict(reason) | {"text": reason.text} for reason in stage.reasons]
    last = stage.last
    return {
        "stage": stage.name,
        "verdict": stage.verdict,
        "reasons": reasons,
        "seconds": None if stage.seconds is None else round(stage.seconds, 1),
        "last": None if last is None else {"began": last.began, "machine": last.machine, "entry": last.entry},
        "resumes_after": stage.finished_epochs or None,
    }
