"""`make check`, CI and a commit run the same commands, except for the slow tests."""

from __future__ import annotations

import subprocess

import yaml

from rfdetr_core.base.code import ROOT
from tests.pipeline.project import environment_without


def commands(target: str) -> list[str]:
    """The commands that make would run for a target, without the installation."""
    installed = ("-o", ".venv/.runtime", "-o", ".venv/.dev", "-o", ".venv/.project")
    # Without these variables: under `make test`, make would also print the folder that it enters.
    environment = environment_without("MAKE", "MFLAGS")
    command = ["make", "-n", *installed, target]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_check_leaves_out_the_slow_tests_and_nothing_else() -> None:
    *lint, tests = commands("test")
    assert lint == commands("lint")
    assert commands("check") == [*lint, f'{tests} -m "not slow"']


def test_a_commit_is_linted_as_in_ci() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]]
    assert hooks == [line.removesuffix(" .") for line in commands("lint")]


def test_ci_runs_everything() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make repro", "make test"]
