"""Makes the part `custom` of a training record: the inputs of a custom training that are not parameters."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    OnExceptionCheckpoint,
    ProgressBar,
    RichModelSummary,
    RichProgressBar,
    TQDMProgressBar,
)
from torch import Tensor, are_deterministic_algorithms_enabled, nn

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT, semantic_digest
from rfdetr_core.checkpoint.files import tensor_digest
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.data.dataset import DetectionDataset
from rfdetr_core.data.samples import Sample
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.trainer import device_kind, devices, resolved_precision

# Lightning callbacks that only observe. A subclass in a script may do more, so it is recorded.
_OBSERVING_CALLBACKS = (
    *(DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint, ModelSummary, OnExceptionCheckpoint),
    *(ProgressBar, RichModelSummary, RichProgressBar, TQDMProgressBar),
)
# Options of Lightning's Trainer that do not change the result of a training.
_OPTIONS_WITHOUT_EFFECT = (
    *("logger", "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
    *("enable_autolog_hparams", "num_sanity_val_steps", "profiler", "default_root_dir", "callbacks", "fast_dev_run"),
    *("detect_anomaly", "inference_mode", "limit_test_batches", "limit_predict_batches", "model_registry"),
)
# Options that `_changed_options` does not compare by their values, but by their effect: the device, the number of
# devices, and whether algorithms are deterministic.
_OPTIONS_COMPARED_BY_DEVICE = ("accelerator", "devices", "num_nodes", "deterministic")
_MODULES = ("callback_arguments", "callbacks", "custom", "custom_record", "preparation")
_INITIAL = "_initial_attributes"
_SET_BY_LIGHTNING = ("trainer", "training", "log", "log_dict")  # attributes that Lightning sets
_SCORING_STATE = ("detections", "truth")  # attributes of TrainScoring that every training changes
_MAX_CHARACTERS = 200  # characters of a recorded value; a longer one is recorded as its digest


def custom_part(
    trainer: Trainer, module: TrainingModule, data: Any, configured: Sequence[Callback], resumed: bool
) -> dict[str, Any]:
    """The part `custom` of a training record. It is empty if only the parameters determine the result.

    The keys, each present only if it has a value:
    classes: the SHA-256 of the file that defines the class of the module, data module, strategy, precision or
        accelerator. Only classes that are neither the project's nor Lightning's are listed.
    attributes: attributes of module, data module and callbacks that changed after their construction.
    callbacks: callbacks beyond `configured`, with their arguments or the SHA-256 of their file.
    missing: callbacks of `configured` that were removed.
    trainer: Trainer options that differ from the parameters.
    data: the digest of a data module that was not built from configs.
    weights: the digest of the first weights, if they differ from those that the module was built with.
    code: digests of the modules that control such a training.

    None as a value means unknown. A state with an unknown value is never resumed as the same training: it becomes a
    parent of a new training.

    Args:
        trainer: The trainer, with all its callbacks.
        module: The module that it will train.
        data: The data module; None if the trainer got loaders.
        configured: The callbacks that were made from the parameters.
        resumed: Whether a state is resumed. Its weights then replace the first weights.
    """
    present: list[Callback] = vars(trainer)["callbacks"]
    components = [module, trainer.strategy, trainer.precision_plugin, trainer.accelerator]
    components += [] if data is None else [data]
    additional = [
        callback for callback in present if callback not in configured and type(callback) not in _OBSERVING_CALLBACKS
    ]
    objects = {"module": module, "data": data}
    changed = {
        f"{name}.{key}": value for name, component in objects.items() for key, value in _changes(component).items()
    }
    for callback in present:
        changed |= {f"{name_of(callback)}.{key}": value for key, value in _changes(callback).items()}
    part: dict[str, Any] = {
        "classes": {
            name_of(component): _file_digest(component)
            for component in components
            if not _is_from_project_or_lightning(component)
        },
        "attributes": changed,
        "callbacks": _unique_names((name_of(callback), _describe_callback(callback)) for callback in additional),
        "missing": [name_of(callback) for callback in configured if callback not in present],
        "trainer": _changed_options(trainer, module.config),
    }
    part = {key: value for key, value in part.items() if value}
    if getattr(data, "preparation", None) is None:
        part["data"] = _data_digest(data)
    digest = None if resumed else tensor_digest(module.detector.state_dict())
    if digest != (None if resumed else getattr(module, "first_weights", None)):
        part["weights"] = digest
    if part:
        paths = [f"rfdetr_core/api/{name}.py" for name in _MODULES]
        part["code"] = {path: semantic_digest(ROOT / path) for path in paths}
    return part


def store_initial_attributes(component: Any) -> None:
    """Store the attributes of a module, data module or callback when it has been built, to find later changes."""
    vars(component)[_INITIAL] = {key: _snapshot(value) for key, value in _attributes(component).items()}


def name_of(component: Any) -> str:
    """The name of the class of a component, with its module."""
    return f"{type(component).__module__}.{type(component).__qualname__}"


def _changes(component: Any) -> dict[str, str | None]:
    """The attributes that were added, changed or removed since `store_initial_attributes`."""
    before: Mapping[str, Any] | None = getattr(component, "__dict__", {}).get(_INITIAL)
    if before is None:
        return {}
    current = _attributes(component)
    changed = {
        key: _plain(value)
        for key, value in current.items()
        if key not in before or not _is_unchanged(before[key], value)
    }
    return changed | {key: "removed" for key in before if key not in current}


def _attributes(component: Any) -> dict[str, Any]:
    """The attributes that can change a result, without those that every training changes."""
    changing = (*_SET_BY_LIGHTNING, *getattr(type(component), "changing", _SCORING_STATE))
    attributes = {
        key: value for key, value in vars(component).items() if not key.startswith("_") and key not in changing
    }
    if isinstance(component, nn.Module):
        attributes |= dict(component.named_children())
        attributes["frozen"] = [name for name, parameter in component.named_parameters() if not parameter.requires_grad]
        attributes["automatic_optimization"] = getattr(component, "automatic_optimization", True)
    if isinstance(component, TrainingData):
        for name in ("train_set", "valid_set"):
            attributes |= {f"{name}.{key}": value for key, value in vars(getattr(component, name)).items()}
    return attributes


def _snapshot(value: Any) -> tuple[str | None, Any]:
    """A value for `_is_unchanged`: (text, None) if a text describes it, else (None, value). A list is copied."""
    text = _plain(value)
    return text, None if text is not None else list(value) if isinstance(value, list) else value


def _is_unchanged(before: tuple[str | None, Any], value: Any) -> bool:
    text, earlier = before
    if text is not None or _plain(value) is not None:
        return text == _plain(value)
    if isinstance(earlier, list) and isinstance(value, list):
        return len(earlier) == len(value) and all(a is b for a, b in zip(earlier, value, strict=True))
    return earlier is value


def _plain(value: Any) -> str | None:
    """A short text that determines the value; None for a value that no text describes."""
    if not _is_plain(value):
        return None
    text = repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"sha256 {files.sha256_bytes(text.encode())}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(element) for pair in value.items() for element in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, Tensor):
        return value.numel() == 1
    return value is None or isinstance(value, bool | int | float | str | Path | timedelta | BaseModel)


def _unique_names(entries: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The entries as a mapping. Of entries with the same name, the second gets the key 'name (2)'."""
    values: dict[str, Any] = {}
    for name, value in entries:
        number = sum(key == name or key.startswith(f"{name} (") for key in values) + 1
        values[name if number == 1 else f"{name} ({number})"] = value
    return values


