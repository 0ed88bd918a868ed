"""`train.portable` (experimental): arithmetic that should give the same bits on every x86-64 processor with AVX2.

torch uses its kernels for AVX2. MKL uses the kernels that Intel documents for processors of other makers
(MKL_CBWR). oneDNN has no such kernels, so it is switched off.
"""

from __future__ import annotations

import os
import sys

from rfdetr_core.base.errors import UserError
from rfdetr_core.training.config import TrainConfig

# A library reads its variable once, before its first computation.
VARIABLES = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "MKL_DYNAMIC": "FALSE"}


def set_variables(config: TrainConfig) -> None:
    """If `train.portable` is set, set VARIABLES in this process. It must not have imported torch yet."""
    if config.portable:
        assert "torch" not in sys.modules
        os.environ.update(VARIABLES)


def use_portable(config: TrainConfig) -> None:
    """If `train.portable` is set, use portable arithmetic in the whole process from now on.

    Raises:
        UserError: the variables are not set, were set too late, or the processor does not have AVX2.
    """
    if not config.portable:
        return
    import torch

    if any(os.environ.get(name) != value for name, value in VARIABLES.items()):
        variables = " ".join(f"{name}={value}" for name, value in VARIABLES.items())
        raise UserError(
            "train.portable needs environment variables that are set before torch is loaded. Start Python again: "
            f"env {variables} python ..."
        )
    with_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if (capability := torch.backends.cpu.get_cpu_capability()) != "AVX2" or not with_mkl:
        raise UserError(
            "train.portable needs an x86-64 processor with AVX2, a torch with MKL, and environment variables that are "
            f"set before Python starts. Here torch computes with {capability}. Set train.portable: false, or start "
            "Python again."
        )
    setattr(torch.backends.mkldnn, "enabled", False)  # noqa: B010 - a property of a module
