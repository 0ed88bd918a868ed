"""Plots of a training with matplotlib: losses and scores over the epochs, from history.csv."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError

AnyPath: TypeAlias = str | os.PathLike[str]
_NAMES = ("history.csv", "metrics.csv")  # the file of this project; the file of upstream
_SCORES = {"mAP_50_95": "AP 50:95", "mAP_50": "AP 50", "mAR": "AR", "F1": "F1 at the best threshold"}
_TERMS = {"ce": "class", "bbox": "box", "giou": "GIoU", "mask_ce": "mask", "mask_dice": "mask Dice"}
# Loss terms of the last decoder layer, without those of other layers (_aux; upstream: _0, _1, ...) and of the
# proposals (_enc).
_TERM = re.compile(r"(train|val)/loss_(?!.*(_aux|_enc|_\d+)$)(\w+)")
_SPLITS = {"train": "train", "val": "valid"}
_BLUE, _ORANGE, _GREY = "#1f6fb4", "#e07b00", "#7a7a7a"
_FEW = 25  # with at most this number of epochs, each value has a dot


class Line(NamedTuple):
    """A column of history.csv and how it is drawn. best: the label names the best value and its epoch."""

    column: str
    label: str
    color: str
    style: str = "-"
    best: bool = False


class Panel(NamedTuple):
    """A diagram: its title and its lines. log: a logarithmic vertical axis."""

    title: str
    lines: Sequence[Line]
    log: bool = False


class TrainingFigure(Figure):
    """A figure that a notebook shows as a picture if it is the value of a cell, with any matplotlib backend."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=80)
        return picture.getvalue()


def plot_metrics(metrics_csv: AnyPath, output_path: AnyPath | None = None, loss_log_scale: bool = False) -> Figure:
    """Plot losses and scores over the epochs. Epochs count from 1.

    The scores are those of the regular and of the averaged weights (EMA) on valid, from 0 to 1. The legend names the
    best epoch of each. The figure does not use pyplot: `figure.savefig` saves it, and a notebook shows it.

    Args:
        metrics_csv: A history.csv, upstream's metrics.csv, or a run folder that has one of them.
        output_path: A file to save the figure to, in the format of its suffix; None: it is not saved.
        loss_log_scale: A logarithmic axis for the losses.

    Raises:
        UserError: the file does not exist, has no epochs or no values, or matplotlib cannot write the format.
    """
    table = _read(metrics_csv)
    return _figure(table, [*_loss_panels(table, loss_log_scale), *_score_panels(table, _SCORES)], output_path)


def plot_loss_metrics(metrics_csv: AnyPath, output_path: AnyPath | None = None, loss_log_scale: bool = False) -> Figure:
    """Plot only the losses: see `plot_metrics`.

    Args:
        metrics_csv: A history.csv, upstream's metrics.csv, or a run folder that has one of them.
        output_path: A file to save the figure to, in the format of its suffix; None: it is not saved.
        loss_log_scale: A logarithmic vertical axis.
    """
    table = _read(metrics_csv)
    return _figure(table, _loss_panels(table, loss_log_scale), output_path)


def plot_map_metrics(metrics_csv: AnyPath, output_path: AnyPath | None = None) -> Figure:
    """Plot only AP 50:95 and AP 50: see `plot_metrics`."""
    table = _read(metrics_csv)
    return _figure(table, _score_panels(table, ("mAP_50_95", "mAP_50")), output_path)


def plot_trainings(histories: Mapping[str, AnyPath], *, masks: bool = False) -> Figure:
    """Plot the loss and AP 50:95 on valid of one or two trainings over their epochs, in the same figure.

    Args:
        histories: Name of a training -> its file or folder; see `plot_metrics`.
        masks: Draw the AP of masks instead of boxes.

    Raises:
        UserError: See `plot_metrics`.
    """
    import pandas as pd

    table = pd.concat([_read(path).add_prefix(f"{name}:") for name, path in histories.items()], axis=1).sort_index()
    prefix, suffix = ("segm_", " of masks") if masks else ("", "")
    colors = dict(zip(histories, (_BLUE, _ORANGE), strict=False))
    losses = [
        Line(f"{name}:{split}/loss", f"{name}, {title}", color, _dashed(split))
        for name, color in colors.items()
        for split, title in _SPLITS.items()
    ]
    scores = [
        Line(f"{name}:val/{track}{prefix}mAP_50_95", f"{name}{title}", color, style, best=True)
        for name, color in colors.items()
        for track, title, style in (("", "", "-"), ("ema_", ", EMA", "--"))
    ]
    panels = [Panel("Loss", losses), Panel(f"AP 50:95{suffix} on valid", scores)]
    return _figure(table, panels, None)


