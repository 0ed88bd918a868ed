"""The keywords for editors and mypy equal the keywords that the functions take."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import pickle
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

import rfdetr_core
import rfdetr_core.config
from rfdetr_core.api import configs, keywords, model
from rfdetr_core.api.training import Plan, evaluation_settings
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import Config, parse
from rfdetr_core.data.augmentation import AugmentConfig
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.model.config import VARIANTS, ModelConfig
from tests.pipeline.project import make_dataset

OF_TRAIN = {"resolution", "freeze_encoder", "gradient_checkpointing", "device"}
SAMPLES = [True, 1, 1.5, "text", None, [1, 2], ["a"], {}]
OF_A_VALUE = {"value_error", "greater_than", "greater_than_equal", "less_than", "less_than_equal"}
VARIANT_CLASSES = [(key, getattr(rfdetr_core, variant.name)) for key, variant in VARIANTS.items()]


def test_the_keywords_are_the_fields_of_the_configs() -> None:
    train = configs.TrainSettings.model_fields.keys()
    assert get_type_hints(keywords.SettingsKeywords).keys() == train
    assert get_type_hints(keywords.TrainKeywords).keys() == train | OF_TRAIN
    assert get_type_hints(keywords.ModelKeywords).keys() == configs.ModelSettings.model_fields.keys() - {"variant"}
    evaluate = EvaluateConfig.model_fields.keys() - {"split"}
    assert get_type_hints(keywords.EvaluateKeywords).keys() == train | OF_TRAIN | evaluate
    assert get_type_hints(keywords.AugmentKeywords).keys() == AugmentConfig.model_fields.keys()
    export = ExportConfig.model_fields.keys() - {"formats", "batch_size"}
    assert export <= get_type_hints(keywords.ExportKeywords).keys()
    assert keywords.TrainKeywords.__required_keys__ == {"dataset_dir"}
    assert not keywords.EvaluateKeywords.__required_keys__


def of_the_type(config: type[Config], key: str, value: Any) -> bool:
    """Whether a value has the type of a key: the config takes it, or refuses only its range or meaning."""
    required = {name: "-" for name, field in config.model_fields.items() if field.is_required()}
    try:
        config.model_validate_json(json.dumps(required | {key: value}))
    except ValidationError as error:
        return all(detail["type"] in OF_A_VALUE for detail in error.errors())
    return True


def fits(hint: Any, value: Any) -> bool:
    if hint is keywords.AugmentKeywords:
        hint = dict[str, Any]  # pydantic does not support typing.TypedDict of Python 3.11
    try:
        TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def words(hint: Any) -> list[str]:
    """The words in the Literals of a type."""
    inner = [words(argument) if not isinstance(argument, str) else [argument] for argument in get_args(hint)]
    return [*itertools.chain(*inner)]


@pytest.mark.parametrize(
    ("typed", "config"),
    [
        (keywords.SettingsKeywords, configs.TrainSettings),
        (keywords.AugmentKeywords, AugmentConfig),
        (keywords.ModelKeywords, configs.ModelSettings),
        (keywords.ExportKeywords, ExportConfig),
        (keywords.EvaluateKeywords, EvaluateConfig),
    ],
)
def test_a_type_fits_a_value_where_the_config_takes_it(typed: Any, config: type[Config]) -> None:
    hints = get_type_hints(typed)
    for key in hints.keys() & config.model_fields.keys() - {"device"}:  # it also takes a number or a torch.device
        for value in [*SAMPLES, *words(hints[key])]:
            if typed is keywords.ModelKeywords and value is None:
                continue  # the class takes None for every keyword; the section of params.yaml does not
            if (key, value) == ("batch_size", "auto") and config is EvaluateConfig:
                continue  # a keyword of `train` that `evaluate` ignores
            assert fits(hints[key], value) == of_the_type(config, key, value), (key, value)


@pytest.mark.parametrize("key", get_type_hints(keywords.ModelKeywords))
def test_a_class_takes_none_for_every_keyword(key: str) -> None:
    config = model.RFDETR.__dict__["get_model_config"].__get__(None, rfdetr_core.RFDETRPico)
    assert vars(config(**{key: None})) == vars(config())
    assert type(None) in get_args(get_type_hints(keywords.ModelKeywords)[key])


def test_export_takes_its_keywords(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    built = rfdetr_core.RFDETRPico(resolution=64, device="cpu")
    for key in get_type_hints(keywords.ExportKeywords):
        arguments = {"calibration_data": tmp_path, key: "strange"} if key == "max_images" else {key: "strange"}
        with pytest.raises(UserError) as refused:
            built.export(tmp_path / "output", **arguments)
        assert "strange" in str(refused.value)
        assert "not a known key" not in str(refused.value)


def test_signatures_have_the_keywords_with_the_defaults_of_the_configs() -> None:
    parameters = inspect.signature(rfdetr_core.RFDETRPico.train).parameters
    assert list(parameters)[:3] == ["self", "dataset_dir", "output_dir"]
    assert parameters.keys() - {"self"} == get_type_hints(keywords.TrainKeywords).keys()
    assert parameters["dataset_dir"].default is inspect.Parameter.empty
    fields = configs.TrainSettings.model_fields
    for key in fields.keys() - {"dataset_dir", "augmentation"}:
        assert parameters[key].default == fields[key].default, key
    assert all(parameters[key].default is None for key in OF_TRAIN)
    for page in (pydoc.render_doc(rfdetr_core.RFDETRNano), pydoc.render_doc(rfdetr_core.RFDETRNano.train)):
        assert "epochs: int = 100" in page.replace("\b", "")


@pytest.mark.parametrize(("variant", "kind"), VARIANT_CLASSES)
def test_a_constructor_with_explicit_defaults_equals_one_without(variant: str, kind: type[model.RFDETR]) -> None:
    bound = inspect.signature(kind).bind()
    bound.apply_defaults()
    assert bound.arguments.keys() == get_type_hints(keywords.ModelKeywords).keys()
    assert vars(kind.get_model_config(**bound.arguments)) == vars(kind.get_model_config())


def test_train_called_with_its_defaults_is_called_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # outside of this project, since its output/ has results
    make_dataset(tmp_path, {"train": 1, "valid": 1, "test": 1})
    section = ModelConfig()
    bound = inspect.signature(rfdetr_core.RFDETRPico.train).bind(None, dataset_dir=tmp_path)
    bound.apply_defaults()
    del bound.arguments["self"]
    plans = [
        Plan.from_keywords(section, None, "cpu", given)
        # without accelerator, `train` takes the device of the model
        for given in (bound.arguments | {"accelerator": "cpu"}, {"dataset_dir": tmp_path})
    ]
    assert vars(plans[0].settings) == vars(plans[1].settings)
    assert vars(plans[0].model) == vars(plans[1].model)


def test_evaluate_with_explicit_defaults_equals_one_without() -> None:
    bound = inspect.signature(rfdetr_core.RFDETRPico.evaluate).bind(None)
    bound.apply_defaults()
    arguments = {key: value for key, value in bound.arguments.items() if key not in ("self", "split", "settings")}
    assert evaluation_settings("test", arguments, "pico") == (parse(EvaluateConfig, {}, ""), [])


def test_a_class_of_a_script_has_its_own_signature() -> None:
    class Mine(rfdetr_core.RFDETRPico):
        def __init__(self, size: int) -> None:
            super().__init__(resolution=size)

    assert list(inspect.signature(Mine).parameters) == ["size"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda config: config.RFDETRNanoConfig(resolution=100), "100 is not divisible.*Nearest: 96 or 128"),
        (
            lambda config: config.RFDETRNanoConfig(resolutions=96),
            r"Did you mean resolution\? .*pretrain_weights, resolution\.",
        ),
        (lambda config: config.ModelConfig(), r"^ModelConfig is the base class\. Use a variant: RFDETRNanoConfig"),
        (lambda config: config.TrainConfig(epochs=3), r"^TrainConfig needs dataset_dir\.$"),
        (
            lambda config: config.TrainConfig(dataset_dir="x", resolution=448),
            r"^TrainConfig has no resolution\. .* the config of the model: RFDETRNanoConfig\(resolution=448",
        ),
        (
            lambda config: setattr(config.TrainConfig(dataset_dir="x"), "epochs", 5),
            r"^A config cannot be changed\. Create a new one: TrainConfig\(\.\.\., epochs=5\)\.$",
        ),
    ],
)
def test_an_error_of_a_config_names_what_the_user_wrote(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(rfdetr_core.config)


def test_a_config_is_made_of_what_another_one_holds() -> None:
    config = rfdetr_core.config.RFDETRNanoConfig(resolution=96, device="gpu")
    assert rfdetr_core.config.RFDETRNanoConfig(**config.model_dump()) == config == pickle.loads(pickle.dumps(config))
    train_config = rfdetr_core.config.TrainConfig(dataset_dir="x", epochs=3)
    assert (
        rfdetr_core.config.TrainConfig(**train_config.model_dump())
        == train_config
        == pickle.loads(pickle.dumps(train_config))
    )


def test_the_configs_have_upstreams_names() -> None:
    from rfdetr_core.config import ModelConfig, RFDETRMediumConfig, SegmentationTrainConfig, TrainConfig

    assert issubclass(RFDETRMediumConfig, ModelConfig)
    assert RFDETRMediumConfig().resolution is None
    assert RFDETRMediumConfig().pretrain_weights == VARIANTS["medium"].weights_file
    assert TrainConfig is SegmentationTrainConfig
    assert TrainConfig(dataset_dir=Path("a")).dataset_dir == "a"
    assert all(getattr(rfdetr_core.config, name).__name__.endswith("Config") for name in rfdetr_core.config.__all__)
    with pytest.raises(AttributeError, match=r"rfdetr_core\.config.* has no attribute 'RFDETRHugeConfig'"):
        rfdetr_core.config.RFDETRHugeConfig  # noqa: B018
    with pytest.raises(ImportError):
        from rfdetr_core.config import absent  # noqa: F401


# mypy must find exactly the lines that end in `# wrong`.
SCRIPT = """
import os
from pathlib import Path

