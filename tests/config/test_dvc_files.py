"""`check` refuses what DVC refuses, says what to do, and what it says works."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo

from rfdetr_core.base.errors import UserError
from rfdetr_core.config.dvc_files import check_dvc_files

STAGES = {
    "one": {"cmd": "cp source.txt one.txt", "deps": ["source.txt"], "outs": ["one.txt"]},
    "two": {"cmd": "cp one.txt two.txt", "deps": ["one.txt"], "outs": ["two.txt"]},
}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two stages that ran; dvc.lock is not committed."""
    folder = tmp_path_factory.mktemp("dvc_files")
    (folder / "source.txt").write_text("1")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    for command in ("git init -q", "dvc init -q", "git add -A", "git commit -qm start", "dvc repro -q"):
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost") if "commit" in command else ()
        first, *rest = command.split()
        assert run(folder, first, *identity, *rest).returncode == 0
    return folder


def test_a_lock_is_refused_where_dvc_refuses_it(project: Path) -> None:
    lock = project / "dvc.lock"
    whole = lock.read_bytes()
    refused = 0
    with Repo(str(project)) as repo:
        for length in range(0, len(whole), 7):
            lock.write_bytes(whole[:length])
            try:
                Lockfile(repo, str(lock)).load()
            except DvcException:
                refused += 1
                with pytest.raises(UserError, match=r"dvc\.lock is damaged.*never committed: remove it"):
                    list(check_dvc_files(project))
            else:
                assert list(check_dvc_files(project)) == []
    assert 0 < refused < len(whole)

    lock.write_bytes(b"")
    lock.unlink()  # as the message says
    assert list(check_dvc_files(project)) == []
    told = run(project, "dvc", "repro").stdout
    assert "is cached" in told
    assert "Running stage" not in told
    assert lock.read_bytes() == whole


def test_a_committed_lock_is_restored(project: Path) -> None:
    lock = project / "dvc.lock"
    whole = lock.read_bytes()
    run(project, "git", "add", "-A")
    run(project, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "result")
    lock.write_bytes(whole[:30])
    with pytest.raises(UserError, match=r"git restore dvc\.lock; then dvc repro"):
        list(check_dvc_files(project))
    assert run(project, "git", "restore", "dvc.lock").returncode == 0
    assert list(check_dvc_files(project)) == []
    assert lock.read_bytes() == whole


@pytest.mark.parametrize("content", ["", '{"write": []}'])
def test_a_cut_rwlock_goes_once_no_dvc_is_left(project: Path, content: str) -> None:
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

    (told,) = check_dvc_files(project)
    assert told.startswith(f"removed {rwlock}")
    assert not rwlock.exists()
    assert run(project, "dvc", "repro", "--force", "one").returncode == 0
    assert list(check_dvc_files(project)) == []
