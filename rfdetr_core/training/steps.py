"""steps.csv: loss terms of optimiser steps, and digests of the weights.

Each row has a digest of itself and all rows before it (its chain). So the first row in which two files differ shows
where two trainings begin to differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.chain import FILE, chain_link
from rfdetr_core.metrics.names import PREFIX
from rfdetr_core.training.module import Terms, compact

_ROWS = 20  # the least rows of a long epoch; few, because the file is in git
_DIGEST_DISTANCE = 200  # the least steps between two digests of weights: a digest takes as long as a step


class Steps:
    """Collects the rows of steps.csv, without waiting for the device before an epoch ends.

    A row has the epoch and the optimiser step (both from 1), the loss terms of the step's last batch on rank 0, and a
    link to the row before it (see `base.chain.chain_link`). The last row of an epoch also has the digests of the
    weights of both tracks (see `tensor_digest`).

    An epoch has 20 to 40 rows at equal distances, and a row for its last step. If the distance is 200 steps or more,
    each row has the digest of the regular weights. The distance depends only on the number of steps in an epoch, so an
    interrupted and an uninterrupted training write the same rows.

    lines: the lines of the file for the finished epochs. The first line names the columns.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._rows: dict[int, tuple[Terms, str]] = {}
        self._start = self._step = 0
        self._terms: Terms = {}

    def begin(self, step: int) -> None:
        """Start an epoch. step: the optimiser steps before it."""
        self._rows, self._start, self._step = {}, step, step

    def add_batch(self, step: int, steps_of_epoch: float, terms: Terms, digest: Callable[[], str] | None) -> None:
        """Take the terms of a batch.

        Args:
            step: optimiser steps so far.
            steps_of_epoch: optimiser steps in an epoch; infinity if unknown.
            terms: the loss and its terms, on the device.
            digest: computes the digest of the weights; None on a rank that writes no file.
        """
        if step == self._step:
            return
        self._step, self._terms = step, terms
        distance = max(1, int(steps_of_epoch) // _ROWS) if math.isfinite(steps_of_epoch) else _DIGEST_DISTANCE
        if (step - self._start) % distance == 0:
            self._rows[step] = terms, digest() if digest and distance >= _DIGEST_DISTANCE else ""

    def end(self, epoch: int, digests: Mapping[str, str]) -> None:
        """Add the rows of an epoch. epoch: its number, from 1. digests: of the weights at its end, by track."""
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
        """Write the file. It is replaced at once, never left half written."""
        files.write_text(folder / FILE, "".join(f"{line}\n" for line in self.lines))
