"""The npm programs that tests run. tests/ci/package.json has their versions, its lock file their digests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from rfdetr_core.base.code import ROOT

FOLDER = ROOT / "tests" / "ci"
MODULES = FOLDER / "node_modules"  # ignored by git
OLDEST = 20  # the oldest node with which both programs run


def node_modules() -> Path:
    """Install the locked packages if necessary; returns their folder. Without node, skips the test, or fails in CI."""
    versions = [_version(name) for name in ("node", "npm")]
    if versions[0] < OLDEST or not versions[1]:
        _absent(f"no npm with node {OLDEST} or later here: apt-get install nodejs npm")
    lock, stamp = FOLDER / "package-lock.json", MODULES / ".of-the-lock"
    with (FOLDER / ".npm.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # against two workers of pytest
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
            if done.returncode:
                _absent(f"npm cannot install tests/ci/package-lock.json: {done.stderr.strip()}")
            shutil.copyfile(lock, stamp)
    return MODULES


def _absent(message: str) -> NoReturn:
    pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


def _version(name: str) -> int:
    """The major version of a command; 0 if it does not exist."""
    if shutil.which(name) is None:
        return 0
    done = subprocess.run([name, "--version"], capture_output=True, text=True, check=False)
    return int(done.stdout.strip().removeprefix("v").partition(".")[0] or 0)
