"""The steps of a training against the model files. Without torch."""

from __future__ import annotations

from rfdetr_core.base import files
from rfdetr_core.base.chain import FILE, broken_link, digest_of, rows_of
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report

STEPS = f"output/{FILE}"


def check_chain(report: Report, contents: Contents) -> None:
    """Each row of steps.csv against the one before it. Trainings of older versions have no such file."""
    if (contents.root / STEPS).is_file():
        line = broken_link(files.read_text(contents.root / STEPS))
        found = None if line is None else f"line {line} does not follow from the one before"
        report.equal(f"chain of {STEPS}", None, found, "its digests")


def check_weights(report: Report, contents: Contents, name: str, track: str, epoch: int | None, tensors: str) -> None:
    """The digest of a model file's weights against that of its track at the end of its epoch, which counts from 1."""
    if (contents.root / STEPS).is_file() and epoch is not None:
        text, what = files.read_text(contents.root / STEPS), f"weights of {name}, of epoch {epoch}"
        first = next((int(row["epoch"]) for row in rows_of(text)), None)
        if first is None or epoch < first:
            report.skip(f"{what}, by {STEPS}", "that training went on from a state of an older version, which had none")
        else:
            report.equal(what, digest_of(text, track, epoch), tensors, STEPS)
