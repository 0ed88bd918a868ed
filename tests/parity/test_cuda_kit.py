"""The GPU benchmarks (benchmarks/cuda), run in small on a CPU, so that they do not fail on the GPU machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cuda.kit import LIMITS
from rfdetr_core.base.code import ROOT

pytest.importorskip("rfdetr", reason="the kit compares with upstream: pip install rfdetr==1.11.2")

# Words that the rows of each part must have.
FIGURES = {
    "a": ["tests marked gpu"],
    "b": ["small outputs", "seg-small outputs", "small training"],
    "c": ["no workers", "1 worker", "killed and resumed", "at drawn sizes, twice", "batch 2 and batch 1"],
    "d": ["with and without determinism"],
    "e": ["upstream default", "ours default", "ours fast", "ours compile"],
    "f": ["ours, batch 1", "ours, batch 2", "upstream, batch 1", "upstream optimised"],
    "g": ["2, upstream", "2, ours"],
    "h": ["ours, Nano step, the device works", "upstream, Nano step, the device works"],
}


@pytest.mark.slow
def test_every_part_of_the_kit_ends_and_prints_its_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.cuda.kit", "--device", "cpu", "--smoke", "--seconds", "800"]
    run = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr
    table = (tmp_path / "table.md").read_text()
    assert run.stdout.endswith(table)
    assert FIGURES.keys() == LIMITS.keys()
    for letter, words in FIGURES.items():
        assert f"| {letter} | the part |" not in table, run.stdout  # a part has this row only if it failed
        rows = [json.loads(line) for line in (tmp_path / f"{letter}.jsonl").read_text().splitlines()]
        assert all(f"| {letter} | {row['what']} |" in table for row in rows)
        for word in words:
            figures = [row["figure"] for row in rows if word in row["what"]]
            assert figures, (letter, word, rows)
            assert not [figure for figure in figures if figure.startswith(("failed", "DIFFERENT"))], run.stdout
    assert "NOT RESUMED" not in table
