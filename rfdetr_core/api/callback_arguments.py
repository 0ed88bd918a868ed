"""Checks the arguments of callbacks. A UserError names the callback, the argument and what to give instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfdetr_core.base.errors import UserError
from rfdetr_core.training.module import TrainingModule


def refuse(callback: str, arguments: Mapping[str, tuple[Any, Any, str]]) -> None:
    """Raise a UserError for an argument that has no effect here and differs from its default.

    Args:
        callback: The name of the callback, for the message.
        arguments: For each name of an argument: its value, its default, and the reason why it has no effect.
    """
    for name, (value, default, reason) in arguments.items():
        if value != default:
            raise UserError(f"{callback}: {name}={value!r} is not possible here: {reason}. Leave it out.")


def check_numbers(callback: str, integers: Mapping[str, Any], real: Mapping[str, Any] | None = None) -> None:
    """Raise a UserError for an argument of a wrong type. True and False are not numbers.

    Args:
        callback: The name of the callback, for the message.
        integers: The arguments that must be integers, by name.
        real: The arguments that may be any number, by name.
    """
    for kind, arguments, types in (("a whole number", integers, (int,)), ("a number", real or {}, (int, float))):
        for name, value in arguments.items():
            if isinstance(value, bool) or not isinstance(value, types):
                raise UserError(f"{callback}: {name} is {value!r}. Give {kind}.")


def check_flags(callback: str, **flags: Any) -> None:
    """Raise a UserError for an argument that is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{callback}: {name} is {value!r}. Give True or False.")


def check_module(callback: str, module: Any) -> None:
    """Raise a UserError for a Lightning module that is not an RFDETRModelModule."""
    if not isinstance(module, TrainingModule):
        raise UserError(f"{callback} needs an RFDETRModelModule, but the module is a {type(module).__name__}.")
