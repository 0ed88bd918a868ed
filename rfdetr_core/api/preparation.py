"""Prepares a custom training: checks both configs, validates and converts the dataset, reads the inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from rfdetr_core.api.configs import ModelSettings, TrainSettings
from rfdetr_core.api.training import Plan, find_weights, prepare_dataset, state_file, trained_sizes
from rfdetr_core.base import files, provenance
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import SUFFIXES
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import read_checkpoint, read_plain
from rfdetr_core.checkpoint.schema import ResumeState
from rfdetr_core.inference.predictor import find_device
from rfdetr_core.training import record
from rfdetr_core.training.inputs import Inputs, read_inputs

# Suffixes of the files that validation reads, in addition to images.
_LABELS = (".csv", ".json", ".txt", ".yaml", ".yml")


@dataclass(frozen=True, eq=False)
class Preparation:
    """A checked pair of configs, and the training that they describe.

    configs: the two config objects. `prepare` finds a preparation by their id(), so they must not be freed.
    listing: the digest of the file names in the dataset folder, and of the times and sizes of its labels, before the
        validation.
    """

    configs: tuple[ModelSettings, TrainSettings]
    plan: Plan
    inputs: Inputs
    record: dict[str, Any]
    listing: str

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.plan.output

    def is_current(self) -> bool:
        """Whether the dataset and its converted files are unchanged."""
        try:
            identities = provenance.identities(self.inputs.where.inputs("train", "valid"))
        except (UserError, OSError):
            return False
        inputs = {name: identity["sha256"] for name, identity in identities.items()}
        return inputs == self.record["inputs"] and self.listing == _listing(self.plan)

    def start(self, state: Any, custom: Mapping[str, Any], epochs: int) -> tuple[Inputs, dict[str, Any]]:
        """The inputs and the training record of a training that is about to start.

        If the state is of the same training, this training is resumed and its record stays the same. A state of another
        training becomes a parent in the record. The state of a finished training with fewer epochs than `epochs` also
        counts as a state of another training: that training planned fewer epochs or stopped early.

        Args:
            state: The path of a checkpoint.pth; None starts from scratch.
            custom: See `custom_part`.
            epochs: The number of epochs of the trainer.

        Raises:
            UserError: the file has no state of a training; or the classes differ; or a parameter differs that is not
                the number of epochs.
        """
        inputs, part = self.inputs, {"custom": dict(custom)} if custom else {}
        if state is None:
            return inputs, self.record | part
        path = state_file(state, "ckpt_path")
        training_record = self.record | part
        if inputs.requested.resume is None:
            if _is_same(path, record.fingerprint(training_record), epochs):
                return inputs, training_record
            named = {"resume": path.name}
            inputs = replace(
                inputs,
                where=replace(inputs.where, weights=path.parent),
                model=inputs.model.model_copy(update={"pretrain_weights": None}),
                requested=inputs.requested.model_copy(update=named),
                config=inputs.config.model_copy(update=named),
            )
            training_record = inputs.record() | part
        elif path.resolve() != self.plan.weights.resolve():
            raise UserError(
                f"ckpt_path is {path}, but TrainConfig has resume={str(self.plan.weights)!r}. Give only one of them."
            )
        config = inputs.requested.model_copy(update={"epochs": epochs} if epochs > 0 else {})
        _, message = record.named_state(path, config, record.fingerprint(training_record))
        if record.first_process():
            say(message)
        return inputs, training_record


def _is_same(path: Path, fingerprint: Mapping[str, Any], epochs: int) -> bool:
    """Whether a state belongs to a training with this fingerprint that was interrupted, or that has no epoch left."""
    if read_plain(path, tensors=False).get("run") is None:
        return False
    state = read_plain(path, ResumeState, tensors=False)
    if record.differences(state["run"]["fingerprint"], fingerprint):
        return False
    return not state["run"]["finished"] or state["epoch"] + 1 >= epochs


_preparations: WeakValueDictionary[tuple[int, int], Preparation] = WeakValueDictionary()


def prepare(model_config: ModelSettings, train_config: TrainSettings) -> Preparation:
    """Check a pair of configs; validate and convert the dataset into output_dir/dataset.

    The result is reused for the same two objects, as long as an object that was built from it exists and the dataset is
    unchanged.

    Raises:
        UserError: as `RFDETR.train`; or num_classes differs from the number of classes in the dataset.
    """
    key = (id(model_config), id(train_config))
    if (existing := _preparations.get(key)) is not None and existing.is_current():
        return existing
    plan = _plan(model_config, train_config)
    listing = _listing(plan)
    with record.sole_writer(plan.output):
        where = prepare_dataset(plan.dataset, plan.output / "dataset", plan.weights.parent)
        settings = plan.settings
        inputs = read_inputs(where, plan.model, settings.train, settings.runtime, plan.output)
        count, requested = len(inputs.classes), model_config.num_classes
        if requested not in (None, count):
            raise UserError(
                f"num_classes is {requested}, but {plan.dataset} has {count} classes: {', '.join(inputs.classes)}. "
                f"Write num_classes={count}, or leave it out."
            )
        preparation = Preparation((model_config, train_config), plan, inputs, inputs.record(), listing)
    _preparations[key] = preparation
    return preparation


def _listing(plan: Plan) -> str:
    """The digest of the file list of the dataset folder. A changed image is found later, when it is read."""
    entries: list[Any] = []
    for folder, folders, names in os.walk(plan.dataset):
        folders[:] = [
            subfolder for subfolder in folders if (Path(folder) / subfolder).resolve() != plan.output.resolve()
        ]
        for path in (Path(folder) / name for name in names if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                entries.append([str(path)])
            elif path.suffix.lower() in _LABELS:
                status = path.stat()
                entries.append([str(path), status.st_size, status.st_mtime_ns])
    return files.digest(sorted(entries))


def _plan(model_config: ModelSettings, train_config: TrainSettings) -> Plan:
    section, weights = model_config.section, None
    if train_config.resume is None:  # with `resume`, the state has the weights
        weights = find_weights(model_config.pretrain_weights)
    if weights is not None:
        sizes = trained_sizes(read_checkpoint(weights), model_config.variant).items()
        section = section.model_copy(update={key: size for key, size in sizes if getattr(section, key) is None})
    keywords = train_config.model_dump(mode="json", include={*TrainSettings.model_fields})
    if train_config.accelerator == "auto":
        del keywords["accelerator"]
    return Plan.from_keywords(section, weights, find_device(model_config.device), keywords)


def preparation_for(call: str, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Preparation | None:
    """The preparation of a call with two configs. None: the call passes other arguments, such as a detector.

    Args:
        call: The name of the called class, for messages.
        arguments: Its positional arguments.
        keywords: Its keyword arguments.

    Raises:
        UserError: one of the two configs is missing or of another type; or see `prepare`.
    """
    names = ("model_config", "train_config")
    if not keywords.keys() & set(names) and not any(
        isinstance(argument, ModelSettings | TrainSettings) for argument in arguments[:2]
    ):
        return None
    configs = dict(zip(names, arguments, strict=False)) | dict(keywords)
    if configs.keys() != set(names) or len(arguments) > 2:
        raise UserError(f"{call} takes exactly two arguments: model_config and train_config.")
    check_configs(call, configs["model_config"], configs["train_config"])
    return prepare(configs["model_config"], configs["train_config"])


def check_configs(call: str, model_config: Any, train_config: Any) -> None:
    """Raise a UserError if one of the two has a wrong type, for example if they are swapped.

    Args:
        call: The name of the called function or class, for the message.
        model_config: Must be the config of a variant.
        train_config: Must be a TrainConfig of rfdetr_core.config.
    """
    kinds: dict[str, tuple[Any, type, str]] = {
        "model_config": (model_config, ModelSettings, "RFDETRNanoConfig()"),
        "train_config": (train_config, TrainSettings, 'TrainConfig(dataset_dir="...")'),
    }
    for name, (config, kind, example) in kinds.items():
        if not isinstance(config, kind):
            raise UserError(
                f"{call}: {name} is a {type(config).__name__}. Give {name}={example} from rfdetr_core.config."
            )


def preparation_of(owner: Any, reason: str) -> Preparation:
    """The preparation from which a module or data module was built.

    Args:
        owner: The module or data module.
        reason: Begins the message of the error.

    Raises:
        UserError: `owner` was not built from configs.
    """
    preparation = getattr(owner, "preparation", None)
    if not isinstance(preparation, Preparation):
        name = type(owner).__name__ if owner is not None else "the module"
        raise UserError(
            f"{reason} needs RFDETRModelModule(model_config, train_config). {name} was not built from these configs."
        )
    return preparation
