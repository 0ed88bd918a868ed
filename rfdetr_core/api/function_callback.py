"""The callback that calls the functions in `RFDETR.callbacks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from rfdetr_core.training.module import TrainingModule


class FunctionCallback(Checkpoint):
    """Calls functions of a script with the values of an epoch, as `RFDETR.callbacks` of earlier upstream versions did.

    It derives from Lightning's class Checkpoint. Lightning calls such callbacks last, when the losses of the epoch are
    known.
    """

    def __init__(self, functions: Mapping[str, Sequence[Callable[[dict[str, float]], object]]]) -> None:
        self.functions = functions

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call the functions of on_fit_epoch_end."""
        self._call("on_fit_epoch_end", trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call the functions of on_train_end with the values of the last epoch."""
        self._call("on_train_end", trainer, pl_module)

    def _call(self, event: str, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = {"epoch": trainer.current_epoch + (event == "on_fit_epoch_end")}
        for function in self.functions.get(event, ()):
            function(epoch | cast(TrainingModule, pl_module).epoch_metrics)
