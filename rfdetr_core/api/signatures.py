"""The signatures that `help` and a notebook show: every keyword with its type and default, instead of `**settings`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

from rfdetr_core.api.configs import OF_MODEL_AND_TRAIN, TrainSettings, constructor_defaults, defaults_of
from rfdetr_core.api.keywords import EvaluateKeywords, ModelKeywords, TrainKeywords
from rfdetr_core.evaluation.config import EvaluateConfig

F = TypeVar("F", bound=Callable[..., Any])


def show_train(function: F) -> F:
    """Set the signature of `train`."""
    defaults = defaults_of(TrainSettings) | dict.fromkeys((*OF_MODEL_AND_TRAIN, "device"))
    return _show(function, get_type_hints(TrainKeywords), defaults)


def show_evaluate(function: F) -> F:
    """Set the signature of `evaluate`. Keywords of `train` that it takes but ignores stay in `**settings`."""
    defaults = {"dataset_dir": None, "output_dir": defaults_of(TrainSettings)["output_dir"]}
    defaults |= {key: value for key, value in defaults_of(EvaluateConfig).items() if key != "split"}
    hints = get_type_hints(EvaluateKeywords)
    return _show(function, {key: hints[key] for key in defaults}, defaults, keep_settings=True)


def constructor(init: Callable[..., None], variant: str) -> Callable[..., None]:
    """The constructor of the model class of a variant, with its signature."""

    @functools.wraps(init)
    def construct(self: Any, **settings: Any) -> None:
        init(self, **settings)

    return _show(construct, get_type_hints(ModelKeywords), constructor_defaults(variant))


def _show(function: F, types: Mapping[str, Any], defaults: Mapping[str, Any], *, keep_settings: bool = False) -> F:
    """Set the signature of a function: its positional parameters, then the keywords.

    Args:
        function: The function; its last parameter is a `**settings`.
        types: The type of each keyword.
        defaults: The defaults; a keyword without one is required.
        keep_settings: Keep `**settings` at the end, for further keywords.
    """
    signature = inspect.signature(function)
    *first, settings = signature.parameters.values()
    keywords = [
        Parameter(key, Parameter.KEYWORD_ONLY, default=defaults.get(key, Parameter.empty), annotation=types[key])
        for key in sorted(types, key=defaults.__contains__)  # the required ones first
    ]
    new_signature = signature.replace(parameters=[*first, *keywords, *([settings] if keep_settings else [])])
    function.__signature__ = new_signature  # type: ignore[attr-defined]
    return function
