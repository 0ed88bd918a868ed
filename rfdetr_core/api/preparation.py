"""What a pair of configs comes to, made once: the dataset converted, the inputs of a training, its record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)
from torch import are_deterministic_algorithms_enabled

from rfdetr_core.api.configs import ModelSettings, TrainSettings
from rfdetr_core.api.training import Plan, as_path, find_weights, prepare_dataset, trained_sizes
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import read_checkpoint, read_plain, tensor_digest
from rfdetr_core.checkpoint.schema import ResumeState
from rfdetr_core.inference.predictor import find_device
from rfdetr_core.training import record
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.inputs import Inputs, read_inputs
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.trainer import device_kind, devices, resolved_precision

# Callbacks of Lightning that only watch.
_WATCHING = (DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint, ModelSummary, ProgressBar)


@dataclass(frozen=True, eq=False)
class Preparation:
    """A pair of configs, checked, and the training that they ask for.

    configs: kept, so that no other object gets their ids while this is found by them.
    """

    configs: tuple[ModelSettings, TrainSettings]
    plan: Plan
    inputs: Inputs
    record: dict[str, Any]

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.plan.output

    def started(self, state: Any, custom: Mapping[str, Any]) -> tuple[Inputs, dict[str, Any]]:
        """Inputs and record of a training that goes on from a state, or from none. custom: see `custom_part`.

        A state of the same training is gone on from as if it had not stopped. That of another one, for example of
        fewer epochs, is a parent in the record.

        Raises:
            UserError: no state of a training, or one with other parameters than the length, or other classes.
        """
        inputs, part = self.inputs, {"custom": dict(custom)} if custom else {}
        if state is None:
            return inputs, self.record | part
        path = as_path(state, "ckpt_path")
        if not path.is_file():
            raise UserError(f"ckpt_path is {str(path)!r}, which is no file. Give the path of a checkpoint.pth.")
        own = self.record | part
        if inputs.asked.resume is None:
            run = read_plain(path, ResumeState, tensors=False)["run"] if _has_run(path) else {"fingerprint": {}}
            if not record.differences(run["fingerprint"], record.fingerprint(own)):
                return inputs, own
            named = {"resume": path.name}
            inputs = replace(
                inputs,
                where=replace(inputs.where, weights=path.parent),
                model=inputs.model.model_copy(update={"pretrain_weights": None}),
                asked=inputs.asked.model_copy(update=named),
                config=inputs.config.model_copy(update=named),
            )
            own = inputs.record() | part
        elif path.resolve() != self.plan.weights.resolve():
            raise UserError(f"ckpt_path is {path}, but TrainConfig has resume={str(self.plan.weights)!r}. Give one.")
        _, message = record.named_state(path, inputs.asked, record.fingerprint(own))
        if record.first_process():
            say(message)
        return inputs, own


def _has_run(path: Path) -> bool:
    return read_plain(path, tensors=False).get("run") is not None


_made: WeakValueDictionary[tuple[int, int], Preparation] = WeakValueDictionary()


def prepare(model_config: ModelSettings, train_config: TrainSettings) -> Preparation:
    """Check a pair of configs, and validate and convert the dataset into output_dir/dataset.

    For the same two objects it is done once, as long as anything that was made of them exists.

    Raises:
        UserError: as `RFDETR.train`; or num_classes is not the number of the dataset's classes.
    """
    key = (id(model_config), id(train_config))
    if (known := _made.get(key)) is not None:
        return known
    plan = _plan(model_config, train_config)
    with record.sole_writer(plan.output):
        where = prepare_dataset(plan.dataset, plan.output / "dataset", plan.weights.parent)
        settings = plan.settings
        inputs = read_inputs(where, plan.model, settings.train, settings.runtime, plan.output)
        found, asked = len(inputs.classes), model_config.num_classes
        if asked not in (None, found):
            raise UserError(
                f"num_classes is {asked}, but {plan.dataset} has {found} classes: {', '.join(inputs.classes)}. "
                f"Write num_classes={found}, or leave it out: then it is the dataset's."
            )
        made = Preparation((model_config, train_config), plan, inputs, inputs.record())
    _made[key] = made
    return made


def _plan(model_config: ModelSettings, train_config: TrainSettings) -> Plan:
    section, weights = model_config.section, None
    if train_config.resume is None:  # which has the weights
        weights = find_weights(model_config.pretrain_weights)
    if weights is not None:
        sizes = trained_sizes(read_checkpoint(weights), model_config.variant).items()
        section = section.model_copy(update={key: one for key, one in sizes if getattr(section, key) is None})
    keywords = train_config.model_dump(mode="json", include={*TrainSettings.model_fields})
    if train_config.accelerator == "auto":
        del keywords["accelerator"]
    return Plan.of(section, weights, find_device(model_config.device), keywords)


def pair_of(call: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Preparation | None:
    """The preparation where a class is called with upstream's (model_config, train_config); None where it is not.

    Raises:
        UserError: one of the two is missing or something else; or see `prepare`.
    """
    names = ("model_config", "train_config")
    if not keywords.keys() & set(names) and not any(
        isinstance(one, ModelSettings | TrainSettings) for one in arguments[:2]
    ):
        return None
    given = dict(zip(names, arguments, strict=False)) | dict(keywords)
    if given.keys() != set(names) or len(arguments) > 2:
        raise UserError(f"{call} takes (model_config, train_config), and nothing else with them.")
    check_configs(call, given["model_config"], given["train_config"])
    return prepare(given["model_config"], given["train_config"])


def check_configs(call: str, model_config: Any, train_config: Any) -> None:
    """Raise a UserError where one of the two is of another type, such as the other one."""
    kinds: dict[str, tuple[Any, type, str]] = {
        "model_config": (model_config, ModelSettings, "RFDETRNanoConfig()"),
        "train_config": (train_config, TrainSettings, 'TrainConfig(dataset_dir="...")'),
    }
    for name, (config, kind, example) in kinds.items():
        if not isinstance(config, kind):
            raise UserError(
                f"{call}: {name} is a {type(config).__name__}. Give {name}={example} of rfdetr_core.config."
            )


def preparation_of(what: Any, reason: str) -> Preparation:
    """That of a module or a data module. UserError: it was not made of configs."""
    found = getattr(what, "preparation", None)
    if not isinstance(found, Preparation):
        name = type(what).__name__ if what is not None else "the module"
        raise UserError(
            f"{reason} needs RFDETRModelModule(model_config, train_config), and {name} is not made of them."
        )
    return found


def custom_part(
    trainer: Trainer, module: TrainingModule, data: Any, own: Sequence[Callback], resumed: bool
) -> dict[str, Any]:
    """The part `custom` of a training record: what decided the result beside the parameters; empty: nothing did.

    own: the callbacks that the parameters ask for. data: the data module; None: loaders.

    classes: of the module, the data and the strategy, those that are neither the project's nor Lightning's, with the
    SHA-256 of the file that defines each; None: no file does. callbacks: those beside `own`, with their arguments or
    the SHA-256 of their file. missing: those of `own` that were removed. trainer: options that differ from the
    parameters. weights: the digest of the first ones, where they are not those that the module was made with.
    """
    present: list[Callback] = vars(trainer)["callbacks"]
    things = [module, trainer.strategy, *([] if data is None else [data])]
    classes = {name_of(thing): _file_of(thing) for thing in things if not _is_known(thing)}
    if data is None:
        classes["loaders"] = None
    others = [one for one in present if one not in own and not isinstance(one, _WATCHING)]
    found = {
        "classes": classes,
        "callbacks": {name_of(one): getattr(one, "arguments", None) or _file_of(one) for one in others},
        "missing": [name_of(one) for one in own if one not in present],
        "trainer": _changed_options(trainer, module.config),
    }
    if not resumed and (digest := tensor_digest(module.detector.state_dict())) != getattr(
        module, "first_weights", None
    ):
        found["weights"] = digest
    return {key: value for key, value in found.items() if value}


def name_of(thing: Any) -> str:
    """The name of its class, with the module."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _is_known(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] in ("rfdetr_core", "pytorch_lightning")


def _file_of(thing: Any) -> str | None:
    """The SHA-256 of the file that defines a class; None: no file does, as in a notebook."""
    path = getattr(sys.modules.get(type(thing).__module__), "__file__", None)
    return files.sha256_file(Path(path)) if path and Path(path).is_file() else None


def _changed_options(trainer: Trainer, config: TrainConfig) -> dict[str, Any]:
    expected = {
        "max_epochs": config.epochs,
        "max_steps": -1,
        "accumulate_grad_batches": config.grad_accum_steps,
        "gradient_clip_val": config.clip_max_norm or None,
        "precision": resolved_precision(config),
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "overfit_batches": 0.0,
    }
    found = {name: getattr(trainer, name) for name in expected}
    expected["devices"], found["devices"] = devices(config), trainer.num_devices * trainer.num_nodes
    expected["device"], found["device"] = device_kind(config), trainer.strategy.root_device.type
    expected["deterministic"], found["deterministic"] = config.deterministic, are_deterministic_algorithms_enabled()
    return {name: found[name] for name in expected if found[name] != expected[name]}
