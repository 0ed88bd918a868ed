"""Checks the arguments that upstream's methods have. Unsupported values are errors with advice."""

from __future__ import annotations

import difflib
import operator
import sys
from collections.abc import Mapping
from typing import Any

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.model.config import Architecture

PREDICT = ("images", "threshold", "shape", "patch_size", "include_source_image", "batch_size")
_LARGEST = 4096  # pixels of a side, the limit of model.resolution
# Other names that people use -> the keyword.
_CALLED = {"conf": "threshold", "confidence": "threshold", "imgsz": "shape", "resolution": "shape", "size": "shape"}


def input_size(shape: Any, architecture: Architecture) -> tuple[int, int]:
    """The (height, width) of `shape`. None stands for the square of the model's resolution.

    Raises:
        UserError: the shape is not two integers from 1 to 4096 that are divisible by patch_size x windows. The message
            names the nearest ones.
    """
    if shape is None:
        return architecture.resolution, architecture.resolution
    try:
        height, width = shape
        sides = {name: _as_side(side) for name, side in {"height": height, "width": width}.items()}
    except (TypeError, ValueError):
        raise UserError(f"shape is {shape!r}: it must be two whole numbers, (height, width) in pixels.") from None
    stride = architecture.stride
    for name, side in sides.items():
        if not 1 <= side <= _LARGEST or side % stride:
            raise UserError(
                f"shape is {shape!r}: its {name} must be from 1 to {_LARGEST} and divisible by patch_size "
                f"{architecture.patch_size} x windows {architecture.windows} = {stride} of {architecture.name}. "
                f"Nearest: {_nearest(side, stride)}."
            )
    return sides["height"], sides["width"]


def check_patch_size(patch_size: Any, architecture: Architecture) -> None:
    """Raise a UserError if patch_size is neither None nor the model's own."""
    expected = architecture.patch_size
    if patch_size is not None and (isinstance(patch_size, bool) or patch_size != expected):
        raise UserError(f"patch_size is {patch_size!r}, but {architecture.name} has {expected}. Leave patch_size out.")


def check_upstreams(inplace: bool, compile_backend: str | None, device: str) -> None:
    """Check two keywords that only upstream's optimize_for_inference() uses.

    Args:
        inplace: Upstream replaces the model by its copy; here this is an error.
        compile_backend: Upstream's name of a compiler. Here a line on the standard error says how the copy is compiled.
        device: Where the copy runs, by torch's name.

    Raises:
        UserError: inplace is true, or upstream has no such backend.
    """
    if inplace is not False:
        raise UserError(
            f"inplace is {inplace!r}: the model must stay in addition to its optimised copy, because evaluate(), "
            "train() and export() need it. Leave inplace out."
        )
    if compile_backend is None:
        return
    if compile_backend not in ("torchscript", "inductor"):
        raise UserError(f"compile_backend is {compile_backend!r}: it must be inductor or torchscript, or left out.")
    cause = "the copy is compiled by inductor (torch.compile)" if device.startswith("cuda") else "nothing is compiled"
    say(f"compile_backend {compile_backend}: on {device} {cause}", file=sys.stderr)


def refuse_unknown(unknown: Mapping[str, object]) -> None:
    """Raise a UserError if `unknown` has a keyword. The message names the keywords of `predict`."""
    for name in unknown:
        close = [_CALLED[name]] if name in _CALLED else difflib.get_close_matches(name, PREDICT, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"predict() has no keyword {name}.{hint} It has: {', '.join(PREDICT)}.")


def _as_side(side: Any) -> int:
    """A side as an int. Raises TypeError if it is not an integer; True and False are not accepted."""
    if isinstance(side, bool):
        raise TypeError
    return operator.index(side)


def _nearest(side: int, stride: int) -> str:
    below, most = max(side, 0) // stride * stride, _LARGEST // stride * stride
    near = dict.fromkeys(min(max(side, stride), most) for side in (below, below + stride))
    return " or ".join(map(str, near))
