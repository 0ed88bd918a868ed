"""Kills the whole pipeline again and again. It must always end with the same bytes and an undamaged cache.

    python -m benchmarks.kills [--kills 300] [--seed 0] [--folder DIR]

The kills are divided between trainings of one and of two processes, and between DVC's link types. A victim (`dvc`, its
process group, the stage, or one of its children) gets a signal at a random moment. `check` repairs truncated files, or
says how. `dvc repro` resumes, until it ends. Then every out is compared with that of an uninterrupted run, and every
object of the cache with its name.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from rfdetr_core.lineage.lock import Lock
from tests.pipeline.killing import LINKS, SHELLS, changed_in_cache, ended, processes, repair, started
from tests.pipeline.project import Project
from tests.pipeline.test_interruption import create

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KINDS = [(ranks, link) for ranks in (1, 2) for link in LINKS]
RUN_FACTS = "output/record.json"  # not compared: contains the time and the machine of the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="number of kills (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    draw, counted = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for place, (ranks, link) in enumerate(KINDS):
            kills = (options.kills + place) // len(KINDS)
            counted += killed(Path(folder) / f"{ranks}-{link}", ranks, link, kills, draw)
    print(*(f"{count:5} {outcome}" for outcome, count in sorted(counted.items())), sep="\n")


def killed(folder: Path, ranks: int, link: str, kills: int, draw: random.Random) -> Counter[str]:
    """Kill the pipeline `kills` times. Returns the counts of all events.

    The pipeline is killed and resumed until it completes: this is a series. Then it starts from scratch, with the next
    series.

    Args:
        folder: for the project.
        ranks: processes of a training.
        link: how DVC links files (cache.type).
        kills: the number of kills in all series together.
        draw: random numbers.
    """
    several = {"devices": ranks, "strategy": "ddp", "accelerator": "cpu", "batch_size": 1} if ranks > 1 else {}
    project, counted = create(folder, epochs=4, lr=3e-3, **several), Counter[str]()
    project.run("dvc", "config", "--local", "cache.type", link)
    start(project)
    begun = time.monotonic()
    project.run("dvc", "repro")
    span = time.monotonic() - begun
    whole = outs(project)
    start(project)
    while counted["kills"] < kills:
        dvc = started(project, SHELLS[draw.randrange(2)])
        deadline = time.monotonic() + draw.uniform(0, 0.8 * span)
        while dvc.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if dvc.poll() is None:
            victim, number = kill(project, dvc.pid, draw)
            counted.update(["kills", f"{number.name} to {victim}"])
        status, printed = ended(project, dvc)
        of_stages = printed.partition("Running stage")[2]
        assert "Traceback" not in of_stages or "KeyboardInterrupt" in printed, printed
        if message := repair(project):
            counted["dvc.lock was cut" if "dvc.lock is damaged" in message else "rwlock was cut"] += 1
        print(ranks, link, counted["kills"], status, printed.strip().splitlines()[-1:], flush=True)
        if status == 0:
            counted["results"] += 1
            assert outs(project) == whole
            assert not changed_in_cache(project)
            project.run("python", "-m", "rfdetr_core", "verify")
            start(project)
    project.run("dvc", "repro")
    assert outs(project) == whole
    assert not changed_in_cache(project)
    shutil.rmtree(folder)
    return counted


def kill(project: Project, dvc: int, draw: random.Random) -> tuple[str, signal.Signals]:
    """Send a random signal to dvc, its group, or one of its processes. Returns victim and signal."""
    number = draw.choice(SIGNALS)
    below = sorted((process for process in processes(project) if process.pid != dvc), key=lambda process: process.pid)
    victim = draw.choice(["dvc", "group", *(["stage"] if below else []), *(["child"] if len(below) > 1 else [])])
    pid = {"stage": below[:1], "child": below[1:]}.get(victim)
    with contextlib.suppress(ProcessLookupError):
        if victim == "group":
            os.killpg(dvc, number)
        else:
            os.kill(draw.choice(pid).pid if pid else dvc, number)
    return victim, number


def start(project: Project) -> None:
    """Remove all results, so that the next run is the first."""
    project.run("git", "checkout", "-q", "--", ".")
    project.run("git", "clean", "-q", "-f", "-d")
    for folder in ("output", "annotations", "reports", ".dvc/cache", ".cache"):
        shutil.rmtree(project.folder / folder, ignore_errors=True)


def outs(project: Project) -> dict[str, str]:
    """The MD5 of every out in dvc.lock, after `dvc status` has confirmed them."""
    assert not project.changed_stages()
    return {path: md5 for _, path, md5 in Lock.read(project.folder).outs() if path != RUN_FACTS}


if __name__ == "__main__":
    main()
