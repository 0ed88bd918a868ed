"""`check` refuses the files that DVC refuses; its advice works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.run_cache import KEPT_LOCK
from rfdetr_core.config.dvc_files import check_dvc_files

KEEP = (
    "python -c 'from rfdetr_core.base.run_cache import keep_lock; keep_lock()'"  # the beginning of every stage command
)
STAGES = {
    "one": {"cmd": f"{KEEP}; cp source.txt one.txt", "deps": ["source.txt"], "outs": ["one.txt"]},
    "two": {"cmd": f"{KEEP}; cp one.txt two.txt", "deps": ["one.txt"], "outs": ["two.txt"]},
}
# DVC that kills itself when it has written a part of dvc.lock for the n-th time.
KILLED = """
import io, os, sys, time
from dvc.cli import main
from dvc.utils.serialize import _yaml

number, part, signal = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
dump = _yaml._dump

def cut(data, stream):
    global number
    if str(getattr(stream, "name", "")).endswith("dvc.lock"):
        number -= 1
        if number == 0:
            whole = io.StringIO()
            dump(data, whole)
            stream.write(whole.getvalue()[: int(part * len(whole.getvalue()))])
            stream.flush()
            os.kill(os.getpid(), signal)
            time.sleep(60)
    return dump(data, stream)

_yaml._dump = cut
sys.exit(main(["repro"]))
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two stages that ran; dvc.lock is not committed."""
    folder = tmp_path_factory.mktemp("dvc_files")
    (folder / "source.txt").write_text("1")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -qm start", "dvc repro -q"):
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost") if "commit" in command else ()
        first, *arguments = command.split()
        assert run(folder, first, *identity, *arguments).returncode == 0
    return folder


def test_a_lock_that_dvc_refuses_is_repaired(project: Path) -> None:
    lock = project / "dvc.lock"
    complete = lock.read_bytes()
    backup = (project / KEPT_LOCK).read_bytes()
    refused = 0
    with Repo(str(project)) as repo:
        for length in range(0, len(complete), 7):
            (project / KEPT_LOCK).write_bytes(backup)
            lock.write_bytes(complete[:length])
            try:
                Lockfile(repo, str(lock)).load()
            except DvcException:
                refused += 1
                (message,) = check_dvc_files(project)
                assert "was replaced by the copy from the last start" in message
                assert lock.read_bytes() == backup  # with stage one only: the backup was written when two began
                assert (project / KEPT_LOCK).with_name("dvc.lock.cut").read_bytes() == complete[:length]
            else:
                assert list(check_dvc_files(project)) == []
    assert 0 < refused < len(complete)

    message = run(project, "dvc", "repro").stdout
    assert "is cached" in message
    assert "Running stage" not in message
    assert lock.read_bytes() == complete


@pytest.mark.parametrize(
    ("stage", "part", "number"),
    [(1, 0, signal.SIGTERM), (1, 0.5, signal.SIGKILL), (2, 0, signal.SIGKILL), (2, 0.7, signal.SIGTERM)],
)
def test_the_pipeline_continues_after_dvc_was_killed_while_writing_its_lock(
    project: Path, tmp_path: Path, stage: int, part: float, number: signal.Signals
) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", symlinks=True)
    complete = (copy / "dvc.lock").read_bytes()
    for name in ("dvc.lock", "one.txt", "two.txt", ".dvc/cache", KEPT_LOCK):
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    done = run(copy, sys.executable, "-c", KILLED, str(stage), str(part), str(int(number)))
    assert done.returncode == -number, done
    assert (copy / "dvc.lock").stat().st_size < len(complete)
    damaged = run(copy, "dvc", "status").returncode != 0
    assert damaged or part  # some truncated files are a valid dvc.lock with fewer entries
    assert [line for line in check_dvc_files(copy) if "dvc.lock" in line and "truncated" in line] or not damaged
    second_run = run(copy, "dvc", "repro")
    assert second_run.returncode == 0, second_run.stderr
    assert (copy / "dvc.lock").read_bytes() == complete


def test_a_lock_with_a_conflict_is_left_to_the_user(project: Path) -> None:
    lock = project / "dvc.lock"
    complete = lock.read_bytes()
    conflict = complete + b"<<<<<<< HEAD\n  three: {}\n=======\n  four: {}\n>>>>>>> other\n"
    indented = complete.replace(b"    deps:\n", b"  deps:\n", 1)
    for damaged in (conflict, indented, b"not " + complete):
        lock.write_bytes(damaged)
        with pytest.raises(UserError, match=r"dvc\.lock is damaged"):
            list(check_dvc_files(project))
        assert lock.read_bytes() == damaged
    lock.write_bytes(complete)


def test_a_valid_lock_is_copied_as_the_backup(project: Path) -> None:
    (project / KEPT_LOCK).write_bytes(b"schema: '2.0'\nstages: {}\n")  # for example of another branch
    complete = (project / "dvc.lock").read_bytes()
    assert list(check_dvc_files(project)) == []
    (project / "dvc.lock").write_bytes(b"")
    assert len(list(check_dvc_files(project))) == 1
    assert (project / "dvc.lock").read_bytes() == complete


def test_a_committed_lock_is_restored(project: Path) -> None:
    lock = project / "dvc.lock"
    complete = lock.read_bytes()
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "result")
    lock.write_bytes(complete[:30])
    (project / KEPT_LOCK).unlink()  # as in another clone
    with pytest.raises(UserError, match=r"git restore dvc\.lock\. Then run: dvc repro"):
        list(check_dvc_files(project))
    assert run(project, "git", "restore", "dvc.lock").returncode == 0
    assert list(check_dvc_files(project)) == []
    assert lock.read_bytes() == complete


@pytest.mark.parametrize("content", ["", '{"write": []}'])
def test_a_truncated_rwlock_is_removed_when_no_dvc_is_running(project: Path, content: str) -> None:
    rwlock = project / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text(content)
    assert run(project, "dvc", "repro", "--force", "one").returncode != 0

    dvc = subprocess.Popen(["bash", "-c", "exec -a dvc sleep 60"], cwd=project)
    try:
        deadline = time.monotonic() + 30
        while Path(f"/proc/{dvc.pid}/cmdline").read_bytes() != b"dvc\x0060\x00":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(UserError, match=f"process {dvc.pid}"):
            list(check_dvc_files(project))
        assert rwlock.read_text() == content
    finally:
        dvc.kill()
        dvc.wait()

    (message,) = check_dvc_files(project)
    assert message == f"a killed `dvc` truncated {rwlock}. The file was removed"
    assert not rwlock.exists()
    assert run(project, "dvc", "repro", "--force", "one").returncode == 0
    assert list(check_dvc_files(project)) == []
