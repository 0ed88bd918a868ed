"""The pass over the images: nothing is decoded twice, the cache is never wrong, and no process remains."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.ingest import survey, workers
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.ingest.workers import Workers
from tests.ingest.samples import make_coco, picture

BAD = "train/train_2.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images. One cannot be decoded, and one probably uses only a part of its 16 bits."""
    folder = make_coco(tmp_path / "data")
    Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)).save(folder / "valid" / "valid_1.png")
    (folder / BAD).write_bytes(b"no image")
    return folder


@pytest.fixture
def run(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, dict[str, bytes]]]:
    """A function that validates with a cache. Returns how many images were decoded, and the bytes of all files."""

    def validate() -> tuple[int, dict[str, bytes]]:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        config = ValidateConfig(on_error="drop")
        validate_dataset(root, config, out / "reports", out / "manifest", tmp_path / "kept" / "images.sqlite")
        decoded = re.search(r"(\d+) images decoded, (\d+) cached", capsys.readouterr().out)
        assert decoded
        assert int(decoded[1]) + int(decoded[2]) == len(list(root.rglob("*.png")))
        return int(decoded[1]), {path.name: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}

    return validate


def test_cached_images_are_not_decoded_and_give_the_same_bytes(run, root: Path, monkeypatch) -> None:
    count, cold = run()
    assert count == 6
    decode, decoded = survey._decode, []
    monkeypatch.setattr(survey, "_decode", lambda data, limit: decoded.append(data) or decode(data, limit))
    assert run() == (0, cold)
    assert not decoded
    (root / "train" / "train_1.png").rename(root / "train" / "other.png")
    labels = root / "train" / "_annotations.coco.json"
    labels.write_text(labels.read_text().replace("train_1.png", "other.png"))
    assert run()[0] == 0
    picture(77).save(root / "train" / "train_3.png")
    assert run()[0] == len(decoded) == 1


def test_another_checker_decodes_again(run, monkeypatch) -> None:
    _, cold = run()
    monkeypatch.setattr(survey, "_checker_digest", lambda *_: "another")
    assert run() == (6, cold)
    assert run() == (0, cold)


def spoil_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 512):
        data[start : start + 16] = b"\xff" * 16
    path.write_bytes(data)


def swap_values(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT number, value FROM images").fetchall()
        for (number, _), (_, value) in zip(rows, rows[::-1], strict=True):
            connection.execute("UPDATE images SET value = ? WHERE number = ?", (value, number))
    connection.close()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_bytes(b"nonsense" * 999),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-3000]),
    "spoiled pages": spoil_pages,
    "values of other images": swap_values,
    "a folder": replace_by_folder,
    "a journal of nonsense": lambda path: Path(f"{path}-journal").write_bytes(b"\xd9\xd5\x05\xf9 journal" * 99),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_changes_nothing(run, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    _, cold = run()
    damage(tmp_path / "kept" / "images.sqlite")
    assert run()[1] == cold
    assert run()[1] == cold


def test_a_damaged_cache_heals(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    (tmp_path / "kept" / "images.sqlite").write_bytes(b"nonsense" * 999)
    assert run()[0] == 6
    assert run()[0] == 0


def test_a_second_validation_does_not_use_the_cache(run, tmp_path: Path) -> None:
    _, cold = run()
    holder = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", holder, str(tmp_path / "kept" / "images.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        assert run() == (6, cold)
        process.communicate("\n")
    assert run() == (0, cold)


def test_a_cache_that_vanishes_meanwhile_returns_nothing(tmp_path: Path) -> None:
    cache = survey.Cache(tmp_path / "images.sqlite", "checker")
    (tmp_path / "images.sqlite").unlink()
    assert survey.cache_reader(cache.path)(b"digest") is None


def test_the_cache_forgets_the_oldest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(survey, "_KEPT", 5)
    for start in range(0, 12, 4):
        cache = survey.Cache(tmp_path / "images.sqlite", "checker")
        for number in range(start, start + 4):
            cache.keep(bytes([number]), b"value")
        cache.close(in_use=1)
    find = survey.cache_reader(tmp_path / "images.sqlite")
    assert [number for number in range(12) if find(bytes([number])) == b"value"] == [7, 8, 9, 10, 11]


def test_processes_and_a_cache_give_the_same_findings(run, monkeypatch) -> None:
    in_one_process = run()
    monkeypatch.setattr(survey, "_WORTH_PROCESSES", 0)
    assert run() == (0, in_one_process[1])
    monkeypatch.setattr(survey, "_checker_digest", lambda *_: "another")
    assert run() == in_one_process


def work_that_dies(cause: signal.Signals) -> Callable[[], Callable[[str], str]]:
    def work(item: str) -> str:
        if item.startswith("bad"):
            os.kill(os.getpid(), cause)
        return item.upper()

    return lambda: work


def test_a_crash_is_the_result_of_its_item_alone() -> None:
    items = [f"item {k}" for k in range(500)] + ["bad 1", "bad 2"] + [f"more {k}" for k in range(100)] + ["bad 3"]
    workers = Workers(work_that_dies(signal.SIGSEGV), lambda item, cause: f"{item} {cause}", 2)
    try:
        results = list(workers.map(items))
    finally:
        workers.close()
    assert sorted(item for item, _ in results) == sorted(items)
    assert all(result == (f"{item} SIGSEGV" if item.startswith("bad") else item.upper()) for item, result in results)


def test_a_killed_process_is_an_error_that_names_the_file() -> None:
    workers = Workers(work_that_dies(signal.SIGKILL), lambda item, cause: item, 2)
    try:
        with pytest.raises(UserError, match=r"killed \(SIGKILL\) while it read bad one"):
            list(workers.map([*map(str, range(100)), "bad one", *map(str, range(100))]))
    finally:
        workers.close()


SLOW = """
import sys, time
from pathlib import Path
from rfdetr_core.ingest import survey
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.base.processes import treat_sigterm_as_ctrl_c
from stages import run

sys.argv[0] = "code"  # the one stage whose code is not compared with its digests

def slow(*_):
    time.sleep(60)

def main():
    treat_sigterm_as_ctrl_c()
    survey.examine = slow
    survey._WORTH_PROCESSES = 0
    started = survey.Survey.examine
    def examine_and_wait(self, paths):
        print(*(worker.process.pid for worker in self._workers._workers), flush=True)
        return started(self, paths)
    survey.Survey.examine = examine_and_wait
    out = Path(sys.argv[2])
    validate_dataset(Path(sys.argv[1]), ValidateConfig(), out / "reports", out / "manifest", out / "images.sqlite")

run(main)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_validation_that_is_killed_leaves_no_process_and_no_traceback(root: Path, tmp_path: Path, how: int) -> None:
    command = [sys.executable, "-c", SLOW, str(root), str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    workers = [int(word) for word in process.stdout.readline().split()]
    assert workers
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-how if how == signal.SIGKILL else 130)
    assert "Traceback" not in errors
    deadline = time.monotonic() + 30
    while any(runs(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "out" / "manifest").exists()


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_has_a_rate_and_passes_everything_on(stream: type[io.StringIO], monkeypatch) -> None:
    out, clock = stream(), iter(range(0, 1000, 4))
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(workers.time, "monotonic", lambda: float(next(clock)))
    assert list(workers.with_progress(range(7), 7, "validate", "images")) == list(range(7))
    lines = [line for line in re.split(r"[\r\n]+", out.getvalue()) if line]
    assert len(lines) == (7 if out.isatty() else 2)  # four seconds per item; a line every ten seconds
    assert all("of 7 images, 0 a second" in line for line in lines)
    assert out.getvalue().endswith("\n")
