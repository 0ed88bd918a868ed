"""Finds a loss or gradient that is not finite before it changes a weight, and saves its batch.

`python -m rfdetr_core.training.nonfinite output/nonfinite_batch.pth` computes the saved batch again, on the CPU.
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
_STEPS_AHEAD = 2  # steps that may be queued on an accelerator before the oldest check is read


@dataclass(frozen=True)
class Step:
    """The data of a training step from which it can be computed again.

    batch: at the size that the step used. point_seed: of the mask points. names, values: the loss and its terms.
    number: the step's place in its epoch.
    """

    batch: Batch
    point_seed: int
    names: tuple[str, ...]
    values: Tensor
    number: int

    def terms(self) -> dict[str, float]:
        """The loss and its terms."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


class NonFiniteError(UserError):
    """The loss or the gradient of a step is not finite. `saved` writes the file from which it can be computed again."""

    def __init__(self, message: str, content: dict[str, Any]) -> None:
        super().__init__(message)
        self.content = content

    def saved(self, folder: Path) -> str:
        """Write the file. Returns the message, which names it."""
        path = folder / FILE
        write_plain(path, self.content)
        return f"{self} The batch and the weights are in {path}. To compute the loss again: python -m {__name__} {path}"


class Watch:
    """Checks every step for NaN and infinity. Reads a result two steps later, so that it does not wait for the device.

    `bad` is a flag on the device. The first step with a value that is not finite sets it to 1, and it stays 1. A fused
    AdamW takes the flag as `found_inf` and then changes no weight. So when the step is found, the weights are still
    those that it used.
    """

    def __init__(self) -> None:
        self.bad: Tensor | None = None
        self._step: Step | None = None
        self._waiting: deque[tuple[Step, Tensor, torch.cuda.Event | None]] = deque()

    def check(self, values: Tensor, step: Step | None = None) -> None:
        """Check the values of a step. step None: more values of the last step, such as the norm of its gradient."""
        self._step = step or self._step
        bad = (~values.isfinite().all()).float()
        self.bad = bad if self.bad is None else torch.maximum(self.bad, bad)

    def first(self, last: bool = False) -> Step | None:
        """End the step. Returns the first step with a value that is not finite, or None if no such step is known yet.

        last: wait for the checks of all steps. Otherwise, on an accelerator, the newest checks are not read yet.
        """
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


def replay_content(step: Step, architecture: Architecture, weights: Mapping[str, Tensor], args: Any) -> dict[str, Any]:
    """The content of a file from which `replay` computes a step again: a model file with the keys batch and losses.

    Args:
        step: the step.
        architecture: of the model.
        weights: those that the step used.
        args: the section `train`.
    """
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
    """Compute the loss terms of a saved batch, in fp32 on the CPU. With drop_path, the random paths differ.

    Raises:
        UserError: the file cannot be read.
    """
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
    path = Path(sys.argv[1])
    content = read_plain(path)
    details = f"step {content['step']}, learning rate {content['lr']:g}, amp_dtype {content['amp']}"
    say(f"epoch {content['epoch'] + 1}, {details}")
    say(*content["batch"]["paths"])
    for name, value in replay(path).items():
        say(f"{name:20} {content['losses'][name]:12g} in the training, {value:12g} now in fp32")
