"""The callbacks of a training, with upstream's names and arguments. They also work in a plain Lightning Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from rfdetr_core.api.callback_arguments import check_flags, check_module, check_numbers, refuse
from rfdetr_core.api.custom_record import custom_part, store_initial_attributes
from rfdetr_core.api.preparation import Preparation, preparation_of
from rfdetr_core.api.training import as_path, select_and_strip
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import Checkpoint, read_plain
from rfdetr_core.checkpoint.schema import ResumeState
from rfdetr_core.config.settings import ABSENT
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.metrics.names import PREFIX
from rfdetr_core.training import record
from rfdetr_core.training.callbacks import CocoScoring, EarlyStopping, WeightAveraging
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.outputs import Best, RunFiles
from rfdetr_core.training.steps import Steps
from rfdetr_core.training.trainer import PlainCheckpoints

_BACKENDS = ("vernier", "hotcoco", "pycocotools")


class RFDETREMACallback(WeightAveraging):
    """Averages the weights. The average is validated in addition to the regular weights, as val/ema_*.

    Args:
        decay: See ema_decay of TrainConfig.
        tau: See ema_tau of TrainConfig.
        use_buffers: Must be True: the buffers are always copied. Training changes none of them.
        update_interval_steps: Optimiser steps between two updates.
    """

    changing: ClassVar[tuple[str, ...]] = ("average", "steps")

    def __init__(
        self, decay: float = 0.993, tau: float = 100, use_buffers: bool = True, update_interval_steps: int = 1
    ) -> None:
        refuse("RFDETREMACallback", {"use_buffers": (use_buffers, True, "the average has the buffers of the detector")})
        numbers = {"update_interval_steps": update_interval_steps}
        check_numbers("RFDETREMACallback", numbers, {"decay": decay, "tau": tau})
        if not 0 <= decay < 1 or tau < 0 or update_interval_steps < 1:
            raise UserError(
                f"RFDETREMACallback: decay is {decay}, tau {tau}, update_interval_steps {update_interval_steps}. decay "
                "must be at least 0 and below 1, tau at least 0, update_interval_steps at least 1."
            )
        super().__init__(decay, tau, update_interval_steps)
        self.arguments = {"decay": decay, "tau": tau, "update_interval_steps": update_interval_steps}
        store_initial_attributes(self)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the detector before Lightning restores or moves it. UserError: it is not an RFDETRModelModule."""
        check_module("RFDETREMACallback", pl_module)
        super().setup(trainer, pl_module, stage)

    @property
    def state_key(self) -> str:
        """The same key as in train(), so that both can resume each other's states."""
        return WeightAveraging.__qualname__


