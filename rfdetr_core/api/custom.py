"""The custom training API: Lightning module, data module and Trainer, with upstream's arguments or this project's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, overload

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rfdetr_core.api.callbacks import BestModelCallback, COCOEvalCallback, RFDETREarlyStopping, RFDETREMACallback
from rfdetr_core.api.configs import ModelSettings, TrainSettings, device_name
from rfdetr_core.api.custom_record import store_initial_attributes
from rfdetr_core.api.preparation import Preparation, check_configs, preparation_for, preparation_of, prepare
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import tensor_digest
from rfdetr_core.data.batching import Batch
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.data.dataset import DetectionDataset, Item
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.metrics.names import PREFIX
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.observers import observers
from rfdetr_core.training import trainer as training
from rfdetr_core.training.compilation import compiler_settings
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.interruption import StopSignals
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.record import first_process, sole_writer
from rfdetr_core.training.run import errors_explained, quiet_lightning, say_batch_size

_USAGE = "build_trainer takes train_config and model_config, in this order. Give other options by name."


class RFDETRModelModule(TrainingModule):
    """Trains a detector. A subclass may override any step or hook of Lightning.

    There are two ways to build it. From configs: `RFDETRModelModule(model_config, train_config)` starts with the
    weights of `pretrain_weights` and takes the classes from the dataset. The dataset is validated and converted into
    output_dir/dataset; a module and a data module of the same two configs share the result. From a detector and its
    settings: `RFDETRModelModule(detector, architecture, config, sizes)`, see TrainingModule.

    Raises:
        UserError: as `RFDETR.train`; or num_classes differs from the number of classes in the dataset.
    """

    model_config: ModelSettings
    train_config: TrainSettings
    changing: ClassVar[tuple[str, ...]] = ("epoch_metrics", "loss", "start", "terms", "tracks")

    @overload
    def __init__(self, model_config: ModelSettings, train_config: TrainSettings) -> None: ...

    @overload
    def __init__(
        self, detector: nn.Module, architecture: Architecture, config: TrainConfig, sizes: Sequence[int] = ()
    ) -> None: ...

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.preparation = preparation_for("RFDETRModelModule", arguments, keywords)
        if self.preparation is None:
            super().__init__(*arguments, **keywords)
            store_initial_attributes(self)
            return
        inputs = self.preparation.inputs
        detector, self.start = inputs.detector()
        super().__init__(detector, inputs.architecture, inputs.config, inputs.sizes)
        self.model_config, self.train_config = self.preparation.configs
        self.first_weights = tensor_digest(self.detector.state_dict())
        store_initial_attributes(self)

    @property
    def model(self) -> nn.Module:
        """The torch module: normalised images (B, 3, H, W) to DetectorOutput."""
        return self.detector

    def on_validation_start(self) -> None:
        """Move the averaged weights to the device of the regular weights."""
        for network in self.tracks.values():
            network.to(self.device)

    def on_test_start(self) -> None:
        """Move the averaged weights to the device of the regular weights."""
        RFDETRModelModule.on_validation_start(self)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, list[dict[str, Any]]]:
        """The detections of every track, as COCO results in pixels of the original images."""
        if not batch.samples:
            return {}
        batch = batch.normalised()
        tracks = self.tracks.items()
        return {track: self.results(network(batch.images, batch.padding), batch) for track, network in tracks}

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Tensor]]:
        """The detections of each image, best first: scores (N,), labels (N,), boxes (N, 4) and masks (N, H, W).

        Boxes are xyxy in pixels of the image. Only segmentation models have masks. The regular weights predict. The
        tensors are on the CPU.

        Args:
            batch: A batch of the data module.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        if not batch.samples:
            return []
        batch = batch.normalised()
        sizes = [(sample.height, sample.width) for sample in batch.samples]
        results = postprocess(self.detector(batch.images, batch.padding), sizes, self.architecture.queries)
        return [
            {name: value for name, value in vars(detections).items() if value is not None} for detections in results
        ]


class RFDETRDataModule(TrainingData):
    """The loaders of one dataset. A subclass may override any of them.

    It is built from configs, `RFDETRDataModule(model_config, train_config)`, as RFDETRModelModule; or from samples,
    `RFDETRDataModule(root, train_samples, valid_samples, resolution=..., batch_size=..., seed=...)`, see TrainingData.

    Raises:
        UserError: as RFDETRModelModule, or as TrainingData.
    """

    @overload
    def __init__(self, model_config: ModelSettings, train_config: TrainSettings) -> None: ...

    @overload
    def __init__(
        self, root: Path, train_samples: list[Sample], valid_samples: list[Sample], **options: Any
    ) -> None: ...

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.preparation = preparation_for("RFDETRDataModule", arguments, keywords)
        if self.preparation is None:
            super().__init__(*arguments, **keywords)
        else:
            super().__init__(**self.preparation.inputs.data)
            self.model_config, self.train_config = self.preparation.configs
        store_initial_attributes(self)

    @property
    def class_names(self) -> list[str] | None:
        """The name of each class label; None if the data module was not built from configs."""
        return None if self.preparation is None else list(self.preparation.inputs.classes)

    def test_dataloader(self) -> DataLoader[Item]:
        """Each test image once, in order.

        Raises:
            UserError: there is no test image, or the data module was not built from configs.
        """
        inputs = preparation_of(self, "test_dataloader()").inputs
        samples = read_samples(*inputs.where.split("test"))
        if not samples:
            raise UserError(f"{inputs.where.dataset} has no test split. Use trainer.validate, or add images to test/.")
        masks = inputs.architecture.segmentation
        return self.in_order(
            DetectionDataset(samples, inputs.where.dataset, inputs.architecture.resolution, masks=masks)
        )

    def predict_dataloader(self) -> DataLoader[Item]:
        """Each validation image once, in order."""
        return self.val_dataloader()


