from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.observers.console import EpochLines, ProgressBar, console
from rfdetr_core.observers.history import read_history, run_files
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from tests.training.tiny import train

# The text of an epoch in the bar and in the line. Before the first evaluation the remaining time is a lower bound.
LINE = r"epoch \d/3.*loss \d+\.\d{3}.*mAP \d\.\d{3}.*EMA mAP \d\.\d{3}.*lr \d\S+e-.*\d img/s.*\d GiB.*\d:\d\d:\d\d left"


def test_an_epoch_is_a_line_without_a_terminal(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(where, output) == uninterrupted
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3
    assert all(re.fullmatch(LINE, line) for line in lines)
    assert lines[-1].endswith("0:00:00 left")
    assert re.search(r"^best val/mAP_50_95: regular \S+ \(epoch \d\), EMA \S+ \(epoch \d\)", captured.out, re.MULTILINE)
    assert "\r" not in captured.out + captured.err
    # An epoch has the same number in every output.
    printed = [(int(line.split("/")[0].split()[1]), line.split("  mAP ")[1][:5]) for line in lines]
    history = read_history(output / "history.csv")
    assert printed == [(epoch, f"{row['val/mAP_50_95']:.3f}") for epoch, row in history.items()]
    assert [epoch for epoch, _ in printed] == [1, 2, 3]
    for track, key in {"regular": "val/mAP_50_95", "ema": "val/ema_mAP_50_95"}.items():
        best = files.read_json(output / "scores.json")["val/mAP_50_95"][track]
        assert history[best["epoch"]][key] == best["score"]
        assert f"{best['score']:.3f} (epoch {best['epoch']})" in captured.out


@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_a_terminal_has_a_bar_too_and_the_training_is_the_same(
    kind: str,
    where: ProjectPaths,
    uninterrupted: dict[str, bytes],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("rfdetr_core.observers.console._PAUSE", 0.0)
    texts = []
    monkeypatch.setattr(ProgressBar, "_show", lambda self, text: texts.append(text))
    assert train(where, output, runtime={"progress_bar": kind}) == uninterrupted
    assert len([line for line in capsys.readouterr().out.splitlines() if re.fullmatch(LINE, line)]) == 3
    first, last = [text for text in texts if "1/3" in text], [text for text in texts if "3/3" in text]
    assert re.search(r"loss \d.*lr \d.*img/s.*GiB.*over \d:\d\d:\d\d left", first[0])
    assert re.fullmatch(LINE, last[0])
    assert "over" not in last[0]
    assert first[-1] == "epoch 1/3, evaluating"


def test_a_bar_appears_on_a_terminal_and_in_a_notebook_if_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert type(console("tqdm", tmp_path)) is EpochLines
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert type(console("tqdm", tmp_path)) is ProgressBar
    assert type(console(None, tmp_path)) is EpochLines


def test_the_end_names_the_existing_files_and_both_scores(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path
) -> None:
    output.mkdir()
    for name in ("checkpoint.pth", "checkpoint_9.pth", "checkpoint_best_ema.pth", "checkpoint_best_regular.pth"):
        (output / name).touch()
    (output / "scores.json").write_bytes(uninterrupted["scores.json"])
    files.write_json(output / "selection.json", select(files.read_json(output / "scores.json")))
    text = run_files(output)
    assert [line.split()[0] for line in text.splitlines()[:-1]] == [
        str(output / f"checkpoint{name}.pth") for name in ("_best_regular", "_best_ema", "", "_9")
    ]
    assert text.splitlines()[-1].startswith("best val/mAP_50_95: regular 0.")
    (output / "checkpoint_best_total.pth").touch()
    assert run_files(output).startswith(f"{output / 'checkpoint_best_total.pth'}  the result")
    (output / "export").mkdir()
    assert "export" not in run_files(output)
    for name in ("model.xml", "model.onnx"):
        (output / "export" / name).touch()
    assert f"\n{output / 'export'}/: model.onnx, model.xml  the result for other runtimes\n" in run_files(output)


def test_a_state_of_another_training_is_not_called_a_state_to_resume(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path
) -> None:
    train(where, output, train={"epochs": 1})
    own_state, another = output / "checkpoint.pth", output / "checkpoint_4.pth"
    train(where, output.parent / "another", train={"epochs": 1, "seed": 1})
    (output.parent / "another" / own_state.name).rename(another)
    selection = select(files.read_json(output / "scores.json"))
    files.write_json(output / "selection.json", selection)
    strip(output, selection, output / "checkpoint_best_total.pth", output / "records")
    purposes = dict(line.split("  ", 1) for line in run_files(output).splitlines()[:-1])
    assert purposes[str(own_state)] == "the state after the last epoch, to resume from"
    assert purposes[str(another)] == "the state of another training, not of this result"
    another.rename(own_state)  # as when DVC restores the result
    assert "not of this result" in run_files(output)
