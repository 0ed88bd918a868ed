from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import rfdetr_core
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import write_table
from rfdetr_core.report.training import plot_loss_metrics, plot_map_metrics, plot_metrics

EPOCHS = [
    {"epoch": 1, "train/loss": 9.0, "train/loss_ce": 1.0, "train/loss_ce_aux": 3.0, "train/lr": 1e-4}
    | {"val/mAP_50_95": 0.1, "val/mAP_50": 0.2, "val/mAR": 0.3, "val/F1": 0.2, "val/ema_mAP_50_95": None},
    {"epoch": 2, "train/loss": 7.0, "train/loss_ce": 0.8, "train/loss_ce_aux": 2.0, "train/lr": 1e-4}
    | {"val/mAP_50_95": 0.3, "val/mAP_50": 0.5, "val/mAR": 0.4, "val/F1": 0.4, "val/ema_mAP_50_95": 0.25},
    {"epoch": 3, "train/loss": 6.0, "train/loss_ce": 0.7, "train/loss_ce_aux": 1.0, "train/lr": 1e-5}
    | {"val/mAP_50_95": 0.2, "val/mAP_50": 0.4, "val/mAR": 0.4, "val/F1": 0.3, "val/ema_mAP_50_95": 0.35},
]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    write_table(tmp_path / "history.csv", EPOCHS)
    return tmp_path / "history.csv"


def drawn(figure: Any) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """The points of each line by the title of its diagram and its label."""
    return {
        axes.get_title("left"): {line.get_label(): tuple(map(list, line.get_data())) for line in axes.lines}
        for axes in figure.axes
    }


def test_every_value_is_drawn_at_its_epoch(history: Path) -> None:
    panels = drawn(rfdetr_core.plot_metrics(history))
    assert [*panels] == ["Loss", "Loss terms", "AP 50:95", "AP 50", "AR", "F1 at the best threshold"]
    assert panels["Loss"] == {"train": ([1, 2, 3], [9.0, 7.0, 6.0])}
    assert panels["Loss terms"] == {"class, train": ([1, 2, 3], [1.0, 0.8, 0.7])}
    assert panels["AP 50:95"] == {
        "valid (best 0.300, epoch 2)": ([1, 2, 3], [0.1, 0.3, 0.2]),
        "valid, EMA (best 0.350, epoch 3)": ([2, 3], [0.25, 0.35]),
    }


def test_axes_have_whole_epochs_from_1_and_scores_from_0(history: Path) -> None:
    for axes in plot_metrics(history).axes:
        assert [*axes.get_xticks()] == [1, 2, 3]
        assert axes.get_ylim()[0] == 0
        assert axes.get_legend() is not None
    loss, *_ = plot_metrics(history, loss_log_scale=True).axes
    assert loss.get_yscale() == "log"


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 11, 30, 55, 100, 999])
def test_the_ticks_of_any_number_of_epochs_are_within_them(tmp_path: Path, epochs: int) -> None:
    write_table(tmp_path / "history.csv", [{"epoch": n + 1, "train/loss": 1.0 + n} for n in range(epochs)])
    (axes,) = plot_metrics(tmp_path).axes
    ticks = [*axes.get_xticks()]
    assert ticks[0] == 1
    assert ticks[-1] <= epochs
    assert ticks == sorted({*ticks})
    assert len(ticks) <= 11


def test_masks_and_the_training_split_have_separate_lines(tmp_path: Path) -> None:
    row = {"epoch": 1, "val/mAP_50": 0.4, "val/segm_mAP_50": 0.3, "val/ema_segm_mAP_50": 0.2, "train/mAP_50": 0.5}
    write_table(tmp_path / "history.csv", [row | {"val/loss": 3.0, "val/loss_mask_ce": 1.0}])
    panels = drawn(plot_metrics(tmp_path))
    labels = [label.partition(" (")[0] for label in panels["AP 50"]]
    assert labels == ["valid, boxes", "train, boxes", "valid, masks", "valid, EMA, masks"]
    assert [*panels["Loss"], *panels["Loss terms"]] == ["valid", "mask, valid"]


def test_the_metrics_csv_of_upstream_is_drawn_too(tmp_path: Path) -> None:
    """Upstream's metrics.csv has separate rows for steps and validation, and counts epochs from 0."""
    rows = [
        {"epoch": 0, "step": 4, "train/loss": 9.0, "val/mAP_50": None},
        {"epoch": 0, "step": 9, "train/loss": 7.0, "val/mAP_50": None},
        {"epoch": 0, "step": 9, "train/loss": None, "val/mAP_50": 0.2},
        {"epoch": 1, "step": 19, "train/loss": 6.0, "val/mAP_50": 0.3},
    ]
    write_table(tmp_path / "metrics.csv", rows)
    panels = drawn(plot_metrics(tmp_path))
    assert panels["Loss"] == {"train": ([1, 2], [8.0, 6.0])}
    assert [*panels["AP 50"].values()] == [([1, 2], [0.2, 0.3])]


def test_loss_and_score_plots_are_the_panels_of_the_full_plot(history: Path) -> None:
    all_panels = drawn(plot_metrics(history))
    assert drawn(plot_loss_metrics(history)) == {name: all_panels[name] for name in ("Loss", "Loss terms")}
    assert drawn(plot_map_metrics(history)) == {name: all_panels[name] for name in ("AP 50:95", "AP 50")}


def test_a_figure_is_saved_in_the_format_of_its_suffix(history: Path, tmp_path: Path) -> None:
    plot_metrics(history, tmp_path / "new" / "plot.png")
    with Image.open(tmp_path / "new" / "plot.png") as picture:
        assert picture.size == (1800, 1530)
    plot_metrics(str(history), str(tmp_path / "plot.svg"))
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    with pytest.raises(UserError, match="no format txt"):
        plot_metrics(history, tmp_path / "plot.txt")
    assert not (tmp_path / "plot.txt").exists()


def test_a_notebook_shows_a_figure_and_pyplot_is_not_imported(history: Path) -> None:
    figure: Any = plot_metrics(history)
    assert figure._repr_png_().startswith(b"\x89PNG")
    code = (
        "import sys, rfdetr_core; from pathlib import Path\n"
        f"rfdetr_core.plot_metrics({str(history)!r})._repr_png_()\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no history.csv. Give the path"),
        ("", "is not a history.csv of a training"),
        ("a,b\n1,2\n", "is not a history.csv of a training"),
        ("epoch,train/loss\n1,high\n", "is not a history.csv of a training"),
        ("epoch,train/loss\n", "has no values to draw"),
        ("epoch,train/lr\n1,0.1\n", "has no values to draw"),
    ],
)
def test_a_history_csv_that_cannot_be_drawn_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "history.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        plot_metrics(tmp_path)
    with pytest.raises(UserError, match=r"none\.csv is not a file"):
        plot_metrics(tmp_path / "none.csv")


def test_a_tilde_stands_for_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "history.csv").write_text("epoch,train/loss\n1,2.0\n")
    plot_metrics("~", "~/drawn.png")
    assert (tmp_path / "drawn.png").is_file()