class ConfiguredTrainer(Trainer):
    """A Lightning Trainer. Before and after a training, its `fit` does the same as `RFDETR.train`.

    It locks the run folder, stops after the current step on SIGINT or SIGTERM, adds advice to error messages, prints
    and logs each epoch, and at the end chooses and strips the best weights.
    """

    callbacks: list[Callback]
    preparation: Preparation
    run_files: BestModelCallback | None = None
    configured_callbacks: Sequence[Callback] = ()
    trainer_options: Mapping[str, Any] = MappingProxyType({})

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: Any = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train; see Lightning's Trainer.

        Args:
            model: An RFDETRModelModule that was built from the same two configs as the trainer.
            train_dataloaders: Loaders, or the data module.
            val_dataloaders: Loaders, if no data module is given.
            datamodule: The RFDETRDataModule.
            ckpt_path: The checkpoint.pth to resume; None takes `resume` of TrainConfig.
            weights_only: Not used: files are always read without running their code.

        Raises:
            UserError: see `train_model`; or the module or data module was built from other configs.
        """
        preparation, data = self.preparation, datamodule
        if data is None and isinstance(train_dataloaders, LightningDataModule):
            data, train_dataloaders = train_dataloaders, None
        self._check(model, data)
        state = ckpt_path or (preparation.plan.weights if preparation.plan.settings.resume is not None else None)
        config, signals, before, written = preparation.inputs.config, StopSignals(), self.callbacks, self.run_files
        output, signals.trainer = preparation.output if written is None else written.folder, self
        with ExitStack() as stack:
            stack.enter_context(errors_explained(config, output, signals))
            stack.enter_context(signals.handled())
            stack.enter_context(compiler_settings(config))
            stack.callback(setattr, self, "callbacks", before)
            extra: list[Callback] = [signals]
            if written is not None:
                stack.enter_context(sole_writer(output))
                written.begin(self, model, data, state, [*self.configured_callbacks])
                stack.callback(setattr, written, "begun", False)
                extra += observers(preparation.plan.settings.runtime, written.record, output)
                if state is None and first_process():
                    say(*getattr(model, "start", ()))
                say_batch_size(written.record)
            # Callbacks that write files come last, since they need the values of the others.
            self.callbacks = sorted([*before, *extra], key=lambda callback: isinstance(callback, Checkpoint))
            super().fit(model, train_dataloaders, val_dataloaders, data, state, weights_only=True)
            if written is not None and self.is_global_zero:
                written.finish(model)

    def _check(self, module: LightningModule, data: LightningDataModule | None) -> None:
        preparations = [preparation_of(module, "a trainer of configs"), getattr(data, "preparation", None)]
        for name, preparation in zip(("module", "data module"), preparations, strict=True):
            if preparation is not None and preparation.plan != self.preparation.plan:
                raise UserError(
                    f"The {name} was built from other configs than the trainer. Build module, data module and "
                    "trainer from the same model_config and train_config."
                )


@overload
def build_trainer(
    train_config: TrainSettings,
    model_config: ModelSettings,
    *,
    accelerator: str | None = None,
    include_training_callbacks: bool = True,
    callbacks: Sequence[Callback] = (),
    **trainer_kwargs: Any,
) -> Trainer: ...


@overload
def build_trainer(config: TrainConfig, *, callbacks: Sequence[Callback] = (), **trainer_kwargs: Any) -> Trainer: ...


def build_trainer(*arguments: Any, **keywords: Any) -> Trainer:
    """Build a Trainer for an RFDETRModelModule.

    build_trainer(train_config, model_config) has everything that train() has: averaged weights, scores, the files of a
    run in `output_dir`, and early stopping and loggers if the config asks for them. build_trainer(config) takes one
    TrainConfig of the pipeline; it has only averaged weights and `callbacks`, see training/trainer.py.

    Args:
        train_config: The TrainConfig of rfdetr_core.config.
        model_config: The config of a variant, such as RFDETRNanoConfig.
        accelerator: Replaces the accelerator of the config.
        include_training_callbacks: False gives only scores and progress, and no files. (fast_dev_run also writes none.)
        callbacks: Added callbacks. A callback whose class is from rfdetr_core.training.callbacks replaces the default
            callback of that class.
        trainer_kwargs: Any other option of Lightning's Trainer.

    Raises:
        UserError: this machine lacks the device or the precision; or as RFDETRModelModule.
    """
    names = ("train_config", "model_config")
    _check_callbacks(keywords.get("callbacks"))
    if not arguments and not keywords.keys() & {*names, "config"}:
        raise UserError(_USAGE)
    if len(arguments) < 2 and not keywords.keys() & set(names):
        return training.build_trainer(*arguments, **keywords)
    options = dict(zip(names, arguments, strict=False)) | keywords
    if len(arguments) > 2 or not options.keys() >= set(names):
        raise UserError(_USAGE)
    train_config, model_config = (options.pop(name) for name in names)
    check_configs("build_trainer", model_config, train_config)
    return _configured(prepare(model_config, train_config), **options)


def _configured(
    preparation: Preparation,
    *,
    accelerator: str | None = None,
    include_training_callbacks: bool = True,
    callbacks: Sequence[Callback] | Callback | None = (),
    **options: Any,
) -> Trainer:
    inputs, settings = preparation.inputs, preparation.plan.settings
    config, writes = inputs.config, include_training_callbacks and not options.get("fast_dev_run")
    if options.get("gradient_clip_algorithm") not in (None, "norm"):
        algorithm = options["gradient_clip_algorithm"]
        raise UserError(f"gradient_clip_algorithm={algorithm!r} is not possible here: gradients are clipped by norm.")
    if accelerator is not None:
        changed = {"accelerator": device_name(accelerator).partition(":")[0]}
        config = parse(TrainConfig, config.model_dump(mode="json") | changed, "build_trainer()")
    added_callbacks = [callbacks] if isinstance(callbacks, Callback) else [*(callbacks or ())]
    configured = _configured_callbacks(preparation, config, include_training_callbacks, writes)
    # An added callback replaces the configured callback of the same class, at the same position.
    placed = [
        next((callback for callback in added_callbacks if isinstance(callback, type(default))), default)
        for default in configured
    ]
    added = [callback for callback in added_callbacks if callback not in placed]
    averages = [callback for callback in added if isinstance(callback, RFDETREMACallback)]
    everything = [*averages, *placed, *(callback for callback in added if callback not in averages)]
    configured = [callback for callback in configured if callback in placed]
    for callback in configured:
        store_initial_attributes(callback)
    quiet_lightning()
    defaults = {"num_sanity_val_steps": settings.num_sanity_val_steps, "enable_progress_bar": not writes}
    # The callbacks already contain the weight averaging.
    plain = config.model_copy(update={"use_ema": False})
    trainer = training.build_trainer(plain, callbacks=everything, trainer_class=ConfiguredTrainer, **defaults | options)
    assert isinstance(trainer, ConfiguredTrainer)
    written = [callback for callback in everything if isinstance(callback, BestModelCallback)]
    trainer.preparation, trainer.configured_callbacks, trainer.trainer_options = preparation, configured, options
    trainer.run_files = written[0] if written and not options.get("fast_dev_run") else None
    return trainer


def _configured_callbacks(
    preparation: Preparation, config: TrainConfig, training: bool, writes: bool
) -> list[Callback]:
    """The callbacks that the configs ask for. training: False for only the scoring. writes: also write files."""
    inputs, scoring = preparation.inputs, preparation.inputs.scoring_options()
    masks, interval = inputs.architecture.segmentation, scoring["interval"]
    configured: list[Callback] = [COCOEvalCallback(scoring["max_dets"], masks, interval, scoring["per_class"])]
    if not training:
        return configured
    if config.use_ema:
        configured.insert(0, RFDETREMACallback(config.ema_decay, config.ema_tau, True, config.ema_update_interval))
    configured += inputs.callbacks()
    regular, ema = (PREFIX[track] + inputs.metric for track in PREFIX)
    if config.early_stopping:
        patience, delta = config.early_stopping_patience, config.early_stopping_min_delta
        configured.append(RFDETREarlyStopping(patience, delta, config.early_stopping_use_ema, regular, ema))
    if writes:
        best = (config.skip_best_epochs, config.smooth_alpha)
        configured.append(
            BestModelCallback(preparation.output, regular, ema, preparation.plan.settings.run_test, *best)
        )
    return configured


def _check_callbacks(value: Any) -> None:
    """Raise a UserError for a value that is not a callback, and for two callbacks of one of the project's classes."""
    listed = [value] if isinstance(value, Callback) else value or ()
    if not isinstance(listed, list | tuple) or not all(isinstance(callback, Callback) for callback in listed):
        raise UserError(f"build_trainer: callbacks is {value!r}. Give a list of Lightning callbacks.")
    for kind in (BestModelCallback, COCOEvalCallback, RFDETREMACallback, RFDETREarlyStopping):
        if sum(isinstance(callback, kind) for callback in listed) > 1:
            raise UserError(f"build_trainer: callbacks has more than one {kind.__name__}. Give one.")