import torch
import rfdetr_core
from rfdetr_core import RFDETR, RFDETRNano, load
from rfdetr_core import RFDETRNan  # wrong
from rfdetr_core.config import RFDETRMediumConfig, TrainConfig
from rfdetr_core.config import RFDETRHugeConfig  # wrong

model = RFDETRNano(resolution=448, pretrain_weights=Path("a.pth"), num_classes=None)
RFDETRNano(resolutoin=1)  # wrong
RFDETRNano(resolution="448")  # wrong
RFDETRNano(variant="nano")  # wrong
RFDETRNano(device=torch.device("cpu")).evaluate(resolution=448, device=0)
model.train(dataset_dir=Path("x"), output_dir="y", epochs=3, lr=1, batch_size="auto", multi_scale=False, resolution=448)
model.train(dataset_dir="x", augmentation={"hue": 0.1}, optimizer_kwargs={"betas": [0.9, 0.99]}, class_names=["a"])
model.train(dataset_dir="x", epoch=3)  # wrong
model.train(dataset_dir="x", epochs="3")  # wrong
model.train(dataset_dir="x", batch_size="all")  # wrong
model.train(dataset_dir="x", augmentation={"hues": 0.1})  # wrong
model.train(epochs=3)  # wrong
scores: dict[str, object] = model.evaluate("valid", pictures=3, output_dir="y", epochs=3)
model.evaluate(picture=3)  # wrong
detections = model.predict("image.jpg", threshold=0.5)
print(detections.xyxy, len(detections))
print([each.class_id for each in model.predict(["a.jpg", "b.jpg"])])
paths = sorted(Path("images").glob("*.jpg"))
print([each.class_id for each in model.predict(paths, batch_size=4)])
print([each.class_id for each in model.predict((Path("image.jpg"), "b.jpg"))])
model.predict("image.jpg", treshold=0.5)  # wrong
model.predct("image.jpg")  # wrong
again: RFDETR = load(os.environ["MODEL"], device="cpu")
own: RFDETRNano = RFDETRNano.from_checkpoint("a.pth")
load("a.pth", devise="cpu")  # wrong
path: Path = model.export("y", format="onnx-int8", calibration_data=Path("x"))
model.export("y", format="onix")  # wrong
RFDETRMediumConfig(resolution=576, device="cpu").architecture(classes=3)
RFDETRMediumConfig(resolutions=576)  # wrong
TrainConfig(dataset_dir="x", epochs=3).epochs + 1
TrainConfig(dataset_dir="x", epoch=3)  # wrong
"""
# Large packages whose types are not needed here.
CONFIG = """
[mypy]
strict = true
[mypy-torch.*,torchvision.*,pytorch_lightning.*,cv2.*,matplotlib.*,scipy.*,pandas.*,mlflow.*,hotcoco.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_mypy_finds_the_errors_of_a_script_anywhere_and_no_others(tmp_path: Path) -> None:
    lines = [*SCRIPT.splitlines(), *(f"print(rfdetr_core.{name})" for name in rfdetr_core.__all__)]
    lines += [f"from rfdetr_core.config import {name} as _{name}" for name in rfdetr_core.config.__all__]
    (tmp_path / "script.py").write_text("\n".join(lines) + "\n")
    (tmp_path / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "script.py"]
    # As an installed package; mypy uses its types because it has py.typed.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    reported = {int(number) for number in re.findall(r"^script\.py:(\d+): error", done.stdout, re.M)}
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}
    assert reported == wrong, done.stdout + done.stderr
    assert not re.findall(r"^(?!script\.py).*: error", done.stdout, re.M), done.stdout
