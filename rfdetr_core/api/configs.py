"""The configs of the Python API: one for each variant, with upstream's names, and one for a training."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from pydantic import Field

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import Config, parse
from rfdetr_core.checkpoint.files import model_config_of
from rfdetr_core.config.settings import refuse_absent
from rfdetr_core.model.config import VARIANTS, Architecture, Classes, ModelConfig
from rfdetr_core.training.config import RuntimeConfig, TrainConfig

if TYPE_CHECKING:
    from typing import Unpack

    from rfdetr_core.api.keywords import ModelKeywords, SettingsKeywords

# The keywords of a model class that `train` also takes, since they do not change the shapes of the weights.
OF_MODEL_AND_TRAIN = ("resolution", "freeze_encoder", "gradient_checkpointing")
COCO_CLASS_ROWS = 90  # rows of the class head in a published file, not counting the row for "no object"
_PATHS = ("dataset_dir", "output_dir", "resume", "pretrain_weights")
_PUBLIC = "rfdetr_core.config"  # the module that users import the configs from


class _FrozenConfig(Config):
    """A config whose values cannot be changed; the error names the public class."""

    if not TYPE_CHECKING:  # type checkers know that it is frozen

        def __setattr__(self, name: str, value: Any) -> NoReturn:
            raise UserError(
                f"A config cannot be changed. Create a new one: {type(self).__name__}(..., {name}={value!r})."
            )


def device_name(value: Any) -> Any:
    """The project's name of a device: cuda:0 for 0, cuda for gpu, the text of a torch.device. Other values stay.

    Raises:
        UserError: the value is True or False.
    """
    if isinstance(value, bool):
        raise UserError(f"device is {value}. Give a name such as cpu, cuda or cuda:1, a number, or a torch.device.")
    if isinstance(value, int):
        return f"cuda:{value}"
    if not isinstance(value, str) and type(value).__name__ != "device":
        return value
    kind, colon, number = str(value).partition(":")
    return f"{'cuda' if kind == 'gpu' else kind}{colon}{number}"


def expanded(path: str | os.PathLike[str]) -> str:
    """A path as text, with ~ replaced by the home folder. ~name of an unknown user stays."""
    return os.path.expanduser(os.fspath(path))  # noqa: PTH111 - Path.expanduser raises a RuntimeError for an unknown user


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for a config: paths as text with ~ replaced, and devices by their names."""
    plain = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in values.items()}
    for key in _PATHS:
        if isinstance(plain.get(key), str):
            plain[key] = expanded(plain[key])
    return plain | {key: device_name(plain[key]) for key in ("device", "accelerator") if key in plain}


