"""`dvc repro`, interrupted at any moment and started again, ends with the bytes of an uninterrupted run."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rfdetr_core.checkpoint.files import read_plain
from rfdetr_core.verification.plan import plan
from tests.pipeline.killing import (
    LINKS,
    SHELLS,
    Process,
    changed_in_cache,
    ended,
    processes,
    repair,
    started,
)
from tests.pipeline.project import Project, add_prose
from tests.training.tiny import MODEL, OUTS, TRAIN, make_files

pytestmark = pytest.mark.slow
EPOCHS = 14
KILLS = [
    ("group", signal.SIGINT),  # Ctrl-C
    ("dvc", signal.SIGTERM),
    ("dvc", signal.SIGKILL),
    ("trainer", signal.SIGINT),
    ("trainer", signal.SIGTERM),
    ("trainer", signal.SIGKILL),
    ("worker", signal.SIGKILL),
]


def create(folder: Path, **train: object) -> Project:
    """A committed project before the stage train, whose detector will score above 0."""
    params = {
        "model": dict(MODEL),
        "train": {**TRAIN, **train},
        "runtime": {"num_workers": 1, "checkpoint_interval": 3},
    }
    project = Project.create(folder / "project", params)
    made = make_files(folder / "made")
    for split, source in (("train", "train"), ("valid", "valid"), ("test", "valid")):
        target = project.folder / "data" / "tiny" / split
        shutil.rmtree(target)
        shutil.copytree(made.dataset / source, target)
        content = json.loads((made.annotations / f"{source}.json").read_text())
        for image in content["images"]:
            image["file_name"] = Path(image["file_name"]).name
        (target / "_annotations.coco.json").write_text(json.dumps(content))
        if split == "test":  # so that its bytes differ from those of valid
            for path in target.glob("*.png"):
                path.write_bytes(path.read_bytes() + b"\0")
    project.repro("convert")
    project.commit("converted")
    return project


def forget(project: Project) -> None:
    """Remove the training and its results."""
    project.run("git", "checkout", "-q", "--", ".")
    for folder in ("output", ".dvc/cache/runs"):
        shutil.rmtree(project.folder / folder, ignore_errors=True)


def outs(project: Project) -> dict[str, bytes]:
    return {name: (project.folder / "output" / name).read_bytes() for name in OUTS}


def trained_epochs(project: Project) -> int:
    path = project.folder / "output" / "checkpoint.pth"
    return int(read_plain(path)["epoch"]) + 1 if path.exists() else 0


def trainers(project: Project) -> list[Process]:
    """The trainer, or the ranks that a launcher started, and after them their loader workers."""
    return sorted(
        (process for process in processes(project) if "stages.train" in process.command),
        key=lambda process: process.pid,
    )


def wait_for(condition: Callable[[], object], dvc: subprocess.Popen[str]) -> None:
    """Wait until the condition holds, or `dvc` has ended."""
    deadline = time.monotonic() + 120
    while not condition() and dvc.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for_moment(
    project: Project, dvc: subprocess.Popen[str], moment: str, chance: float, best: int, span: float
) -> None:
    """Wait until the moment of a kill.

    Args:
        project: the project.
        dvc: the running `dvc repro`.
        moment: early: while dvc and the trainer start. any: in preparation or an epoch. writing: while a checkpoint is
            written. late: after the best epoch. finished: after all epochs.
        chance: a random number from 0 to 1.
        best: the best epoch.
        span: seconds of preparation and epochs.
    """
    output = project.folder / "output"
    if moment == "early":
        time.sleep(5 * chance)
        return
    wait_for(lambda: writes(project), dvc)
    if moment == "any":
        time.sleep(span * chance)
    elif moment == "writing":
        wait_for(lambda: list(output.glob(".checkpoint*.pth.*")), dvc)
    elif moment == "late":
        wait_for(lambda: trained_epochs(project) > best + 1, dvc)
        time.sleep(chance * span / EPOCHS)
    elif moment == "finished":
        wait_for(lambda: trained_epochs(project) == EPOCHS, dvc)


def kill(project: Project, dvc: subprocess.Popen[str], victim: str, number: signal.Signals, chance: float) -> None:
    running = trainers(project)
    workers = [process for process in running if process.parent == running[0].pid]
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        if victim == "dvc":
            dvc.send_signal(number)
        elif victim == "group":
            os.killpg(dvc.pid, number)
        elif running and (victim == "trainer" or workers):
            os.kill(running[0].pid if victim == "trainer" else workers[int(chance * len(workers))].pid, number)


def writes(project: Project) -> bool:
    lock = project.folder / "output" / ".lock"
    return any(str(process.pid) == lock.read_text() for process in trainers(project)) if lock.exists() else False


def test_killed_at_twenty_moments_the_bytes_are_those_of_an_uninterrupted_run(tmp_path: Path) -> None:
    project, draw = create(tmp_path, epochs=EPOCHS, lr=3e-3), random.Random(0)
    dvc = started(project, SHELLS[0], "train")
    wait_for(lambda: writes(project), dvc)
    begun = time.monotonic()
    dvc.send_signal(signal.SIGINT)  # DVC ignores this signal while a stage runs; it is meant for the group
    wait_for(lambda: trained_epochs(project) == EPOCHS, dvc)
    span = time.monotonic() - begun
    assert ended(project, dvc)[0] == 0
    whole = outs(project)
    scores = json.loads(whole["scores.json"])
    best = max(best_entry["epoch"] for best_entry in scores["val/mAP_50"].values()) - 1
    assert best < EPOCHS - 4
    forget(project)

    kills = [(*kill, moment) for kill in KILLS for moment in ("any", "writing")]
    kills = draw.sample(kills, len(kills)) + [(*kill, "late") for kill in (KILLS[1], KILLS[5], KILLS[6])]
    kills += [("dvc", signal.SIGKILL, "early"), ("group", signal.SIGINT, "early"), ("dvc", signal.SIGKILL, "finished")]
    assert len(kills) == 20
    best_was_behind = resumed = 0
    links = itertools.cycle(LINKS[1:] + LINKS[:1])
    for place, (victim, number, moment) in enumerate(kills):
        before = trained_epochs(project)
        add_prose(project.folder / "rfdetr_core" / "loss" / "matcher.py")  # a comment does not change the training
        dvc = started(project, SHELLS[place % 2], "train")
        wait_for_moment(project, dvc, moment, draw.random(), best, span)
        kill(project, dvc, victim, number, draw.random())
        status, printed = ended(project, dvc)
        repair(project)
        after = trained_epochs(project)
        print(victim, number.name, moment, status, f"{before} -> {after}", printed, flush=True)
        # The signal may also have hit DVC before the stage, or after the training; those texts are DVC's.
        of_stage = printed.partition("Running stage 'train'")[2]
        assert "Traceback" not in (of_stage.partition("best val/")[0] if victim == "group" else of_stage)
        resumed += f"resuming after epoch {before} " in printed
        best_was_behind += best < after < EPOCHS
        if status and after < EPOCHS and moment != "early" and victim != "dvc" and number != signal.SIGKILL:
            assert f"stopped by {number.name}" in printed
        if status and victim == "worker":
            assert "a process that reads images ended" in printed
        if after == EPOCHS:
            if status:
                printed = project.run("dvc", "repro", "train").stdout
                # The signal may have come after DVC had recorded the stage; then it does not run again.
                assert ("had finished" in printed) == ("Running stage 'train'" in printed)
                assert f"epoch {EPOCHS}/{EPOCHS}" not in printed
            assert outs(project) == whole
            assert not changed_in_cache(project)
            forget(project)
            project.run("dvc", "config", "--local", "cache.type", next(links))
    assert resumed >= 5
    assert best_was_behind >= 2

    project.repro("train")
    assert outs(project) == whole
    assert f"epoch 1/{EPOCHS}" in project.run("dvc", "repro", "--force", "train").stdout
    assert outs(project) == whole


def test_two_processes_train_under_dvc_and_resume_after_one_was_killed(tmp_path: Path) -> None:
    project = create(tmp_path, epochs=4, batch_size=1, devices=2, strategy="ddp", accelerator="cpu")
    project.run("torchrun", "--nproc-per-node=2", "-m", "stages.train")
    whole = outs(project)
    forget(project)

    dvc = started(project, SHELLS[1], "train")
    wait_for(lambda: trained_epochs(project), dvc)
    rank = trainers(project)[1]
    os.kill(rank.pid, signal.SIGKILL)
    at = time.monotonic()
    status, printed = ended(project, dvc)
    assert status != 0
    assert time.monotonic() - at < 60
    before = trained_epochs(project)
    assert 0 < before < 4
    (train,) = (stage for stage in plan(project.folder).stages if stage.name == "train")
    assert f"resuming after epoch {before} of 4" in train.sentence
    project.set_params(train={"lr": 2e-3})
    (note,) = plan(project.folder).notes
    assert "params.train.lr was " in note
    project.run("git", "checkout", "-q", "--", "params.yaml")
    printed = project.run("dvc", "repro", "train").stdout
    assert f"resuming after epoch {before} " in printed
    assert json.loads((project.folder / "output" / "run.json").read_text())["run"]["epochs_here"] == 4 - before
    assert outs(project) == whole
