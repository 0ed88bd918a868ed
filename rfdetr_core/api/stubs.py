"""Generates the types for editors and mypy: the keywords of the Python API, and stubs of the lazily imported names."""

from __future__ import annotations

import json
import re
import textwrap
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import JsonValue

from rfdetr_core.api import CONFIGS, NAMES, NAMES_BY_MODULE
from rfdetr_core.api.configs import OF_MODEL_AND_TRAIN, ModelSettings, TrainSettings, defaults_of
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import Config, parse
from rfdetr_core.data.augmentation import AugmentConfig
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.export.config import ExportConfig, Format
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.training.config import TrainConfig

_COMMAND = "python -m rfdetr_core.config.reference"
_WIDTH = 120
_PATH = "str | os.PathLike[str]"
_AS_BUILT = "None: as in the constructor"
_DEVICE = "str | int | torch.device | None"


class Key(NamedTuple):
    """A key of a TypedDict: its type in Python syntax, and its description."""

    type: str
    description: str


# Descriptions for keywords whose meaning in Python differs from the field of params.yaml.
_PYTHON_MEANINGS = {
    "dataset_dir": "folder of a COCO or YOLO dataset",
    "output_dir": "folder of the run's files",
    "resume": "checkpoint.pth of the run to resume; the training ends at `epochs`",
    "pretrain_weights": "path of a checkpoint, or a published name; None: a new model; default: the published weights",
}
_HEAD = f'''"""The keywords of the Python API, for editors and mypy. Written by `{_COMMAND}`."""

import os
from typing import Any, Literal, Required, TypedDict

import torch
'''


def generated() -> dict[str, str]:
    """The content of each generated file, by its path in the project."""
    return {
        "rfdetr_core/api/keywords.py": keywords_module(),
        "rfdetr_core/__init__.pyi": names_stub(),
        "rfdetr_core/config/__init__.pyi": configs_stub(),
    }


def keywords_module() -> str:
    """The module keywords.py: a TypedDict for each function."""
    settings = _keys(TrainSettings)
    settings = {key: settings[key] for key in dict.fromkeys(["output_dir", *TrainConfig.model_fields, *settings])}
    dataset = settings.pop("dataset_dir")
    model = {
        key: Key(_or_none(entry.type), entry.description)
        for key, entry in _keys(ModelSettings).items()
        if key != "variant"
    }
    of_model = {
        key: Key(model[key].type, f"{_describe_field(ModelSettings, key)}; {_AS_BUILT}") for key in OF_MODEL_AND_TRAIN
    }
    model["device"] = Key(_DEVICE, model["device"].description)
    of_model["device"] = Key(_DEVICE, f"cpu, cuda, cuda:0 or mps; sets accelerator; {_AS_BUILT}")
    evaluation = {key: entry for key, entry in _keys(EvaluateConfig).items() if key not in ("split", *settings)}
    evaluation = {"dataset_dir": Key(_or_none(dataset.type), "None: the dataset of the training")} | evaluation
    export = {
        "format": Key(_type(Format), "format of the file"),
        "quantization": Key('Literal["int8"] | None', "int8: the same as format onnx-int8"),
        "calibration_data": Key("str | os.PathLike[str] | None", "folder of images that determine the int8 ranges"),
        "max_images": Key("int", "largest number of images from calibration_data (default: 100)"),
        "shape": Key(
            "tuple[int, int] | list[int] | None", "(resolution, resolution): only the resolution of the model"
        ),
    }
    config_keys = {key: entry for key, entry in _keys(ExportConfig).items() if key not in ("formats", "batch_size")}
    parts = [
        _HEAD,
        _typed_dict("AugmentKeywords", "", "The keys of `augmentation`.", _keys(AugmentConfig)),
        _typed_dict("ModelKeywords", "", "The keywords of a class such as RFDETRNano.", model),
        _typed_dict("RunKeywords", "", "The settings of `train` that `evaluate` also takes.", settings),
        _typed_dict(
            "SettingsKeywords",
            "RunKeywords",
            "The keywords of a TrainConfig.",
            {"dataset_dir": Key(f"Required[{dataset.type}]", dataset.description)},
        ),
        _typed_dict("TrainKeywords", "SettingsKeywords", "The keywords of `train`.", of_model),
        _typed_dict("EvaluateKeywords", "RunKeywords", "The keywords of `evaluate`.", evaluation | of_model),
        _typed_dict(
            "ExportKeywords", "", "The keywords of `export`, except output_dir and batch sizes.", export | config_keys
        ),
    ]
    return "\n\n".join(parts)


