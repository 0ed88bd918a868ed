"""What of this machine and its environment decides bits."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from rfdetr_core.base import files

_DECIDING = (
    *("ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA"),
)
_CPUINFO = Path("/proc/cpuinfo")


def settings() -> dict[str, str]:
    """The environment variables that change bits and are set."""
    names = (name for name in sorted(os.environ) if name in _DECIDING or name.startswith("DNNL_"))
    return {name: os.environ[name] for name in names}


def processor() -> str:
    """The model name of the processor."""
    lines = files.read_text(_CPUINFO).splitlines() if _CPUINFO.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
