"""A loss or gradient that is not finite: found before it changes a weight, and kept so that it can be looked into.

`python -m rfdetr_core.training.nonfinite output/nonfinite_batch.pth` computes the kept batch again, on the CPU.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import file_content, make_checkpoint, read_checkpoint, read_plain, write_plain
from rfdetr_core.checkpoint.loading import architecture_of, load_weights
from rfdetr_core.data.batching import Batch
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import Target

FILE = "nonfinite_batch.pth"
_STEPS_AHEAD = 2  # that may be queued on an accelerator before the oldest one's check is waited for


@dataclass(frozen=True)
class Step:
    """What a step computed: its batch at the size it had, the seed of mask points, and the loss terms by name."""

    batch: Batch
    point_seed: int
    names: tuple[str, ...]
    values: Tensor
    number: int

    def terms(self) -> dict[str, float]:
        """The loss and its terms."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


class NonFiniteError(UserError):
    """A step that is not finite. `saved` writes what is needed to compute it again."""

    def __init__(self, message: str, content: dict[str, Any]) -> None:
        super().__init__(message)
        self.content = content

    def saved(self, folder: Path) -> str:
        """Write the file and tell of it."""
        path = folder / FILE
        write_plain(path, self.content)
        return f"{self} The batch and the weights are in {path}; python -m {__name__} {path} computes it again."


class Watch:
    """Looks at every step without waiting for the device: a value is read when two later steps are queued.

    `bad` (0 or 1, on the device) stays 1 from the first step on that is not finite. A fused AdamW takes it as
    `found_inf` and then changes nothing, so the weights are still those of that step when it is found.
    """

    def __init__(self) -> None:
        self.bad: Tensor | None = None
        self._step: Step | None = None
        self._waiting: deque[tuple[Step, Tensor, torch.cuda.Event | None]] = deque()

    def see(self, values: Tensor, step: Step | None = None) -> None:
        """Take the values of a step or, without it, more values of the last one, such as the norm of its gradient."""
        self._step = step or self._step
        bad = (~values.isfinite().all()).float()
        self.bad = bad if self.bad is None else torch.maximum(self.bad, bad)

    def first(self, last: bool = False) -> Step | None:
        """Close the step; the first one that is known by now not to be finite. With `last`, wait for all."""
        assert self._step is not None
        assert self.bad is not None
        host, event = self.bad, None
        if self.bad.is_cuda:
            host = torch.empty(self.bad.shape, pin_memory=True).copy_(self.bad, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._waiting.append((self._step, host, event))
        while self._waiting and (last or event is None or len(self._waiting) > _STEPS_AHEAD):
            step, host, event = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            if host.item():
                return step
        return None


def kept(step: Step, architecture: Architecture, weights: Mapping[str, Tensor], args: Any) -> dict[str, Any]:
    """What computes a step again, as plain values: a model file with the keys batch and losses. args: of training."""
    batch = step.batch.to("cpu")
    content = {
        "images": batch.images,
        "padding": batch.padding,
        "targets": [vars(target) for target in batch.targets],
        "paths": [sample.path for sample in batch.samples],
        "point_seed": step.point_seed,
    }
    model = file_content(make_checkpoint(architecture, weights, class_names=[], args=args))
    return model | {"batch": content, "losses": step.terms()}


def replay(path: Path) -> dict[str, float]:
    """The loss terms of a kept batch, in fp32 on the CPU; with drop_path, of another draw. UserError: no such file."""
    checkpoint, batch = read_checkpoint(path, finite=False), read_plain(path)["batch"]
    architecture = architecture_of(checkpoint)
    detector = build_detector(architecture, drop_path=checkpoint.args["drop_path"]).train()
    load_weights(detector, architecture, checkpoint)
    targets = [Target(**target) for target in batch["targets"]]
    with torch.no_grad():
        output = detector(batch["images"], batch["padding"])
        criterion = Criterion(LossConfig.of(checkpoint.args))
        losses = criterion(output, targets, groups=architecture.groups, point_seed=batch["point_seed"])
    return {"loss": losses.total.item()} | {name: value.item() for name, value in losses.terms.items()}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    before = read_plain(place)
    about = f"step {before['step']}, learning rate {before['lr']:g}, amp_dtype {before['amp']}"
    say(f"epoch {before['epoch'] + 1}, {about}")
    say(*before["batch"]["paths"])
    for name, value in replay(place).items():
        say(f"{name:20} {before['losses'][name]:12g} then, {value:12g} in fp32")
