"""Classes that params.yaml names."""

from __future__ import annotations

import importlib
from typing import Any

from rfdetr_core.errors import UserError


def make(option: str, name: str, base: type | tuple[type, ...], *arguments: Any, **keywords: Any) -> Any:
    """An instance of the class package.module.Class that an option names.

    Raises:
        UserError: no such class, not one of `base`, or it does not take the arguments.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{option} {name} cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{option} {name} is no class for it.")
    try:
        return found(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise UserError(f"{option} {name} does not take {option}_kwargs {keywords}: {error}.") from error
