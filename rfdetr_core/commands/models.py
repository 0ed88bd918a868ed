"""The commands that run or copy a model file: predict, suspects, compare, evaluate, benchmark, promote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.printing import say
from rfdetr_core.commands.output import print_answer


def predict(options: argparse.Namespace) -> None:
    """Write the detections of each image; print one line for each image."""
    from rfdetr_core.evaluation.predictions import predict_files

    for line in predict_files(options.checkpoint, options.images, options.output, options.threshold, options.device):
        print(line)


def suspects(options: argparse.Namespace) -> None:
    """Print the suspected label errors, the most suspicious first."""
    from rfdetr_core.report.suspects import FOLDER, list_suspects
    from rfdetr_core.verification.lock import refuse_outs

    refuse_outs(options.output or FOLDER, "--output reports/suspects/train.csv")
    lines = list_suspects(options.checkpoint, options.split, options.output, options.limit, page=options.page)
    print(*lines, sep="\n")


def compare(options: argparse.Namespace) -> None:
    """Write the page that compares two models; print their scores."""
    from rfdetr_core.report.comparison import compare
    from rfdetr_core.verification.lock import refuse_outs

    refuse_outs(options.out, "--out reports/compare")
    print(*compare(options.old, options.new, options.split, options.out), sep="\n")


def evaluate(options: argparse.Namespace) -> None:
    """Score a model file in the runtime that it is for; print the scores."""
    from rfdetr_core.evaluation.files import evaluate_file
    from rfdetr_core.verification.lock import refuse_outs

    refuse_outs(options.out, "--out reports/evaluate-files")
    for line in evaluate_file(options.model, options.split, options.out, options.device):
        print(line)


def benchmark(options: argparse.Namespace) -> None:
    """Measure model files and print the results; with options, also write them to a file or to MLflow."""
    from rfdetr_core.inference.benchmark import benchmark
    from rfdetr_core.verification.lock import refuse_outs

    if options.output:
        refuse_outs(options.output, "--output benchmark.json")
    measured = benchmark(
        options.files,
        batches=options.batch,
        precisions=options.precision,
        images=options.images,
        threads=options.threads,
        seconds=options.seconds,
        device=options.device,
    )
    print_answer(measured.to_dict() if options.json else measured.text().split("\n"))
    if options.output:
        files.write_json(options.output, measured.to_dict())
    if options.mlflow:
        from rfdetr_core.observers.publishing import publish_benchmark

        say(publish_benchmark(options.files, measured.to_dict(), measured.text()), file=sys.stderr)


def promote(options: argparse.Namespace) -> None:
    """Copy a model to weights/; print which parameter takes it."""
    from rfdetr_core.checkpoint.files import read_plain

    if "run" in read_plain(options.file):
        name, key = "resume.pth", "train.resume"
    else:
        name, key = "promoted.pth", "model.pretrain_weights"
    files.copy(options.file, Path("weights") / name)
    print(f"next: dvc add weights/{name}, and in params.yaml set {key}: {name}")