def _read(path: AnyPath) -> Any:
    """The values of each epoch as a table. Its index is the number of the epoch, from 1."""
    import pandas as pd

    source = Path(path).expanduser()
    file = next((source / name for name in _NAMES if (source / name).is_file()), source)
    if not file.is_file():
        problem = f"has no {_NAMES[0]}" if source.is_dir() else "is not a file"
        raise UserError(f"{source} {problem}. Give the path of a {_NAMES[0]}, or of a run folder (output_dir).")
    try:
        table = pd.read_csv(io.StringIO(files.read_text(file)))
        values = table.apply(pd.to_numeric).groupby("epoch").mean()
    except (KeyError, TypeError, ValueError) as error:  # pandas raises only these
        raise UserError(
            f"{file} is not a history.csv of a training. It needs a column epoch, and all its values must be numbers."
        ) from error
    if "step" in table:  # upstream's metrics.csv: steps have their own rows, and epochs count from 0
        values.index += 1
    return values.drop(columns="step", errors="ignore")


def _loss_panels(table: Any, log: bool) -> Iterator[Panel]:
    totals = [Line("train/loss", "train", _BLUE), Line("val/loss", "valid", _ORANGE)]
    yield Panel("Loss", totals, log)
    matches = [match for column in table if (match := _TERM.fullmatch(str(column)))]
    terms = dict.fromkeys(match[3] for match in matches)
    colors = {term: f"C{number}" for number, term in enumerate(terms)}
    lines = [
        Line(match[0], f"{_TERMS.get(match[3], match[3])}, {_SPLITS[match[1]]}", colors[match[3]], _dashed(match[1]))
        for match in matches
    ]
    yield Panel("Loss terms", lines, log)


def _dashed(split: str) -> str:
    return "--" if split == "val" else "-"


def _score_panels(table: Any, scores: Sequence[str] | dict[str, str]) -> Iterator[Panel]:
    masks = any("segm_" in str(column) for column in table)
    kinds = (("", ", boxes", "-"), ("segm_", ", masks", "--")) if masks else (("", "", "-"),)
    tracks = (("val/", "valid", _BLUE), ("val/ema_", "valid, EMA", _ORANGE), ("train/", "train", _GREY))
    for score in scores:
        yield Panel(
            _SCORES[score],
            [
                Line(f"{start}{kind}{score}", f"{name}{suffix}", color, style, best=True)
                for kind, suffix, style in kinds
                for start, name, color in tracks
            ],
        )


def _figure(table: Any, panels: Sequence[Panel] | Iterator[Panel], output_path: AnyPath | None) -> Figure:
    """Draw the panels that have values, two in a row. Save the figure if there is an `output_path`."""
    with_values = [column for column in table if table[column].notna().any()]
    panels = [panel._replace(lines=[line for line in panel.lines if line.column in with_values]) for panel in panels]
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        raise UserError("The history has no values to draw: no epoch has ended yet, or its columns have other names.")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = TrainingFigure(figsize=(6 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel_axes, panel in zip(axes, panels, strict=False):
        _draw(panel_axes, table, panel)
    for unused in axes[len(panels) :]:
        unused.remove()
    if output_path is not None:
        _save(figure, Path(output_path).expanduser())
    return figure


def _draw(axes: Any, table: Any, panel: Panel) -> None:
    for line in panel.lines:
        values = table[line.column].dropna()
        best = f" (best {values.max():.3f}, epoch {values.idxmax()})" if line.best else ""
        dots = "o" if len(values) <= _FEW else ""
        axes.plot(
            values.index, values, color=line.color, linestyle=line.style, marker=dots, markersize=3, linewidth=1.6,
            label=line.label + best,
        )  # fmt: skip
    axes.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("epoch")
    last = int(table.index.max())
    ticks = MaxNLocator(nbins=8, steps=(1, 2, 5, 10), integer=True).tick_values(1, last)
    axes.set_xticks([1, *(int(tick) for tick in ticks if 1 < tick <= last)])
    if panel.log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    columns = 1 if panel.lines[0].best else 3
    axes.legend(fontsize=8, framealpha=0.8, edgecolor="none", ncols=columns)


def _save(figure: Figure, path: Path) -> None:
    suffix = path.suffix.removeprefix(".").lower() or "png"
    formats = figure.canvas.get_supported_filetypes()
    if suffix not in formats:
        raise UserError(f"{path} cannot be written: matplotlib has no format {suffix}. Use {', '.join(formats)}.")
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=150)