def _describe_callback(callback: Callback) -> Any:
    """The arguments of a callback of this project; of any other, the digest of its file and its attributes."""
    if type(callback).__module__.startswith("rfdetr_core."):
        arguments: dict[str, Any] = vars(callback).get("arguments") or {}
        return arguments or _file_digest(callback)
    values = {key: _plain(value) for key, value in _attributes(callback).items()}
    return {"file": _file_digest(callback), **values} if values else _file_digest(callback)


def _is_from_project_or_lightning(component: Any) -> bool:
    return type(component).__module__.partition(".")[0] in ("rfdetr_core", "pytorch_lightning", "lightning_fabric")


def _file_digest(component: Any) -> str | None:
    """The SHA-256 of the file that defines the class of a component; None if it is not in a file, as in a notebook."""
    path = getattr(sys.modules.get(type(component).__module__), "__file__", None)
    return files.sha256_file(Path(path)) if path and Path(path).is_file() else None


def _data_digest(data: Any) -> str | None:
    """The digest of everything that determines the batches of TrainingData; None (unknown) for any other data."""
    sets = {name: getattr(data, name, None) for name in ("train_set", "valid_set")}
    if not isinstance(data, TrainingData) or any(type(dataset) is not DetectionDataset for dataset in sets.values()):
        return None
    samples = {name: [_sample_row(sample) for sample in vars(dataset)["samples"]] for name, dataset in sets.items()}
    options = {key: _plain(value) for key, value in _attributes(data).items() if not key.endswith(".root")}
    return files.digest({"samples": samples, "options": options})


