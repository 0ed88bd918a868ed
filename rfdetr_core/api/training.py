"""A training that a script starts: it checks the keywords, prepares the dataset, trains, and restores the process.

Lightning is imported when a training starts, since the import takes seconds and prediction does not need it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch

from rfdetr_core.api.configs import (
    OF_MODEL_AND_TRAIN,
    ModelSettings,
    ScriptTrainConfig,
    TrainSettings,
    device_name,
    expanded,
)
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import Checkpoint
from rfdetr_core.checkpoint.loading import architecture_of
from rfdetr_core.checkpoint.published import PUBLISHED, cache_folder, resolve_weights
from rfdetr_core.config.settings import ABSENT
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.model.config import VARIANTS, Architecture, ModelConfig
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from rfdetr_core.training.config import check_together

AnyPath: TypeAlias = str | os.PathLike[str]
FunctionsByEvent: TypeAlias = Mapping[str, Sequence[Callable[[dict[str, float]], object]]]
BEST = "checkpoint_best_total.pth"
_FOLDERS = {"dataset_dir", "output_dir"}
EVENTS = ("on_fit_epoch_end", "on_train_end")  # the keys of `RFDETR.callbacks`
_SPLITS = {"val": "valid", "validation": "valid"}


@contextmanager
def process_restored() -> Iterator[None]:
    """Restore the process-wide settings that a training changes. The script continues, also after a failed training."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    debug_mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    filling = vars(torch.utils)["deterministic"]  # a module; mypy does not know its property
    fill, onednn = filling.fill_uninitialized_memory, torch.backends.mkldnn.enabled
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "alembic")]
    levels = [logger.level for logger in loggers]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(debug_mode)
        torch.backends.cudnn.benchmark = benchmark
        filling.fill_uninitialized_memory, torch.backends.mkldnn.enabled = fill, onednn
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def as_path(value: Any, argument: str) -> Path:
    """The path of an argument, with ~ replaced. Raises a UserError that names `argument` if it is not a path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"{argument} is {value!r}. Give one path, as text or as a Path.")
    return Path(expanded(value))


def state_file(value: Any, argument: str) -> Path:
    """The checkpoint.pth of an argument. Raises a UserError that names `argument` if there is no such file."""
    path = as_path(value, argument)
    if not path.is_file():
        raise UserError(f"{argument} is {str(path)!r}. There is no such file. Give the path of a checkpoint.pth.")
    return path


def find_weights(value: Any) -> Path | None:
    """The file of `pretrain_weights`: a path, or the name of a published file; None for None.

    A published file is searched in weights/, then in the cache. If it is in neither, it is downloaded.

    Raises:
        UserError: there is no such file, its digest is not the published one, or the download failed.
    """
    if value is None:
        return None
    path = as_path(value, "pretrain_weights")
    if path.is_dir():
        raise UserError(f"pretrain_weights is {str(path)!r}, a folder. Give the path of a file in it.")
    if path.parent not in (Path(), cache_folder()) and path.name in PUBLISHED and not path.exists():
        raise UserError(
            f"pretrain_weights is {str(path)!r}. There is no such file. "
            f"For the published file, write pretrain_weights={path.name!r}."
        )
    folder = path.parent if path.parent != Path() or path.is_file() else Path("weights")
    try:
        return resolve_weights(path.name, folder)
    except UserError as error:
        if path.name not in PUBLISHED:
            raise
        message = str(error)
        if "RF_HOME" not in message:
            message += f" RF_HOME names the folder of downloaded files (now {cache_folder()})."
        # `from None`: the tracebacks of the causes would be longer than the message.
        raise UserError(f"{message} pretrain_weights=None gives a new, untrained model.") from None


def trained_sizes(checkpoint: Checkpoint | None, variant: str) -> dict[str, Any]:
    """The numbers of a checkpoint's model, such as num_queries; see `sizes_of`. Empty for a file of another variant."""
    if checkpoint is None:
        return {}
    try:
        architecture = architecture_of(checkpoint)
    except UserError:
        return {}  # not an error here: load_weights checks the file later
    if architecture.name != VARIANTS[variant].name:
        return {}  # load_weights reports the error
    return sizes_of(architecture)


def sizes_of(architecture: Architecture) -> dict[str, Any]:
    """The fields of ModelConfig that an architecture determines: sizes such as num_queries, by keyword."""
    sizes = {"resolution": architecture.resolution, "num_queries": architecture.queries}
    return sizes | {"group_detr": architecture.groups, "num_channels": architecture.channels}