def names_stub() -> str:
    """The stub of `rfdetr_core`, with its public names."""
    variants = {architecture.name: key for key, architecture in VARIANTS.items()}
    imports = [
        f"from {module} import {name} as {name}"
        for module, names in sorted(NAMES_BY_MODULE.items())
        for name in sorted(names, key=lambda name: (_kind_of_name(name), name.lower()))
        if name not in variants
    ]
    classes = []
    for name, key in variants.items():
        variant = VARIANTS[key]
        weights = f"weights {variant.weights_file}" if variant.weights_file else "no published weights"
        classes.append(f'class {name}(RFDETR):\n    """RF-DETR {key}: {variant.resolution} pixels, {weights}."""\n')
    head = f'"""The public names, for editors and mypy. Written by `{_COMMAND}`."""\n'
    return "\n".join([head, *imports, "", _all_assignment(NAMES), "", *classes])


def configs_stub() -> str:
    """The stub of `rfdetr_core.config`, with the configs of the Python API."""
    renamed = {name: target for name, target in CONFIGS.items() if name != target}
    imports = [f"from rfdetr_core.api.configs import {target} as {name}" for name, target in renamed.items()]
    parts = [
        f'"""The public names, for editors and mypy. Written by `{_COMMAND}`."""\n',
        "from typing import Unpack\n",
        *sorted(imports),
        "from rfdetr_core.api.keywords import ModelKeywords",
        "",
        _all_assignment(sorted(CONFIGS)),
        "",
    ]
    for name in (name for name in CONFIGS if name not in renamed):
        parts.append(
            f'class {name}(ModelConfig):\n    """The config of {name.removesuffix("Config")}."""\n\n'
            "    def __init__(self, **keywords: Unpack[ModelKeywords]) -> None: ...\n"
        )
    return "\n".join(parts)


def _keys(config: type[Config]) -> dict[str, Key]:
    """The keys of a config, with the types that the keywords take in Python."""
    keys, defaults = {}, defaults_of(config)
    for key, field in config.model_fields.items():
        kind = _type(field.annotation)
        if key in _PYTHON_MEANINGS:
            kind = kind.replace("str", _PATH, 1)
        elif "Literal[" in kind and "bool" not in kind and _takes_bool(config, key):
            kind = f"bool | {kind}"
        long = key == "pretrain_weights" or (isinstance(defaults.get(key), dict) and defaults[key])
        default = f" (default: {defaults[key]!r})" if key in defaults and not long else ""
        keys[key] = Key(kind, _describe_field(config, key) + default)
    return keys


def _describe_field(config: type[Config], key: str) -> str:
    """The description of a field, with Python's None, True and False."""
    text = _PYTHON_MEANINGS.get(key) or config.model_fields[key].description or ""
    words = {"null": "None", "true": "True", "false": "False"}
    return re.sub(r"\b(null|true|false)\b", lambda match: words[match[0]], text)


def _takes_bool(config: type[Config], key: str) -> bool:
    """Whether a field also takes a bool, which a validator replaces by a text such as `default`."""
    required = {name: "-" for name, field in config.model_fields.items() if field.is_required()}
    try:
        parse(config, required | {key: True}, "")
    except UserError:
        return False
    return True


def _type(kind: Any) -> str:
    """A type in Python syntax. As `parse` does, it accepts a list for a tuple, and a mapping for a config."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or kind is JsonValue:
        return "Any"
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return f"Literal[{', '.join(json.dumps(value) for value in inner)}]"
    if origin in (Union, types.UnionType):
        return " | ".join(sorted(dict.fromkeys(map(_type, inner)), key="None".__eq__))
    if origin in (list, tuple):
        items = [_type(element) for element in inner if element is not ...]
        fixed = origin is tuple and ... not in inner
        return f"list[{items[0]}] | tuple[{', '.join(items if fixed else [*items, '...'])}]"
    if origin is dict:
        return "dict[str, Any]"
    if isinstance(kind, type) and issubclass(kind, Config):
        return f"{kind.__name__.removesuffix('Config')}Keywords"
    return "None" if kind is type(None) else str(kind.__name__)


def _or_none(kind: str) -> str:
    return kind if kind.endswith("None") else f"{kind} | None"


def _typed_dict(name: str, base: str, docstring: str, keys: Mapping[str, Key]) -> str:
    lines = [f"class {name}({base or 'TypedDict'}, total=False):", f'    """{docstring}"""', ""]
    for key, (kind, sentence) in keys.items():
        lines += [f"    {key}: {kind}", *_docstring(sentence)]
    return "\n".join(lines) + "\n"


def _docstring(text: str) -> Iterable[str]:
    return (f"    {line}" for line in textwrap.wrap(f'"""{text}"""', _WIDTH - 4, break_on_hyphens=False))


def _all_assignment(names: Iterable[str]) -> str:
    return "\n".join(
        [
            "__all__ = [",
            *(f'    "{name}",' for name in sorted(names, key=lambda name: (_kind_of_name(name), name))),
            "]",
        ]
    )


def _kind_of_name(name: str) -> int:
    """The sort key of a name in ruff's order: constants, classes, then functions."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2
