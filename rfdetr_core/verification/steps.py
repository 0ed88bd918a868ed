"""Checks of output/steps.csv, the losses and weight digests of a training. Needs no torch."""

from __future__ import annotations

from rfdetr_core.base import files
from rfdetr_core.base.chain import FILE, broken_link, digest_of, rows_of
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report

STEPS = f"output/{FILE}"


def check_chain(report: Report, contents: Contents) -> None:
    """Check that each row of steps.csv follows from the row before it. Older trainings have no such file."""
    if (contents.root / STEPS).is_file():
        line = broken_link(files.read_text(contents.root / STEPS))
        actual = None if line is None else f"line {line}, which does not follow from the line before"
        report.equal(f"break in the chain of {STEPS}", None, actual, "its digests")


def check_weights(report: Report, contents: Contents, name: str, track: str, epoch: int | None, tensors: str) -> None:
    """Compare the weights of a model file with the digest that steps.csv has for the end of its epoch.

    Args:
        report: Receives the mismatch.
        contents: The working tree.
        name: The model file.
        track: The track of its weights, `regular` or `ema`.
        epoch: The epoch of its weights, from 1; None if the file does not name one.
        tensors: Its weights digest.
    """
    if (contents.root / STEPS).is_file() and epoch is not None:
        text, subject = files.read_text(contents.root / STEPS), f"weights of {name}, of epoch {epoch}"
        first = next((int(row["epoch"]) for row in rows_of(text)), None)
        if first is None or epoch < first:
            report.skip(
                f"{subject}, by {STEPS}",
                "the training was resumed from a state of an older version, which wrote no steps",
            )
        else:
            report.equal(subject, digest_of(text, track, epoch), tensors, STEPS)
