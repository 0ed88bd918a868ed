"""The evaluation page index.html and three files beside it: thresholds.json, intervals.json and suspects.csv.

In: the files of the stages `evaluate` and `select_best` and the images of the split. Out: the page and the three files,
in reports/evaluate/. The stage `report` calls `write_report`; `verify` calls it again to compare the page. sections.py
has the tables and charts, examples.py chooses the pictures, picture_requests.py renders them, and overlays.py has the
shapes that are drawn over the pictures. Start reading in `write_report`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.metadata import read_metadata
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.operating import DEFAULT_THRESHOLD, Point, best_f1, intervals, reaching
from rfdetr_core.inference.thresholds import OperatingPoint, Thresholds, Weights
from rfdetr_core.metrics.coco import Floats, Row
from rfdetr_core.metrics.coco import Kind as IouType
from rfdetr_core.report import charts
from rfdetr_core.report.config import ReportConfig
from rfdetr_core.report.evaluation import sections
from rfdetr_core.report.evaluation.examples import Pictures
from rfdetr_core.report.evaluation.overlays import LEGEND
from rfdetr_core.report.evaluation.picture_requests import QUALITY, PictureRequests
from rfdetr_core.report.evaluation.sections import ERROR_FILTERS, Kind
from rfdetr_core.report.gallery import Card, Gallery, Picture, as_jpeg
from rfdetr_core.report.page import render
from rfdetr_core.report.specs import Axis, Chart

_TEMPLATE = Path(__file__).parent / "evaluation.html"
_SCHEMA = 1
_AGAIN = "Write it again: dvc repro -f evaluate"
_CHOSEN_BYTES = 3_000_000  # the most bytes for the pictures of the best, the middle and the worst images
_MOST_SUSPECTS = 10_000  # the most rows of the table on the page; the file has all


@dataclass(frozen=True)
class _Inputs:
    """The files that earlier stages wrote about the evaluated split. samples: in the order of their ids."""

    split: str
    about: Row
    metrics: Row
    lineage: Row
    record: Row
    annotations: Row
    samples: list[Sample]
    results: Results
    per_class: pd.DataFrame
    metadata: Mapping[str, Mapping[str, str]]

    @classmethod
    def read(cls, where: ProjectPaths, reports: Path, run: Path) -> _Inputs:
        about, metrics, lineage = (
            files.read_json(reports / f"{name}.json") for name in ("about", "metrics", "lineage")
        )
        record = files.read_json(run / "record.json")["lineage"]
        if record["tensors"] != lineage["model"]["tensors"]:
            raise UserError(
                f"{run / 'record.json'} and the evaluation in {reports} belong to different models. Run: dvc repro"
            )
        split = str(about["split"])
        annotations = files.read_json(where.split(split)[0])
        return cls(
            split,
            about,
            metrics,
            lineage,
            record,
            annotations,
            sorted(read_samples(*where.split(split)), key=lambda sample: sample.image_id),
            Results.read(reports / "detections.json", reports / "masks.json" if "masks" in metrics else None),
            _read_per_class(reports / "per_class.csv", [row["name"] for row in annotations["categories"]]),
            read_metadata(where.metadata_of(split)),
        )


def _read_per_class(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """The numbers of the classes by name.

    Raises:
        UserError: the file does not have these classes.
    """
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"class": str}).set_index("class")
        return table.loc[list(names)]
    except (KeyError, OSError, ValueError) as error:
        raise UserError(f"{path} does not have the classes of the dataset ({error}). {_AGAIN}") from error


def write_report(where: ProjectPaths, config: ReportConfig, reports: Path, run: Path) -> None:
    """Write index.html, thresholds.json, intervals.json and suspects.csv into the folder of an evaluation.

    Equal inputs give equal bytes. No file is written before all contents are computed.

    Args:
        where: The folders of the project's data.
        config: The section `report` of params.yaml.
        reports: The folder of the evaluation.
        run: The run folder of the training.

    Raises:
        UserError: an input is missing or damaged, or an image differs from the manifest.
    """
    inputs = _Inputs.read(where, reports, run)
    iou_types: tuple[IouType, ...] = ("bbox", "segm") if "masks" in inputs.metrics else ("bbox",)
    kinds = [_kind(iou_type, inputs, config) for iou_type in iou_types]
    requests = PictureRequests(where.dataset, inputs.samples)
    confusions = [kind.analysis.confusions(kind.thresholds) for kind in kinds]
    examples = [
        Pictures(kind, pairs, requests, inputs.results, inputs.annotations)
        for kind, pairs in zip(kinds, confusions, strict=True)
    ]
    for kind_examples in examples:
        kind_examples.request_errors(config.crops)
    main = examples[-1]  # the pictures of masks, if there are masks
    main.request_images(config.images)
    suspects = main.request_suspects(5 * config.crops)
    pictures, brightness = requests.render()
    images = main.gallery("images", pictures, {"error": "all images"}, noun="image", names=False)
    page = render(
        _TEMPLATE,
        f"Evaluation on {inputs.split}",
        about=_about(inputs, run),
        legend=LEGEND,
        few=sections.few_images_warning(len(inputs.samples)),
        target=config.target,
        kinds=[
            _sections_of_kind(kind, kind_examples, pairs, pictures, brightness, inputs, config)
            for kind, kind_examples, pairs in zip(kinds, examples, confusions, strict=True)
        ],
        images=images,
        images_left=len(inputs.samples) - len(images.cards),
        chosen=_chosen(reports / "pictures"),
        suspects=main.gallery("suspects", pictures, {"suspicion": "all suspicions"}, noun="label"),
        suspected=sections.suspect_table(suspects.head(_MOST_SUSPECTS)),
        suspects_total=len(suspects),
        training=_training(run),
    )
    head = {"schema": _SCHEMA, "images": len(inputs.samples), "resamples": config.resamples}
    files.write_json(reports / "intervals.json", head | {kind.anchor: kind.intervals for kind in kinds})
    files.write_json(reports / "thresholds.json", _thresholds(kinds[-1], config, inputs).to_dict())
    files.write_table(reports / "suspects.csv", suspects.to_numpy(dtype=object).tolist(), list(suspects.columns))
    files.write_text(reports / "index.html", page)


def _kind(iou_type: IouType, inputs: _Inputs, config: ReportConfig) -> Kind:
    scores = inputs.metrics["masks"] if iou_type == "segm" else inputs.metrics
    analysis = Analysis.from_results(inputs.annotations, inputs.results, iou_type)
    table = inputs.per_class
    if iou_type == "segm":
        table = table[[name for name in table.columns if name.startswith("mask_")]].rename(
            columns=lambda name: name[5:]
        )
    configured, measured = inputs.lineage["params"]["evaluate"].get("threshold"), scores["threshold"]
    best = DEFAULT_THRESHOLD if measured is None else float(measured)
    threshold = best if configured is None else configured
    overall, points = _points(analysis, config)
    title = "Masks" if iou_type == "segm" else "Boxes"
    # The page shows the highest F1, so its interval is computed at the threshold of this F1.
    kind_intervals = intervals(analysis, best, config.resamples)
    return Kind(title, analysis, scores, kind_intervals, table, threshold, overall, points)


def _points(analysis: Analysis, config: ReportConfig) -> tuple[Point, dict[str, Point]]:
    """The recommended threshold for all classes, and for each class.

    A class whose F1 is 0 at every threshold gets the threshold for all classes.
    """
    target = config.target
    choose = best_f1 if target is None else lambda curve: reaching(curve, target)
    overall = choose(analysis.mean_curve).or_default(DEFAULT_THRESHOLD)
    points = [choose(curve).or_default(overall.threshold) for curve in analysis.curves]
    return overall, dict(zip(analysis.classes.values(), points, strict=True))


def _thresholds(kind: Kind, config: ReportConfig, inputs: _Inputs) -> Thresholds:
    def operating_point(point: Point) -> OperatingPoint:
        values = (point.precision, point.recall, point.f1)
        precision, recall, f1 = (None if math.isnan(value) else value for value in values)
        return OperatingPoint(
            threshold=point.threshold, precision=precision, recall=recall, f1=f1, reached=point.reached
        )

    return Thresholds(
        schema=1,
        model=Weights(tensors=str(inputs.lineage["model"]["tensors"])),
        split=inputs.split,
        images=len(inputs.samples),
        of="masks" if kind.analysis.kind == "segm" else "boxes",
        target=config.target,
        all=operating_point(kind.overall),
        classes={name: operating_point(point) for name, point in kind.points.items()},
    )


def _about(inputs: _Inputs, run: Path) -> dict[str, Any]:
    """The facts about the model and the split, and the notes of about.json."""
    record, counts = inputs.record, inputs.record["training"]["counts"]
    return {
        "split": inputs.split,
        "variant": record["variant"],
        "images": len(inputs.samples),
        "objects": inputs.metrics["objects"],
        "classes": len(inputs.annotations["categories"]),
        "notes": [str(inputs.about[name]) for name in ("note", "not_measured") if name in inputs.about],
        "facts": [
            ("weights, SHA-256 of their tensors", record["tensors"]),
            ("model file, SHA-256", inputs.lineage["model"]["sha256"]),
            ("training, fingerprint", files.digest(record["training"])),
            *((_USES.get(name, f"chosen on {name}"), _count_text(counts[name])) for name in counts),
        ],
        "commands": [
            ("to trace this model", f"python -m rfdetr_core audit {run / 'checkpoint_best_total.pth'}"),
            ("to check this page and its inputs", "python -m rfdetr_core verify"),
        ],
    }


_USES = {"train": "trained on train", "valid": "epoch chosen on valid"}


def _count_text(count: Mapping[str, int]) -> str:
    return f"{count['images']:,} images, {count['objects']:,} objects"


def _sections_of_kind(
    kind: Kind,
    examples: Pictures,
    confusions: pd.DataFrame,
    pictures: Sequence[Picture],
    brightness: Floats,
    inputs: _Inputs,
    config: ReportConfig,
) -> dict[str, Any]:
    """The values of the template for boxes or for masks."""
    score_table, score_chart = sections.scores(kind)
    matrix, confused = sections.confusion(kind, confusions, examples.pictured)
    cost, errors = sections.errors(kind)
    reliability, by_class, calibrated = sections.calibration(kind)
    return {
        "title": kind.title,
        "threshold": kind.threshold,
        "scores": score_table,
        "score_chart": score_chart,
        "overall": kind.overall,
        "curves": sections.thresholds(kind),
        "recommended": sections.recommended(kind, config.target),
        "per_class": sections.per_class(kind, confusions, examples.pictured),
        "matrix": matrix,
        "confused": confused,
        "cost": cost,
        "errors": errors,
        "crops": examples.gallery("errors", pictures, ERROR_FILTERS, noun="error"),
        "slices": sections.slice_table(kind, inputs.annotations, inputs.results, brightness, inputs.metadata),
        "reliability": reliability,
        "calibration_by_class": by_class,
        "calibration_errors": calibrated,
    }


def _chosen(folder: Path) -> Gallery:
    """The pictures that the stage evaluate drew: the best, the middle and the worst images."""
    order = {"best": 0, "middle": 1, "worst": 2}
    paths = sorted(folder.glob("*.png"), key=lambda path: (order.get(path.stem.rpartition("_")[0], 3), path.name))
    cards, left = [], _CHOSEN_BYTES
    for path in paths:
        try:
            with files.open_regular(path) as file, Image.open(file, formats=("PNG",)) as picture:
                small = as_jpeg(picture, QUALITY)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a picture of the evaluation ({error}). {_AGAIN}") from error
        left -= len(small.source)
        if left >= 0:
            cards.append(Card(small, [path.stem.replace("_", " ")]))
    return Gallery(cards, noun="picture", columns="pairs")


def _training(run: Path) -> list[Chart]:
    """The charts of the training: losses, the scores of both tracks and the learning rate over the epochs."""
    table = pd.read_csv(run / "history.csv", float_precision="round_trip")
    selection = files.read_json(run / "selection.json")
    epoch = float(selection[selection["winner"]]["epoch"])
    marks = [(epoch, "chosen")]
    x_axis = Axis("epoch", None, "d")

    def long(columns: Mapping[str, str]) -> list[dict[str, Any]]:
        return list(_long(table, {name: title for name, title in columns.items() if name in table}))

    key = selection["key"].rpartition("/")[2].removeprefix("ema_")
    tracks = {prefix + key: track for prefix, track in (("val/", "regular"), ("val/ema_", "EMA"))}
    names = [name for name in table.columns if name.startswith("train/loss") and "_aux" not in name]
    losses = {name: name.removeprefix("train/") for name in names}

    def chart(title: str, columns: Mapping[str, str], y_axis: Axis, note: str | None = None) -> Chart:
        return charts.line(long(columns), "epoch", "value", "curve", title=title, x_axis=x_axis, y_axis=y_axis,
                           marks=marks, note=note)  # fmt: skip

    return [
        chart(f"{key} on valid", tracks, Axis(key, None, ".2f"), "The chosen epoch is marked."),
        chart("Losses", losses, Axis("loss", None, ".2f"), "Losses of the last decoder layer, means over train."),
        chart("Learning rate", {"train/lr": "learning rate"}, Axis("learning rate", None, ".1e")),
    ]


def _long(table: pd.DataFrame, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, title in columns.items():
        for epoch, value in zip(table["epoch"].tolist(), table[name].tolist(), strict=True):
            if isinstance(value, float) and np.isfinite(value):
                yield {"epoch": int(epoch), "value": value, "curve": title}
