"""Compiling the trained network (`train.compile`): its regions, what it needs, torch's settings while it trains."""

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

# Compiled variants that torch keeps of all regions: a region has one for each size of its input.
_MOST_VARIANTS = 4096


def regions(detector: Any) -> list[nn.Module]:
    """The encoder's blocks that run and the decoder's layers: compiled one by one, equal ones share the result."""
    encoder = detector.encoder
    return [*encoder.blocks[: encoder.feature_indexes[-1]], *detector.decoder.layers]


def compile_regions(detector: Any) -> None:
    """Have the detector's regions compiled when they are first called. Copies of the detector are not compiled.

    Each size of the input has code of its own. With code for any size, the order in which sizes come, which a resume
    changes, would decide which code a size gets.
    """
    for region in regions(detector):
        region.compile(fullgraph=True, dynamic=False)


@contextmanager
def compiler_settings(config: TrainConfig) -> Iterator[None]:
    """torch's settings while a compiled detector trains; none is changed where `train.compile` is off."""
    if config.compile == "off":
        yield
        return
    # Imported here: nothing of the compiler is needed where it is off.
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    # With these and with fullgraph, nothing falls back to uncompiled code unseen.
    of_dynamo: dict[str, Any] = {"fail_on_recompile_limit_hit": True, "suppress_errors": False}
    of_dynamo |= {"recompile_limit": _MOST_VARIANTS, "accumulated_recompile_limit": _MOST_VARIANTS}
    # DDP hears of each gradient from autograd, so regions need not be split by its buckets.
    of_dynamo["optimize_ddp"] = False
    # The random numbers of uncompiled code; no kernel chosen by its time; code for this number of threads alone.
    of_inductor: dict[str, Any] = {"fallback_random": True, "deterministic": config.deterministic}
    of_inductor["cpp.threads"] = torch.get_num_threads()
    if not hasattr(inductor, "deterministic"):  # an older torch
        del of_inductor["deterministic"]
    with dynamo.patch(of_dynamo), inductor.patch(of_inductor), torch.compiler.set_stance("default"):
        yield


class PlainValidation(Callback):
    """Has validation run the compiled regions as they are written: compiling them for its sizes would not pay."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use no compiled code."""
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use it again."""
        torch.compiler.set_stance("default")


def code_generator(kind: str) -> str:
    """What makes machine code on a kind of device, with its version: as the version of torch, it decides bits.

    Raises:
        UserError: it is missing, or nothing can be compiled on such a device.
    """
    if kind == "cpu":
        return _cpp_compiler()
    if kind == "cuda":
        return _triton()
    raise UserError(f"train.compile does not work on {kind}. Set train.compile: off.")


def failure(error: Exception) -> UserError | None:
    """An error of torch's compiler as a message; None: it is another error."""
    if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
        return None
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"train.compile: the network could not be compiled ({lines[0]}). Set train.compile: off.")


def _cpp_compiler() -> str:
    """The first line of its --version. CXX names it, as for torch."""
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
            "train.compile needs Python.h, which compiled code is built with. Install Python's headers (on Debian: "
            "apt-get install python3-dev), or set train.compile: off."
        )
