"""The command line. What a command needs is imported when it runs, so that --help costs milliseconds."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rfdetr_core import files
from rfdetr_core.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the user can mend ends in one message and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m rfdetr_core", description="RF-DETR, trained reproducibly.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", help="find objects in images: a drawn picture and a JSON file for each")
    predict.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="such as output/checkpoint_best_total.pth")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--threshold", type=float, default=0.5, help="score to exceed (default 0.5)")
    predict.add_argument(
        "--output", type=Path, default=Path("predictions"), metavar="DIR", help="folder of the results"
    )
    predict.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    predict.set_defaults(run=_predict)
    check = commands.add_parser("check", help="check the whole of params.yaml before DVC starts")
    check.set_defaults(run=_check)
    results = commands.add_parser("results", help="say what the pipeline found, and where its files are")
    results.set_defaults(run=_results)
    page = commands.add_parser("ui", help="MLflow's page over the runs of this project")
    page.add_argument("--port", type=int, default=5000)
    page.set_defaults(run=_ui)
    return parser


def _predict(options: argparse.Namespace) -> None:
    stems = [path.stem for path in options.images]
    doubled = sorted({stem for stem in stems if stems.count(stem) > 1})
    if doubled:
        raise UserError(f"several images are named {', '.join(doubled)}, but each makes one file. Give them apart.")
    from rfdetr_core.evaluation.pictures import PANEL, draw, label_of, write_png
    from rfdetr_core.inference import Predictor, to_rgb, to_supervision
    from rfdetr_core.metrics.coco import coco_results

    predictor = Predictor.from_checkpoint(options.checkpoint, device=options.device)
    for path in options.images:
        picture = to_rgb(path)
        (found,) = predictor.detect([picture], options.threshold)
        drawn = to_supervision(found, predictor.class_names)
        names = [str(name) for name in drawn.data["class_name"]]
        rows = [
            {"class_id": row["category_id"], "class_name": name, "score": row["score"], "xyxy": box}
            | {key: row[key] for key in ("segmentation",) if key in row}
            for row, name, box in zip(coco_results(0, found), names, found.boxes.tolist(), strict=True)
        ]
        content = {"image": path.name, "width": picture.width, "height": picture.height, "threshold": options.threshold}
        files.write_json(options.output / f"{path.stem}.json", content | {"detections": rows})
        labels = [label_of(name, row["score"]) for name, row in zip(names, rows, strict=True)]
        side = max(PANEL, *picture.size)
        write_png(options.output / f"{path.stem}.png", draw(picture, drawn, labels, side=side))
        print(f"{path}: {len(rows)} objects, drawn in {options.output / path.stem}.png")


def _check(options: argparse.Namespace) -> None:
    from rfdetr_core.settings import check_params

    check_params()


def _results(options: argparse.Namespace) -> None:
    selection = files.read_json(Path("output/selection.json"))
    metrics = files.read_json(Path("reports/evaluate/metrics.json"))
    winner, epoch = selection["winner"], selection[selection["winner"]]["epoch"]
    with Path("output/history.csv").open(newline="") as table:
        row = next(row for row in csv.DictReader(table) if int(row["epoch"]) == epoch)
    print(f"{'':12}{'AP':>6}{'AP50':>7}{'F1':>7}")
    prefix = "val/ema_" if winner == "ema" else "val/"
    for title, kind, scored in (("", "", metrics), (" masks", "segm_", metrics.get("masks"))):
        if scored is None:
            continue
        seen = [row.get(prefix + kind + name) or None for name in ("mAP_50_95", "mAP_50", "F1")]
        _print_scores(f"valid{title}", seen, f"{winner} weights of epoch {epoch}; picked by {selection['key']}")
        note = f"; {metrics['note']}" if "note" in metrics else ""
        about = f"{metrics['images']} images, {metrics['objects']} objects{note}"
        _print_scores(metrics["split"] + title, [scored[name] for name in ("map", "map_50", "f1")], about)
    print("model     output/checkpoint_best_total.pth\nscores    reports/evaluate/: metrics.json and tables")
    print("pictures  reports/evaluate/pictures/\ncurves    dvc plots show\nruns      make ui")


def _print_scores(title: str, values: Sequence[str | float | None], about: str) -> None:
    print(f"{title:12}" + " ".join("     -" if v is None else f"{float(v):6.3f}" for v in values) + f"   {about}")


def _ui(options: argparse.Namespace) -> None:
    from rfdetr_core.observers.mlflow import main_repository

    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        raise UserError(f"runs are tracked at {server} (MLFLOW_TRACKING_URI); unset it to see the local ones.")
    store = main_repository() / "mlflow.db"
    if not store.exists():
        raise UserError(f"{store} does not exist: no run was tracked here yet. Run: make repro")
    page = ["-m", "mlflow", "ui", "--port", str(options.port), "--backend-store-uri", f"sqlite:///{store}"]
    os.execv(sys.executable, [sys.executable, *page])
