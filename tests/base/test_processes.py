"""The cores that a process may use, by its affinity and its quota; and a process that must not start others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.processes import usable_cores

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "100001 100000\n"}, 2),
        ({"cpu.max": "6400000 100000\n"}, ALLOWED),
        ({"cpu.max": "max 100000\n"}, ALLOWED),
        ({"cpu.max": ""}, ALLOWED),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALLOWED),
        ({}, ALLOWED),
    ],
)
def test_the_cores_are_those_of_the_quota_rounded_up(files: dict[str, str], cores: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == min(cores, ALLOWED)


DAEMONIC = """
import multiprocessing, sys
from pathlib import Path
from rfdetr_core.ingest import survey
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.validate import validate_dataset
from tests.ingest.samples import make_coco
from tests.training.tiny import make_files, train

def work(folder):
    survey._WORTH_PROCESSES = 0
    validate_dataset(make_coco(folder / "data"), ValidateConfig(), folder / "reports", folder / "manifest")
    train(make_files(folder / "tiny"), folder / "output", train={"epochs": 1}, runtime={"num_workers": 2})

daemonic = multiprocessing.get_context("fork").Process(target=work, args=(Path(sys.argv[1]),), daemon=True)
daemonic.start()
daemonic.join()
sys.exit(daemonic.exitcode)
"""


def test_a_process_that_must_not_start_others_validates_and_trains(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DAEMONIC, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "manifest" / "train.json").exists()
    assert (tmp_path / "output" / "checkpoint.pth").exists()