def _sample_row(sample: Sample) -> list[Any]:
    numbers = [array.tolist() for array in (sample.labels, sample.boxes, sample.crowd)]
    return [sample.path, sample.sha256, sample.width, sample.height, *numbers, repr(sample.segmentations)]


def _changed_options(trainer: Trainer, config: TrainConfig) -> dict[str, Any]:
    expected: dict[str, Any] = {
        "max_epochs": config.epochs,
        "max_steps": -1,
        "min_steps": None,
        "accumulate_grad_batches": config.grad_accum_steps,
        "gradient_clip_val": config.clip_max_norm or None,
        "precision": resolved_precision(config),
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "overfit_batches": 0.0,
        "val_check_interval": 1.0,
        "reload_dataloaders_every_n_epochs": 0,
    }
    actual = {name: getattr(trainer, name) for name in expected}
    expected["min_epochs"], actual["min_epochs"] = 1, max(1, trainer.min_epochs or 1)
    algorithm = getattr(trainer.gradient_clip_algorithm, "value", "norm")
    expected["gradient_clip_algorithm"], actual["gradient_clip_algorithm"] = "norm", algorithm
    expected["devices"], actual["devices"] = devices(config), trainer.num_devices * trainer.num_nodes
    expected["device"], actual["device"] = device_kind(config), trainer.strategy.root_device.type
    expected["deterministic"], actual["deterministic"] = config.deterministic, are_deterministic_algorithms_enabled()
    changed = {name: actual[name] for name in expected if actual[name] != expected[name]}
    changed = {key: value if isinstance(value, int | float | str) else _plain(value) for key, value in changed.items()}
    declared: dict[str, Any] = getattr(Trainer.__init__, "__wrapped__", Trainer.__init__).__kwdefaults__ or {}
    defaults = declared | {
        "use_distributed_sampler": False,
        "strategy": config.strategy,
        "check_val_every_n_epoch": config.eval_interval,
    }
    for name, value in sorted(getattr(trainer, "trainer_options", {}).items()):
        if name not in (
            *expected,
            *_OPTIONS_COMPARED_BY_DEVICE,
            *_OPTIONS_WITHOUT_EFFECT,
        ) and value is not defaults.get(name):
            text = _plain(value)
            if text is None:
                changed[name] = {"class": _class_names(value), "arguments": None}
            elif text != _plain(defaults.get(name)):
                changed[name] = text
    return changed


def _class_names(value: Any) -> str:
    return ", ".join(name_of(part) for part in (value if isinstance(value, list | tuple) else [value]))
