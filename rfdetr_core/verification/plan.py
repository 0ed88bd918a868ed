"""What `dvc repro` will run, why, and for how long. Nothing is run, pulled or written."""

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
from rfdetr_core.verification.restored import restored
from rfdetr_core.verification.resumable import STATE, interrupted

_ASKED = Difference("other", "it was asked for")
_READS = Difference("other", "what it reads is not what it read last")


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is not up to date.

    verdict: "runs"; "may run", where it depends on what a stage before it writes; "cached", where DVC restores it.
    last: its last run; None: not known. first: dvc.lock has no entry of it. resumes: the epochs that an interrupted
    training has finished, of `epochs`.
    """

    name: str
    verdict: str
    reasons: tuple[Difference, ...] = ()
    last: Duration | None = None
    first: bool = False
    resumes: int = 0
    epochs: int = 0

    @property
    def seconds(self) -> float | None:
        """What it will take, as it took last time; None where nothing is known."""
        if self.verdict == "cached":
            return 0.0
        if self.last is None:
            return None
        return self.last.seconds * (1 - self.resumes / self.epochs if self.resumes else 1)

    @property
    def sentence(self) -> str:
        """What happens to it, in words: without its name and the reasons."""
        if self.verdict == "cached":
            return "will be restored from DVC's cache"
        verb = f"{'will' if self.verdict == 'runs' else 'may'} {'run' if self.first else 'rerun'}"
        if self.name == STAGE:
            return f"{verb} (a second)"
        time = "duration not known" if self.seconds is None else f"about {duration_text(self.seconds)}"
        where = " on the machine of the last run" if self.seconds is not None and self.verdict == "runs" else ""
        rest = f", resuming after epoch {self.resumes} of {self.epochs}" if self.resumes else ""
        return f"{verb} ({time}{where}{rest})"


@dataclass(frozen=True)
class Plan:
    """The stages that are not up to date, in the order in which they run, and sentences on what else is to be known."""

    stages: tuple[PlannedStage, ...]
    notes: tuple[str, ...] = ()

    def having(self, *verdicts: str) -> list[PlannedStage]:
        """The stages with one of these verdicts."""
        return [stage for stage in self.stages if stage.verdict in verdicts]

    def total(self, *verdicts: str) -> tuple[float, list[str]]:
        """The seconds of the stages with one of these verdicts, and the stages of which no duration is known."""
        stages = [stage for stage in self.having(*verdicts) if stage.name != STAGE]
        return sum(stage.seconds or 0 for stage in stages), [one.name for one in stages if one.seconds is None]

    def total_in_words(self) -> str:
        """The duration of what runs, and of all that may run, in words; empty where nothing is known."""
        (runs, unknown), (most, not_known) = self.total("runs"), self.total("runs", "may run")
        if not most:
            return ""
        parts = [f"about {duration_text(runs)}{_without(unknown)}"] if runs else []
        if self.having("may run") and (duration_text(most), not_known) != (duration_text(runs), unknown):
            parts.append(
                f"{'with all that may rerun' if runs else 'if all reruns'} about {duration_text(most)}{_without(not_known)}"
            )
        return "; ".join(parts)

    def machines(self) -> list[tuple[str, list[str]]]:
        """The machines of the last runs with the stages that ran there."""
        found: dict[str, list[str]] = {}
        for stage in self.having("runs", "may run"):
            if stage.last is not None:
                found.setdefault(stage.last.machine, []).append(stage.name)
        return list(found.items())

    def lines(self) -> list[str]:
        """The plan for people."""
        width = max((len(stage.name) for stage in self.stages), default=0)
        lines = [f"{stage.name:{width}} {stage.sentence}{_since(stage.reasons)}" for stage in self.stages]
        total = self.total_in_words()
        lines += [f"in all: {total}"] if total else []
        lines += [f"durations by the last run on {machine}: {', '.join(stages)}" for machine, stages in self.machines()]
        return [*(lines or ["no stage runs"]), *(f"note: {note}" for note in self.notes)]

    def to_dict(self) -> dict[str, Any]:
        """The plan for programs."""
        (runs, _), (most, unknown) = self.total("runs"), self.total("runs", "may run")
        return {
            "stages": [_plain(stage) for stage in self.stages],
            "seconds": {"runs": round(runs, 1), "all": round(most, 1)},
            "unknown": unknown,
            "notes": list(self.notes),
        }


def plan(root: Path, *, force: bool = False, compare_local: bool = True) -> Plan:
    """Compare the project at `root` with dvc.lock, and read how long its stages took.

    force: every stage runs, as by `dvc repro --force`. compare_local: see `differences_by_stage`; False: a plan for a clone that will
    pull.

    Raises:
        UserError: dvc.yaml, params.yaml, dvc.lock or the code cannot be read.
    """
    contents, pipeline = Contents(root), read_pipeline(root)
    differ = differences_by_stage(contents, pipeline, compare_local=compare_local)
    cached, known = restored(contents, pipeline, set(differ)) if differ and not force else (set[str](), set[str]())
    notes = _notes(contents, pipeline) if compare_local else []
    if force:
        differ = {name: differ.get(name) or [_ASKED] for name in pipeline.stages}
    differ |= {name: [_READS] for name in known | cached if name not in differ}
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
        notes.append(f"{STATE} is of another training, so train starts from scratch: {state.differs}")
    elif state and train and not force and not {"validate", "convert"} & (runs | later):
        stages = [
            replace(one, resumes=min(state.epochs, train.epochs), epochs=train.epochs) if one.name == "train" else one
            for one in stages
        ]
    return Plan(tuple(stages), tuple(notes))


def _notes(contents: Contents, pipeline: Pipeline) -> list[str]:
    """Data that is not as its .dvc file says, and files that DVC needs and that are neither here nor in its cache."""
    makers = {path for stage in pipeline.stages.values() for path in stage.outs}
    files = {path: md5 for entry in pipeline.lock.stages.values() for path, md5 in (entry.deps | entry.outs).items()}
    files = {path: md5 for path, md5 in files.items() if path in makers and not contents.in_git(path)}
    there = {path for path in files | contents.pointers if (contents.root / path).exists()}
    lost = (path for path, md5 in (files | contents.pointers).items() if not contents.cached(md5).is_file())
    gone = sorted(path for path in lost if path not in there)
    notes = []
    if gone:
        notes.append(f"not here: {listed(gone)}. Run dvc pull first, or DVC runs what writes them again")
    for path, md5 in contents.pointers.items():
        if path in there and contents.md5(path) != md5:
            notes.append(f"{path} is not as {path}.dvc says: dvc add {path}, or to go back: dvc checkout {path}")
    return notes


def _since(reasons: Sequence[Difference]) -> str:
    return f" since {listed(one.text for one in reasons)}" if reasons else ""


def _train_config(root: Path) -> TrainConfig | None:
    params = root / PARAMS_FILE
    return read_section(TrainConfig, "train", params) if params.is_file() else None


def _without(stages: Sequence[str]) -> str:
    return f", without {listed(stages)}, whose duration is not known" if stages else ""


def _plain(stage: PlannedStage) -> dict[str, Any]:
    reasons = [asdict(one) | {"text": one.text} for one in stage.reasons]
    last = stage.last
    return {
        "stage": stage.name,
        "verdict": stage.verdict,
        "reasons": reasons,
        "seconds": None if stage.seconds is None else round(stage.seconds, 1),
        "last": None if last is None else {"began": last.began, "machine": last.machine, "entry": last.entry},
        "resumes_after": stage.resumes or None,
    }