def refuse_results(output: Path) -> None:
    """Raise a UserError if the output folder holds results of a pipeline."""
    from rfdetr_core.verification.lock import refuse_outs

    refuse_outs(output, 'output_dir="runs/first"')


def check_dataset(dataset: Path) -> None:
    """Raise a UserError if a folder is not a dataset, before the output folder is created."""
    from rfdetr_core.ingest.folder import check_folder

    check_folder(dataset, (), "dataset_dir")


def prepare_dataset(dataset: Path, folder: Path, weights: Path = Path("weights")) -> ProjectPaths:
    """Validate and convert a dataset, as the first two stages do.

    Args:
        dataset: The dataset folder.
        folder: Receives the report, the manifests and the converted annotations.
        weights: The folder of the weights, for the returned paths.

    Raises:
        UserError: validation found errors in the dataset.
    """
    from rfdetr_core.ingest.convert import convert_dataset
    from rfdetr_core.ingest.validate import validate_dataset
    from rfdetr_core.report.dataset import write_page

    paths = ProjectPaths(dataset, folder / "annotations", folder / "manifest", weights, folder / "metadata")
    validate_dataset(
        dataset,
        ValidateConfig(),
        folder,
        paths.manifests,
        option="dataset_dir",
        metadata=paths.metadata,
        write_page=write_page,
    )
    convert_dataset(dataset, ValidateConfig(), paths.manifests, paths.annotations)
    return paths


@dataclass(frozen=True)
class Plan:
    """The checked settings of one training; nothing has been written yet.

    model: the settings of the section `model` of params.yaml. settings: those of `train` and `runtime`. weights: the
        file to start from or to resume; for a new model a path that does not exist.
    """

    model: ModelConfig
    settings: TrainSettings
    weights: Path

    @classmethod
    def from_keywords(
        cls,
        model: ModelConfig,
        weights: Path | None,
        device: str,
        keywords: dict[str, Any],
        functions: FunctionsByEvent | None = None,
    ) -> Self:
        """Check the keywords of `train`.

        Args:
            model: The model section before the keywords of `train`.
            weights: The file to start from; None for a new model.
            device: The device of the model, such as cuda:0.
            keywords: The keywords of `train`; this function removes some.
            functions: The functions to call, by event.

        Raises:
            UserError: a keyword or event is unknown, a value is wrong, or this machine cannot do the training.
        """
        for event in _nonempty_events(functions or {}):
            if event not in EVENTS:
                raise UserError(f"callbacks has no event {event}. The events are {' and '.join(EVENTS)}.")
        optional = {key: keywords.pop(key, None) for key in OF_MODEL_AND_TRAIN}
        overrides = {key: value for key, value in optional.items() if value is not None}
        requested_device = device_name(keywords.pop("device", None))
        kind, _, number = str(device if requested_device is None else requested_device).partition(":")
        if number not in ("", "0"):
            raise UserError(
                f"train() uses the first device, not {kind}:{number}. Start Python with "
                f"CUDA_VISIBLE_DEVICES={number}, and give the device as {kind}."
            )
        named = weights.name if weights else None
        if keywords.get("resume") is not None:
            weights, named = state_file(keywords["resume"], "resume"), None  # the state has the weights
            keywords["resume"] = weights.name
        settings = cls.settings_of({"accelerator": kind} | keywords, model.variant)
        section = parse(ModelConfig, vars(model) | overrides | {"pretrain_weights": named}, "train()")
        section.architecture(classes=1)
        check_together(section, settings.train)
        if settings.compile != "off":
            from rfdetr_core.training.compilation import code_generator
            from rfdetr_core.training.trainer import device_kind

            code_generator(device_kind(settings.train))
        plan = cls(section, settings, weights or Path("weights") / "none")
        refuse_results(plan.output)
        check_dataset(plan.dataset)
        return plan

    @staticmethod
    def settings_of(keywords: dict[str, Any], variant: str, call: str = "train()") -> TrainSettings:
        """Build the settings from keywords.

        Args:
            keywords: The keywords of the call.
            variant: The variant of the model, whose class the message names.
            call: The called function, for messages.

        Raises:
            UserError: a keyword is unknown, a value is wrong, or a keyword belongs to the constructor.
        """
        for key in keywords.keys() & _FOLDERS:
            as_path(keywords[key], key)
        of_model = ModelSettings.model_fields.keys() - TrainSettings.model_fields.keys() - {"variant"}
        constructor_keys = sorted(keywords.keys() & of_model)
        if constructor_keys:
            name = VARIANTS[variant].name
            raise UserError(
                f"{call} has no {', '.join(constructor_keys)}. It belongs to the constructor. "
                f"Write {name}({', '.join(f'{key}={keywords[key]!r}' for key in constructor_keys)}), then {call}."
            )
        return TrainSettings.from_keywords(keywords, call)

    @property
    def dataset(self) -> Path:
        """The folder of the dataset."""
        return Path(self.settings.dataset_dir)

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return Path(self.settings.output_dir)

    def run(self, data: ProjectPaths, functions: FunctionsByEvent) -> Path:
        """Train, choose and strip. Returns the path of the best weights."""
        from rfdetr_core.api.function_callback import FunctionCallback
        from rfdetr_core.training.run import train_model

        functions_by_event = _nonempty_events(functions)
        watching = [FunctionCallback(functions_by_event)] if functions_by_event else []
        train_model(data, self.model, self.settings.train, self.settings.runtime, self.output, watching)
        return select_and_strip(self.output)


