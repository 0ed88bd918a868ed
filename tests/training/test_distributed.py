from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.architecture import ROOT
from tests.training.tiny import make_files, script


def trained(folder: Path, where: Any, name: str, **config: Any) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Train in a process of its own (which starts the others); history and scores."""
    source = folder / f"{name}.py"
    source.write_text(
        "if __name__ == '__main__':\n    " + script(where, folder / name, train=config).replace("\n", "\n    ")
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([sys.executable, str(source)], cwd=folder, env=environment, check=True, timeout=300)
    output = folder / name
    return list(csv.DictReader((output / "history.csv").open())), json.loads((output / "scores.json").read_text())


@pytest.mark.slow
def test_two_processes_train_and_score_as_one_with_the_same_batches(tmp_path: Path) -> None:
    where = make_files(tmp_path, train=4, valid=3)
    one, scores = trained(tmp_path, where, "one", epochs=2, batch_size=2)
    two, same = trained(tmp_path, where, "two", epochs=2, batch_size=1, devices=2, strategy="ddp", accelerator="cpu")
    for row, other in zip(one, two, strict=True):
        for name in row:
            assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-3, abs=1e-4), name
    assert same["regular"]["epoch"] == scores["regular"]["epoch"]