def _refuse_unknown(keys: Collection[str], known_keys: Collection[str], where: str) -> None:
    """Raise a UserError for the first unknown key; it suggests a similar key."""
    for key in keys:
        if key not in known_keys:
            close = difflib.get_close_matches(key, known_keys, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(f"{where}.{key} is not a known key.{hint} Known keys: {', '.join(sorted(known_keys))}.")


class ModelSettings(ModelConfig, _FrozenConfig):
    """The keywords of a model class. None keeps the value of the trained weights, or the variant's default."""

    num_classes: Classes | None = Field(None, description="number of classes; null: as many as the weights have")
    device: str = Field("auto", description="cpu, cuda, cuda:1 or mps; auto: CUDA if there is a GPU")

    def __getattr__(self, name: str) -> Any:
        """A number of the variant, by upstream's name: patch_size, hidden_dim, dec_layers and others."""
        if not name.startswith("_"):
            numbers = model_config_of(self.variant_architecture)
            if name in numbers:
                return numbers[name]
        return super().__getattr__(name)  # type: ignore[misc]

    @property
    def variant_architecture(self) -> Architecture:
        """The numbers that shape the model."""
        return self.architecture(self.num_classes or COCO_CLASS_ROWS)

    @property
    def section(self) -> ModelConfig:
        """The fields that are also in the section `model` of params.yaml."""
        return ModelConfig.model_construct(**{key: getattr(self, key) for key in ModelConfig.model_fields})


class VariantConfig(ModelSettings):
    """The config of one variant: use a subclass, such as RFDETRNanoConfig.

    pretrain_weights: by default the published file of the variant; None for a new, untrained model.

    Raises:
        UserError: a keyword is unknown, a value has the wrong type or range, or an option of upstream is not here.
    """

    name: ClassVar[str] = ""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None:
        class_name = type(self).__name__
        if not self.name:
            config_names = ", ".join(f"{architecture.name}Config" for architecture in VARIANTS.values())
            raise UserError(f"{class_name} is the base class. Use a variant: {config_names}.")
        settings = _plain(keywords)
        if settings.pop("variant", self.name) != self.name:
            raise UserError(f"The class {class_name} already sets the variant. Leave out variant.")
        fields = ModelSettings.model_fields.keys() - {"variant"}
        refuse_absent("model", settings.keys() - fields, class_name)
        _refuse_unknown(settings, fields, class_name)
        settings = {key: value for key, value in settings.items() if value is not None or key == "pretrain_weights"}
        values = {"pretrain_weights": VARIANTS[self.name].weights_file} | settings | {"variant": self.name}
        parsed = parse(ModelSettings, values, class_name)
        parsed.architecture(classes=1)  # raises if the resolution does not fit the variant
        super().__init__(**vars(parsed))


class TrainSettings(TrainConfig, RuntimeConfig, _FrozenConfig):
    """Every keyword of `RFDETR.train` that does not belong to the model."""

    dataset_dir: str = Field(min_length=1, description="folder of a COCO or YOLO dataset")
    output_dir: str = Field("output", min_length=1, description="folder of the run's files")
    mlflow: bool = Field(
        False, description="track the run in MLflow: in mlflow.db of the current folder, or at MLFLOW_TRACKING_URI"
    )
    run_test: bool = Field(False, description="evaluate the test split after the training")

    @classmethod
    def from_keywords(cls, values: dict[str, Any], where: str) -> Self:
        """Build the settings from keywords. `where` is the beginning of an error message.

        Raises:
            UserError: a key is unknown, a value is wrong, or an option of upstream does not exist here.
        """
        fields = TrainSettings.model_fields.keys()
        refuse_absent("train", values.keys() - fields, where)
        of_model = sorted(values.keys() & ModelSettings.model_fields.keys() - fields - {"variant"})
        if of_model:
            keywords = ", ".join(f"{key}={values[key]!r}" for key in of_model)
            raise UserError(
                f"{where} has no {', '.join(of_model)}. It belongs to the config of the model: "
                f"RFDETRNanoConfig({keywords})."
            )
        if "dataset_dir" not in values:
            raise UserError(f"{where} needs dataset_dir.")
        return parse(cls, _plain(values), where)

    @property
    def train(self) -> TrainConfig:
        """The fields of the section `train`. They determine the result."""
        return TrainConfig.model_construct(**{key: getattr(self, key) for key in TrainConfig.model_fields})

    @property
    def runtime(self) -> RuntimeConfig:
        """The fields of the section `runtime`. They do not determine the result, except `threads` on a CPU."""
        return RuntimeConfig.model_construct(**{key: getattr(self, key) for key in RuntimeConfig.model_fields})


class ScriptTrainConfig(TrainSettings):
    """The config of a custom training: `TrainConfig` of rfdetr_core.config.

    Raises:
        UserError: a keyword is unknown, a value has the wrong type or range, or an option of upstream is not here.
    """

    def __init__(self, **keywords: Unpack[SettingsKeywords]) -> None:
        super().__init__(**vars(TrainSettings.from_keywords(dict(keywords), "TrainConfig")))


for _class, _name in ((VariantConfig, "ModelConfig"), (ScriptTrainConfig, "TrainConfig")):
    _class.__name__ = _class.__qualname__ = _name
    _class.__module__ = _PUBLIC


def defaults_of(config: type[Config]) -> dict[str, Any]:
    """The default of each field that has one; nested configs as dicts."""
    fields = {key: field for key, field in config.model_fields.items() if not field.is_required()}
    values = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    return {key: value.model_dump() if isinstance(value, Config) else value for key, value in values.items()}


def constructor_defaults(variant: str) -> dict[str, Any]:
    """The default of each keyword of the model class of a variant."""
    values = defaults_of(ModelSettings) | {"pretrain_weights": VARIANTS[variant].weights_file}
    return {key: value for key, value in values.items() if key != "variant"}


def _variant_config(name: str, architecture: Architecture) -> type[VariantConfig]:
    doc = f"The config of {architecture.name}, with upstream's names."
    return type(f"{architecture.name}Config", (VariantConfig,), {"name": name, "__doc__": doc, "__module__": __name__})


VARIANT_CONFIGS = {name: _variant_config(name, architecture) for name, architecture in VARIANTS.items()}
globals().update({config.__name__: config for config in VARIANT_CONFIGS.values()})