def _nonempty_events(functions: FunctionsByEvent) -> FunctionsByEvent:
    """The events that have a function. (Reading a key of `RFDETR.callbacks`, a defaultdict, adds an empty list.)"""
    return {event: called for event, called in functions.items() if called}


def pop_model_keywords(keywords: dict[str, Any], built: Mapping[str, Any] | None = None) -> list[str]:
    """Remove the model keywords that `train` also takes; return their names.

    built: the values of an existing model, by keyword. A removed keyword must have the same value. None: no check.

    Raises:
        UserError: a removed keyword differs from the value in `built`.
    """
    removed = {key: keywords.pop(key) for key in (*OF_MODEL_AND_TRAIN, "device") if key in keywords}
    removed = {key: value for key, value in removed.items() if value is not None}
    for key, built_value in (built or {}).items():
        value = device_name(removed.get(key, built_value)) if key == "device" else removed.get(key, built_value)
        same = str(value).removesuffix(":0") == str(built_value).removesuffix(":0")
        if not same and (key, value) != ("device", "auto"):
            raise UserError(
                f"evaluate() was given {key}={value!r}, but the model has {built_value!r}. "
                f"Give {key} to the constructor or to from_checkpoint, then call evaluate()."
            )
    return [*removed]


def train_config_of(keywords: dict[str, Any], variant: str) -> TrainSettings:
    """The config that `train` builds from its keywords, without those of the model. Raises as `train`."""
    pop_model_keywords(keywords)
    return ScriptTrainConfig(**Plan.settings_of(keywords, variant).model_dump())


def evaluation_settings(split: Any, keywords: dict[str, Any], variant: str) -> tuple[EvaluateConfig, list[str]]:
    """The config of `evaluate` from its keywords, and the names of the keywords of `train` that it ignores.

    Args:
        split: test, valid or upstream's val.
        keywords: The keywords of `evaluate`.
        variant: The variant of the model, whose class a message names.

    Raises:
        UserError: a keyword or the split is unknown, or a keyword belongs to the constructor.
    """
    evaluate_fields = EvaluateConfig.model_fields
    training_keys = (
        TrainSettings.model_fields.keys() | ModelSettings.model_fields.keys() | ABSENT["train"].keys()
    ) - evaluate_fields.keys()
    of_train = {key: value for key, value in keywords.items() if key in training_keys}
    if unused := of_train.keys() - _FOLDERS:
        Plan.settings_of({"dataset_dir": "-"} | of_train, variant, "evaluate()")
    values = {
        key: keywords[key]
        for key in keywords
        if key not in training_keys and (key, keywords[key]) != ("batch_size", "auto")
    }
    named = _SPLITS.get(split, split) if isinstance(split, str) else split
    config = parse(EvaluateConfig, values | {"split": named}, "evaluate()")
    return config, sorted(unused)


def select_and_strip(output: Path) -> Path:
    """Choose the winner of the two tracks in a run folder, write its stripped checkpoint, and return its path."""
    selection = select(files.read_json(output / "scores.json"))
    files.write_json(output / "selection.json", selection)
    strip(output, selection, output / BEST, records=output / "records")
    return output / BEST
