"""steps.csv: loss terms of the optimiser steps and digests of the weights, each row chained to those before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.chain import FILE, chain_link
from rfdetr_core.metrics.names import PREFIX
from rfdetr_core.training.module import Terms, compact

_ROWS = 20  # of an epoch, about: the file is in git
_APART = 200  # steps, at least, from one digest of weights to the next within an epoch: it takes as long as a step


class Steps:
    """Collects the rows of steps.csv, without waiting for the device before an epoch ends.

    A row has the epoch and the optimiser step (both from 1), the loss terms of the step's last batch on rank 0, in the
    last row of an epoch the digests of the weights of both tracks (see `tensor_digest`), and the chain (see
    `chain_link`). An epoch has its steps at equal distances, 20 or up to twice as many, and its last step. Where they
    are 200 steps apart or more, each row has the digest of the regular weights. So a row depends on the training alone.

    lines: the lines of the file, of the epochs that are over; the first one names the columns.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._rows: dict[int, tuple[Terms, str]] = {}
        self._start = self._step = 0
        self._terms: Terms = {}

    def begin(self, step: int) -> None:
        """Start an epoch; step: the optimiser steps before it."""
        self._rows, self._start, self._step = {}, step, step

    def see(self, step: int, of_epoch: float, terms: Terms, digest: Callable[[], str] | None) -> None:
        """Take the terms of a batch.

        step: the optimiser steps so far. of_epoch: how many an epoch has; infinity where nobody knows. digest: that of
        the weights, which costs as much as a step; None on a rank that writes no file.
        """
        if step == self._step:
            return
        self._step, self._terms = step, terms
        distance = max(1, int(of_epoch) // _ROWS) if math.isfinite(of_epoch) else _APART
        if (step - self._start) % distance == 0:
            self._rows[step] = terms, digest() if digest and distance >= _APART else ""

    def end(self, epoch: int, digests: Mapping[str, str]) -> None:
        """Add the rows of an epoch, which counts from 1. digests: of the weights at its end, by track."""
        if self._step == self._start:
            return
        last = {self._step: (self._terms, digests.get("regular", ""))}
        for step, (terms, regular) in (self._rows | last).items():
            values = compact({name: value.item() for name, value in terms.items()})
            if not self.lines:
                self.lines = [",".join(("epoch", "step", *values, *PREFIX, "chain"))]
            average = digests.get("ema", "") if step == self._step else ""
            row = ",".join((str(epoch), str(step), *map(repr, values.values()), regular, average))
            self.lines.append(f"{row},{chain_link(self.lines[-1], row)}")

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        files.write_text(folder / FILE, "".join(f"{line}\n" for line in self.lines))
