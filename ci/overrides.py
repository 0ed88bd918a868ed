"""Write overrides such as train.epochs=20 to params.yaml: all of them or, if any has an error, none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import PARAMS_FILE, load_params
from rfdetr_core.config.settings import check_params

_FORM = re.compile(r"\+{0,2}[\w-]+(\.[\w-]+)*=.*", re.DOTALL)


def apply_overrides(words: Iterable[str]) -> None:
    """Write overrides to params.yaml and keep its comments. words: each is KEY=VALUE.

    DVC's own `apply_overrides`, used by `dvc exp run -S`, resolves `${...}` in the file and in the words. That would
    put secrets of the environment into git. This function resolves nothing. It reads values by the same grammar.

    Raises:
        UserError: a word is not KEY=VALUE, or params.yaml would be invalid. The file is then unchanged.
    """
    from dvc.utils.collections import merge_dicts
    from dvc.utils.serialize import dump_yaml, parse_yaml_for_update

    words = list(words)
    load_params()  # report an error of the file itself before any word is applied
    content = parse_yaml_for_update(PARAMS_FILE.read_text(encoding="utf-8-sig"), PARAMS_FILE)
    for word in words:
        merge_dicts(content, _nested(word))
    with files.replacing(PARAMS_FILE) as changed:
        dump_yaml(changed, content)
        try:
            check_params(changed)
        except UserError as error:
            message = str(error).replace(str(changed), str(PARAMS_FILE))
            raise UserError(f"{PARAMS_FILE} cannot be changed by {' '.join(words)}: {message}") from None


def _nested(word: str) -> dict[str, Any]:
    """a.b=1 as {a: {b: 1}}. UserError: the word has another form, or several values to try."""
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.errors import HydraException

    expected = "write KEY=VALUE, such as train.epochs=20. Put spaces between such pairs, and none inside a pair"
    if not _FORM.fullmatch(word):
        raise UserError(f"{word} does not set a parameter: {expected}.")
    try:
        (override,) = to_hydra_overrides([word])
        if override.is_sweep_override():
            raise UserError(f"{word} has several values, but only one model is trained: {expected}.")
        value = override.value()
    except (HydraException, RecursionError) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise UserError(f"{word} does not set a parameter ({reason}): {expected}.") from None
    for key in reversed(word.partition("=")[0].lstrip("+").split(".")):
        value = {key: value}
    return value
