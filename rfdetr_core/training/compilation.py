"""`train.compile`: which parts of the network are compiled, torch's settings for it, and a check of the compilers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from rfdetr_core.base.errors import UserError
from rfdetr_core.training.config import TrainConfig

# The most compiled variants that torch keeps. Each region has a variant for each size of its input.
_MOST_VARIANTS = 4096


def regions(detector: Any) -> list[nn.Module]:
    """The encoder's blocks that run, and the decoder's layers. Each is compiled separately; equal ones share code."""
    encoder = detector.encoder
    return [*encoder.blocks[: encoder.feature_indexes[-1]], *detector.decoder.layers]


def compile_regions(detector: Any) -> None:
    """Make torch compile the detector's regions when they are first called. Copies of the detector are not compiled.

    Each size of the input gets its own code. Code for several sizes would depend on the order of the sizes, and a
    resumed run has another order.
    """
    for region in regions(detector):
        region.compile(fullgraph=True, dynamic=False)


@contextmanager
def compiler_settings(config: TrainConfig) -> Iterator[None]:
    """Set torch's compiler while a compiled detector trains. If `train.compile` is off, nothing is changed."""
    if config.compile == "off":
        yield
        return
    # Imported here, because without compilation the compiler is not needed.
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    # With these two settings and with `fullgraph`, code that cannot be compiled is an error, not a silent fallback.
    dynamo_settings: dict[str, Any] = {"fail_on_recompile_limit_hit": True, "suppress_errors": False}
    dynamo_settings |= {"recompile_limit": _MOST_VARIANTS, "accumulated_recompile_limit": _MOST_VARIANTS}
    # DDP gets each gradient from autograd, so regions need not be split at its buckets.
    dynamo_settings["optimize_ddp"] = False
    # `fallback_random` gives the random numbers of uncompiled code. With `deterministic`, no kernel is chosen by its
    # speed. `cpp.threads` makes code for this number of threads only.
    inductor_settings: dict[str, Any] = {"fallback_random": True, "deterministic": config.deterministic}
    inductor_settings["cpp.threads"] = torch.get_num_threads()
    if not hasattr(inductor, "deterministic"):  # an older torch
        del inductor_settings["deterministic"]
    with dynamo.patch(dynamo_settings), inductor.patch(inductor_settings), torch.compiler.set_stance("default"):
        yield


class PlainValidation(Callback):
    """Runs validation without compiled code: compiling for its batch sizes would take longer than it saves."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch to uncompiled code."""
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch back to compiled code."""
        torch.compiler.set_stance("default")


def code_generator(kind: str) -> str:
    """Name and version of the compiler that makes machine code for a kind of device.

    The version can change the last bits of a result, so it is part of the training record.

    Raises:
        UserError: the compiler is missing, or torch cannot compile for such a device.
    """
    if kind == "cpu":
        return _cpp_compiler()
    if kind == "cuda":
        return _triton()
    raise UserError(f"train.compile does not work on {kind}. Set train.compile: off.")


def failure(error: Exception) -> UserError | None:
    """The UserError to raise for an error of torch's compiler; None for any other error."""
    if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
        return None
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"train.compile: the network could not be compiled ({lines[0]}). Set train.compile: off.")


def _cpp_compiler() -> str:
    """The first line that the C++ compiler prints for --version. The variable CXX can name another compiler."""
    command = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    try:
        done = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        raise UserError(
            f"train.compile needs a C++ compiler, and {command} does not run. Install g++ (on Debian: apt-get install "
            "g++), or set train.compile: off."
        ) from None
    _check_header()
    return done.stdout.partition("\n")[0].strip()


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        raise UserError("train.compile needs Triton on CUDA. Run: pip install triton, or set train.compile: off.")
    if not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang"))):
        raise UserError(
            "train.compile needs a C compiler for Triton. Install gcc (on Debian: apt-get install gcc), or set "
            "train.compile: off."
        )
    _check_header()
    return f"triton {importlib.import_module('triton').__version__}"


def _check_header() -> None:
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        raise UserError(
            "train.compile builds code that needs the file Python.h. Install Python's headers (on Debian: "
            "apt-get install python3-dev), or set train.compile: off."
        )