class COCOEvalCallback(CocoScoring):
    """Scores the detections on valid as val/* and val/ema_*, and in `trainer.test` on test as test/* and test/ema_*.

    The annotations are those of the module's dataset. The other arguments are accepted only because upstream has them.

    Args:
        max_dets: Largest number of detections that count, for each image and class.
        segmentation: Also score masks.
        eval_interval: Epochs between evaluations; the last epoch is always evaluated.
        log_per_class_metrics: Also record AP/<class>.
        eval_backend: Has no effect: every backend gives the numbers of pycocotools.
    """

    changing: ClassVar[tuple[str, ...]] = ("annotations", "detections", "mask_side", "masks")

    def __init__(
        self,
        max_dets: int = 500,
        segmentation: bool = False,
        eval_interval: int = 1,
        log_per_class_metrics: bool = True,
        keypoint_oks_sigmas: list[float] | None = None,
        in_notebook: bool | None = None,
        eval_ema_only: bool | None = None,
        eval_base_model: bool | None = None,
        eval_backend: str = "vernier",
    ) -> None:
        refused = {
            "keypoint_oks_sigmas": (keypoint_oks_sigmas, None, "there are no keypoint models"),
            "in_notebook": (in_notebook, None, "it displays nothing; the line of each epoch has the scores"),
            "eval_ema_only": (eval_ema_only or None, None, ABSENT["train"]["eval_ema_only"]),
            "eval_base_model": (True if eval_base_model is None else eval_base_model, True, _BOTH_TRACKS),
        }
        refuse("COCOEvalCallback", refused)
        if eval_backend not in _BACKENDS:
            raise UserError(
                f"COCOEvalCallback: eval_backend={eval_backend!r} is unknown. Use vernier, hotcoco or pycocotools."
            )
        check_numbers("COCOEvalCallback", {"max_dets": max_dets, "eval_interval": eval_interval})
        check_flags("COCOEvalCallback", segmentation=segmentation, log_per_class_metrics=log_per_class_metrics)
        if max_dets < 1 or eval_interval < 1:
            raise UserError(
                f"COCOEvalCallback: max_dets is {max_dets}, eval_interval {eval_interval}. Both must be at least 1."
            )
        nothing: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        super().__init__(nothing, segmentation, eval_interval, max_dets=max_dets, per_class=log_per_class_metrics)
        self.arguments = {"max_dets": max_dets, "segmentation": segmentation, "eval_interval": eval_interval}
        store_initial_attributes(self)

    @property
    def state_key(self) -> str:
        """The same key as in train(), so that both can resume each other's states."""
        return CocoScoring.__qualname__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the annotations. UserError: the module was not built from configs, or the model has no masks."""
        if stage == "predict":
            return
        inputs = preparation_of(pl_module, "COCOEvalCallback").inputs
        if "segm_" in self.kinds and not inputs.architecture.segmentation:
            raise UserError(f"COCOEvalCallback: segmentation=True, but {inputs.architecture.name} predicts no masks.")
        self.mask_side = inputs.scoring_options()["mask_side"]
        self.set_annotations(inputs.annotations("test" if stage == "test" else "valid"))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier detections."""
        self.on_validation_epoch_start(trainer, pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *others: Any) -> None:
        """Collect the detections of a batch."""
        self.on_validation_batch_end(trainer, pl_module, outputs, *others)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record test/* and test/ema_*."""
        self.score(trainer, pl_module, "test/")


_BOTH_TRACKS = ABSENT["train"]["eval_base_model"]


class RFDETREarlyStopping(EarlyStopping):
    """Stops a training when its score has not grown by `min_delta` in `patience` evaluations.

    Args:
        patience: Evaluations to wait.
        min_delta: Smallest growth that counts.
        use_ema: Monitor only the EMA score; by default the better of both.
        monitor_regular: Name of the score of the regular weights.
        monitor_ema: Name of the score of the averaged weights.
        verbose: Print why the training stops.
        skip_best_epochs: Number of first epochs to ignore.
    """

    changing: ClassVar[tuple[str, ...]] = ("best", "waited")

    def __init__(
        self,
        patience: int = 10,
        min_delta: float = 0.001,
        use_ema: bool = False,
        monitor_regular: str = "val/mAP_50_95",
        monitor_ema: str = "val/ema_mAP_50_95",
        verbose: bool = True,
        skip_best_epochs: int = 0,
    ) -> None:
        numbers = {"patience": patience, "skip_best_epochs": skip_best_epochs}
        check_numbers("RFDETREarlyStopping", numbers, {"min_delta": min_delta})
        check_flags("RFDETREarlyStopping", use_ema=use_ema, verbose=verbose)
        if patience < 1 or min_delta < 0 or skip_best_epochs < 0:
            raise UserError(
                f"RFDETREarlyStopping: patience is {patience}, min_delta {min_delta}, skip_best_epochs "
                f"{skip_best_epochs}. patience must be at least 1, min_delta and skip_best_epochs at least 0."
            )
        super().__init__("", patience, min_delta, use_ema)
        self.keys = [monitor_ema] if use_ema else [monitor_regular, monitor_ema]
        self.verbose, self.skip = verbose, skip_best_epochs
        self.arguments = {"patience": patience, "min_delta": min_delta, "use_ema": use_ema, "keys": self.keys}
        self.arguments |= {"skip_best_epochs": skip_best_epochs}
        store_initial_attributes(self)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise a UserError if `pl_module` is not an RFDETRModelModule."""
        check_module("RFDETREarlyStopping", pl_module)

    @property
    def state_key(self) -> str:
        """The same key as in train(), so that both can resume each other's states."""
        return EarlyStopping.__qualname__

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the scores of the epoch, if it has any."""
        if trainer.current_epoch >= self.skip:
            super().on_train_epoch_end(trainer, pl_module)


class DropPathCallback(Callback):
    """Sets the stochastic depth when training starts: from 0 in the first encoder block to drop_path in the last.

    The other arguments are accepted only because upstream has them. They must keep their defaults.
    """

    def __init__(
        self,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        cutoff_epoch: int = 0,
        mode: str = "standard",
        schedule: str = "constant",
        vit_encoder_num_layers: int = 12,
    ) -> None:
        refused = {
            "dropout": (dropout, 0.0, "drop_path is the only dropout of the model"),
            "cutoff_epoch": (cutoff_epoch, 0, "the rates hold for the whole training"),
            "mode": (mode, "standard", "the rates hold for the whole training"),
            "schedule": (schedule, "constant", "the rates hold for the whole training"),
            "vit_encoder_num_layers": (vit_encoder_num_layers, 12, "every block of the encoder gets its rate"),
        }
        refuse("DropPathCallback", refused)
        check_numbers("DropPathCallback", {}, {"drop_path": drop_path})
        if not 0 <= drop_path < 1:
            raise UserError(f"DropPathCallback: drop_path is {drop_path}. It must be at least 0 and below 1.")
        self.drop_path, self.arguments = drop_path, {"drop_path": drop_path}
        store_initial_attributes(self)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise a UserError if `pl_module` is not an RFDETRModelModule."""
        check_module("DropPathCallback", pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the rate of each block."""
        blocks: Any = cast(TrainingModule, pl_module).detector.get_submodule("encoder.blocks")
        for index, block in enumerate(blocks):
            block.drop_path.rate = self.drop_path * index / max(len(blocks) - 1, 1)


def _no_checkpoint_outside_fit(weights: Mapping[str, Tensor]) -> Checkpoint:
    raise UserError("BestModelCallback writes files only in trainer.fit.")


class BestModelCallback(RunFiles):
    """Writes the run folder: the best file of each track, states to resume, and at the end checkpoint_best_total.pth.

    Args:
        output_dir: The run folder.
        monitor_regular: The score that picks the best epoch, such as val/mAP_50_95.
        monitor_ema: The same score of the averaged weights, with val/ema_ for val/; None derives it.
        run_test: At the end, evaluate the winner on test, or on valid where test has no image.
        skip_best_epochs: See TrainConfig.
        smooth_alpha: See TrainConfig.
        evaluates_base_model: An argument of upstream. Must be True: the regular weights are always evaluated, too.
    """

    changing: ClassVar[tuple[str, ...]] = (
        *("begun", "best", "describe", "device", "fingerprint", "finished", "history", "interval", "record"),
        *("folder", "run_test", "steps", "unwritten"),
    )

    def __init__(
        self,
        output_dir: str | Path,
        monitor_regular: str = "val/mAP_50_95",
        monitor_ema: str | None = None,
        run_test: bool = True,
        skip_best_epochs: int = 0,
        smooth_alpha: float = 0.0,
        evaluates_base_model: bool = True,
    ) -> None:
        refuse("BestModelCallback", {"evaluates_base_model": (evaluates_base_model, True, _BOTH_TRACKS)})
        check_numbers("BestModelCallback", {"skip_best_epochs": skip_best_epochs}, {"smooth_alpha": smooth_alpha})
        check_flags("BestModelCallback", run_test=run_test)
        key = str(monitor_regular).removeprefix(PREFIX["regular"])
        if key == monitor_regular or monitor_ema not in (None, PREFIX["ema"] + key):
            raise UserError(
                f"BestModelCallback: monitor_regular is {monitor_regular!r} and monitor_ema {monitor_ema!r}. One score "
                "ranks both tracks: give val/NAME and val/ema_NAME."
            )
        if skip_best_epochs < 0 or not 0 <= smooth_alpha < 1:
            raise UserError(
                f"BestModelCallback: skip_best_epochs is {skip_best_epochs}, smooth_alpha {smooth_alpha}. "
                "skip_best_epochs must be at least 0, smooth_alpha at least 0 and below 1."
            )
        folder = as_path(output_dir, "output_dir")
        super().__init__(folder, key, _no_checkpoint_outside_fit, skip=skip_best_epochs, smooth=smooth_alpha)
        self.run_test = run_test
        self.arguments = {"monitor": key, "skip_best_epochs": skip_best_epochs, "smooth_alpha": smooth_alpha}
        self.record: dict[str, Any] = {}
        self.begun, self.device = False, "cpu"
        store_initial_attributes(self)

    @property
    def state_key(self) -> str:
        """The same key as in train(), so that both can resume each other's states."""
        return RunFiles.__qualname__

    def begin(self, trainer: Trainer, module: Any, data: Any, state: Any, configured: list[Callback]) -> None:
        """Compute the training record of a training that is about to start.

        Args:
            trainer: The trainer that will fit.
            module: The RFDETRModelModule; it was built from configs.
            data: The data module; None for loaders.
            state: The checkpoint.pth to resume; None starts from scratch.
            configured: Those callbacks of the trainer that were made from the configs.

        Raises:
            UserError: the module was not built from configs, or the dataset has changed since.
        """
        preparation = preparation_of(module, "BestModelCallback")
        candidates = (preparation, *(getattr(owner, "preparation", None) for owner in (data, trainer)))
        for distinct in {id(candidate): candidate for candidate in candidates if candidate is not None}.values():
            if not distinct.is_current():
                raise UserError(
                    "The dataset has changed since the module was made. Make module, data module and trainer again."
                )
        custom = custom_part(trainer, module, data, configured, resumed=state is not None)
        inputs, self.record = preparation.start(state, custom, trainer.max_epochs or 0)
        self.device = str(trainer.strategy.root_device)
        if state is None and record.first_process() and _is_unfinished(self.folder / record.STATE_FILE):
            say(
                f"{self.folder} has the state of an unfinished training. To resume it, give ckpt_path="
                f'"{self.folder / record.STATE_FILE}". This training starts from scratch.'
            )
        self.describe = partial(inputs.describe, self.record)
        self.fingerprint, self.interval = record.fingerprint(self.record), inputs.runtime.checkpoint_interval
        self.history, self.best = [], {track: Best() for track in PREFIX}
        self.unwritten, self.finished, self.begun, self.steps = set(), False, True, Steps()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Call `begin`, since a plain Lightning Trainer does not call it."""
        if stage == "fit" and not self.begun:
            if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
                trainer.strategy.checkpoint_io = PlainCheckpoints()
            self.begin(trainer, pl_module, getattr(trainer, "datamodule", None), trainer.ckpt_path, [])
            self.begun = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """If the resumed training has already finished its epochs, write its files from the state."""
        super().on_fit_start(trainer, pl_module)
        if self.history and len(self.history) == trainer.max_epochs and trainer.is_global_zero:
            self._write()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the history; write the files that changed."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_epoch_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `finish`, since a plain Lightning Trainer does not call it."""
        if not self.begun and trainer.is_global_zero:
            self.finish(pl_module)

    def finish(self, module: Any) -> None:
        """Choose the winner of the two tracks and write its stripped checkpoint; with run_test, evaluate that file."""
        if not self.history:
            return
        best = select_and_strip(self.folder)
        if self.run_test:
            evaluate_best(best, preparation_of(module, "BestModelCallback"), self.folder, self.device)
        say(f"use: python -m rfdetr_core predict {best} IMAGE")


def _is_unfinished(path: Path) -> bool:
    try:
        return path.is_file() and not read_plain(path, ResumeState, tensors=False)["run"]["finished"]
    except UserError:
        return False


def evaluate_best(best: Path, preparation: Preparation, folder: Path, device: str) -> None:
    """Evaluate a model file on the test split and print the score, as `RFDETR.train` does with run_test.

    Args:
        best: The model file.
        preparation: The preparation of its training.
        folder: The run folder; the report goes to its subfolder evaluate/.
        device: The device that predicts.
    """
    from rfdetr_core.evaluation.evaluate import evaluate
    from rfdetr_core.inference.predictor import Predictor
    from rfdetr_core.observers.publishing import track_evaluation

    where = preparation.inputs.where
    predictor = Predictor.from_checkpoint(best, device=device)
    scores = evaluate(predictor, where, EvaluateConfig(), folder / "evaluate")
    track_evaluation(where, folder, folder / "evaluate", preparation.inputs.runtime)
    say(f"{scores['split']}/mAP_50_95 of {best}: {scores['map']:.3f}")
