"""The configs of the Python API: one per variant, as upstream's rfdetr.config has them, and that of a training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Self

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

# The keywords of a class that `train` takes, too: they leave the weights as they are.
OF_MODEL_AND_TRAIN = ("resolution", "freeze_encoder", "gradient_checkpointing")
COCO_CLASSES = 90  # rows of a published class head, without the one for no object


class ModelSettings(ModelConfig):
    """The keywords of a model class. None keeps what the weights were trained with, or the variant's own number."""

    num_classes: Classes | None = Field(None, description="classes to tell apart; null: as many as the weights have")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto: CUDA where there is one")

    def __getattr__(self, name: str) -> Any:
        """A number of the variant by upstream's name, such as patch_size, hidden_dim or dec_layers."""
        if not name.startswith("_"):
            numbers = model_config_of(self.variant_architecture)
            if name in numbers:
                return numbers[name]
        return super().__getattr__(name)  # type: ignore[misc]

    @property
    def variant_architecture(self) -> Architecture:
        """The numbers that shape the model."""
        return self.architecture(self.num_classes or COCO_CLASSES)

    @property
    def section(self) -> ModelConfig:
        """The part that params.yaml has, too."""
        return ModelConfig.model_construct(**{key: getattr(self, key) for key in ModelConfig.model_fields})


class VariantConfig(ModelSettings):
    """The config of one variant: use a subclass, such as RFDETRNanoConfig.

    pretrain_weights: the variant's published file where it is not given; None for a new model.

    Raises:
        UserError: an unknown keyword, a value of the wrong type or range, or an option of upstream's that is not here.
    """

    name: ClassVar[str] = ""

    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None:
        what = type(self).__name__
        if not self.name:
            raise UserError(
                f"{what} is no variant. Use one: {', '.join(f'{one.name}Config' for one in VARIANTS.values())}."
            )
        if "variant" in keywords:
            raise UserError(f"variant is no keyword: {what} is one. Use the class of another variant.")
        fields = ModelSettings.model_fields
        refuse_absent("model", keywords.keys() - fields.keys(), what)
        given = {
            key: value
            for key, value in _with_text_paths(dict(keywords)).items()
            if value is not None or key == "pretrain_weights" or key not in fields
        }
        values = {"pretrain_weights": VARIANTS[self.name].weights_file} | given | {"variant": self.name}
        super().__init__(**vars(parse(ModelSettings, values, what)))


class TrainSettings(TrainConfig, RuntimeConfig):
    """Every keyword of `RFDETR.train` that does not belong to the model."""

    dataset_dir: str = Field(min_length=1, description="folder of a COCO or YOLO dataset")
    output_dir: str = Field("output", min_length=1, description="folder of the run's files")
    mlflow: bool = Field(False, description="track the run in MLflow: mlflow.db here, or MLFLOW_TRACKING_URI")
    run_test: bool = Field(False, description="evaluate the test split when the training has ended")

    @classmethod
    def of(cls, values: dict[str, Any], where: str) -> Self:
        """The settings of keywords. `where` opens the message of an error.

        Raises:
            UserError: an unknown key, a wrong value, or an option of upstream's that is not here.
        """
        refuse_absent("train", values.keys() - TrainSettings.model_fields.keys(), where)
        return parse(cls, _with_text_paths(values), where)

    @property
    def train(self) -> TrainConfig:
        """The part that decides the result."""
        return TrainConfig.model_construct(**{key: getattr(self, key) for key in TrainConfig.model_fields})

    @property
    def runtime(self) -> RuntimeConfig:
        """The part that does not."""
        return RuntimeConfig.model_construct(**{key: getattr(self, key) for key in RuntimeConfig.model_fields})


def _with_text_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The values with paths as text, which a config takes."""
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in values.items()}


class ScriptTrainConfig(TrainSettings):
    """The config of a training that a script builds itself: `TrainConfig` of rfdetr_core.config.

    Raises:
        UserError: an unknown keyword, a value of the wrong type or range, or an option of upstream's that is not here.
    """

    def __init__(self, **keywords: Unpack[SettingsKeywords]) -> None:
        super().__init__(**vars(TrainSettings.of(dict(keywords), "TrainConfig")))


def defaults_of(config: type[Config]) -> dict[str, Any]:
    """The default of each keyword that has one, as a plain value."""
    fields = {key: field for key, field in config.model_fields.items() if not field.is_required()}
    values = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    return {key: value.model_dump() if isinstance(value, Config) else value for key, value in values.items()}


def constructor_defaults(variant: str) -> dict[str, Any]:
    """The default of each keyword of the class of a variant."""
    values = defaults_of(ModelSettings) | {"pretrain_weights": VARIANTS[variant].weights_file}
    return {key: value for key, value in values.items() if key != "variant"}


def _variant_config(name: str, architecture: Architecture) -> type[VariantConfig]:
    doc = f"The config of {architecture.name}, with upstream's names."
    return type(f"{architecture.name}Config", (VariantConfig,), {"name": name, "__doc__": doc, "__module__": __name__})


VARIANT_CONFIGS = {name: _variant_config(name, architecture) for name, architecture in VARIANTS.items()}
globals().update({config.__name__: config for config in VARIANT_CONFIGS.values()})
