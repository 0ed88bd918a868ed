"""Helpers that start `dvc repro`, kill it, and examine the files that remain."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.dvc_config import cache_folder
from rfdetr_core.base.errors import UserError
from rfdetr_core.lineage.lock import LOCK, Lock
from tests.pipeline.project import Project

# dash is sh on Debian, so on most CI runners. Without `exec` it stays the parent process of its command.
SHELLS = ("/bin/bash", "/bin/sh")
LINKS = ("copy", "hardlink", "symlink")


@dataclass
class Process:
    pid: int
    parent: int
    command: str


def processes(project: Project) -> list[Process]:
    """The living processes whose working folder is the project."""
    alive = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "cwd").readlink() == project.folder:
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    alive.append(Process(int(place.name), int(parent), command))
        except OSError:
            continue
    return alive


def started(project: Project, shell: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `dvc repro` as the leader of a new process group."""
    return subprocess.Popen(
        ["dvc", "repro", *arguments], cwd=project.folder, env=project.environment() | {"SHELL": shell}, text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(project: Project, dvc: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until all processes of the project have ended. Returns exit status and output of `dvc`."""
    output = dvc.communicate(timeout=120)[0]
    deadline = time.monotonic() + 20
    while processes(project):
        assert time.monotonic() < deadline, processes(project)
        time.sleep(0.05)
    return dvc.returncode, output


def repair(project: Project) -> str:
    """If a kill left a truncated file, run `check` and follow its advice. Returns its output."""
    if not any(_truncated(project)):
        return ""
    done = project.run("python", "-m", "rfdetr_core", "check", check=False)
    if done.returncode:
        assert f"git restore {LOCK}" in done.stderr, done.stderr
        project.run("git", "restore", LOCK)
        project.run("python", "-m", "rfdetr_core", "check")
    assert not any(_truncated(project))
    return done.stdout + done.stderr


def _truncated(project: Project) -> Iterator[bool]:
    rwlock = project.folder / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(rwlock.read_text() if rwlock.exists() else "{}")
    except ValueError:
        yield True
    try:
        Lock.read(project.folder)
    except UserError:
        yield (project.folder / LOCK).exists()


def changed_in_cache(project: Project) -> list[str]:
    """The objects of DVC's cache whose content does not match the MD5 in their name."""
    objects = [path for path in (cache_folder(project.folder) / "files" / "md5").glob("??/*") if "." not in path.stem]
    return [str(path) for path in objects if files.md5_file(path) != path.parent.name + path.name.removesuffix(".dir")]
