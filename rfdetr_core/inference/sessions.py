"""Runs exported files with ONNX Runtime or OpenVINO: arrays in, arrays out."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.processes import usable_cores
from rfdetr_core.checkpoint.exported import ONNX_EXTRA, OPENVINO_EXTRA, SUFFIXES, parse_onnx

Array = npt.NDArray[Any]
AGAIN = "Export it again from its checkpoint."


class Session(ABC):
    """An exported file, loaded by its runtime.

    runtime: name and version, such as "onnxruntime 1.32.0". precision: f32, f16, bf16, or int8 if layers are quantised.
    device: cpu, cuda or cuda:N. threads: CPU threads. inputs, outputs: their names, in the order of the file.
    """

    path: Path
    runtime: str
    precision: str
    device: str
    threads: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs, by name, from the inputs, by name. The returned arrays are copies.

        Raises:
            UserError: the runtime refuses the inputs, such as an array of another shape.
        """
        try:
            return self._run({name: np.ascontiguousarray(array) for name, array in inputs.items()})
        except Exception as error:
            raise UserError(f"{self.path} cannot be run by {self.runtime}: {_reason(error)}.") from error

    @abstractmethod
    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]: ...


def open_session(path: Path, *, device: str = "cpu", threads: int | None = None) -> Session:
    """Load a .onnx or .xml file. The file need not have a description.

    Args:
        path: The file.
        device: "cpu"; for .onnx also "cuda", "cuda:N" and "auto": CUDA if the installed onnxruntime has it.
        threads: CPU threads; None: as many as this process has cores.

    Raises:
        UserError: the file is of another kind, missing or damaged; its runtime is not installed; the device does not
            exist; or OpenVINO would not compute in float32.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is not an exported model: its name must end in {' or '.join(SUFFIXES)}.")
    kind = OnnxSession if path.suffix == ".onnx" else OpenVinoSession
    return kind(path, device, usable_cores() if threads is None else threads)


class OnnxSession(Session):
    """A .onnx file in ONNX Runtime."""

    def __init__(self, path: Path, device: str, threads: int) -> None:
        onnxruntime = _import("onnxruntime", path, ONNX_EXTRA)
        self.path, self.threads = path, threads
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        data = _read(path)
        self.precision = _onnx_precision(parse_onnx(data, path))
        self.device = _onnx_device(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors only; they are also raised
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device != "cpu":
            # Without this setting, CUDA multiplies float32 as TensorFloat-32, which has 10 bits of mantissa.
            numbered = {"device_id": self.device.partition(":")[2] or "0", "use_tf32": "0"}
            providers.insert(0, ("CUDAExecutionProvider", numbered))
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=providers)
        except Exception as error:
            raise UserError(f"{path} cannot be loaded by {self.runtime}: {_reason(error)}. {AGAIN}") from error
        if self.device != "cpu" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            if device != "auto":
                raise UserError(f"{self.runtime} cannot use {device}: CUDA's libraries are missing. Use device cpu.")
            self.device = "cpu"
        self.inputs = tuple(entry.name for entry in self._session.get_inputs())
        self.outputs = tuple(entry.name for entry in self._session.get_outputs())

    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(self.outputs, self._session.run([*self.outputs], inputs), strict=True))


class OpenVinoSession(Session):
    """A .xml file, and the .bin file with its constants, in OpenVINO on the CPU."""

    def __init__(self, path: Path, device: str, threads: int) -> None:
        if device not in ("cpu", "auto"):
            raise UserError(f"device {device!r} is not available: OpenVINO files run on the CPU here. Use device cpu.")
        openvino = _import("openvino", path, OPENVINO_EXTRA)
        self.path, self.device, self.threads = path, "cpu", threads
        self.runtime = f"openvino {openvino.__version__.partition('-')[0]}"
        data, weights = _read(path), _read(path.with_suffix(".bin"))
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # by default a CPU with AMX computes in bf16
            "EXECUTION_MODE_HINT": "ACCURACY",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # pinning would also bind the threads of the caller
        }
        try:
            core = _core()
            model = core.read_model(data, weights)
            self._compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:
            raise UserError(f"{path} cannot be loaded by {self.runtime}: {_reason(error)}. {AGAIN}") from error
        used = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        if used != "f32":
            raise UserError(f"{self.runtime} would compute {path} in {used}, not in f32, on this processor.")
        quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
        self.precision = "int8" if quantised else used
        # The names are read from the file: a compiled model has the names of inner tensors, too.
        self.inputs = tuple(entry.any_name for entry in model.inputs)
        self.outputs = tuple(entry.any_name for entry in model.outputs)

    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        results = self._compiled(inputs, share_inputs=True, share_outputs=False)
        return {name: results[place] for place, name in enumerate(self.outputs)}


@cache
def _core() -> Any:
    """OpenVINO's Core object, the same for the life of the process.

    Two Core objects would make Ctrl-C crash the process. Each one sets its own signal stack and restores the previous
    stack when it ends. The second to end would restore the stack of the first, which has been freed.
    """
    return importlib.import_module("openvino").Core()


def _import(name: str, path: Path, install: str) -> Any:
    """Import a runtime. Raises a UserError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{path} needs the package {name} to run. Install it: {install}") from error


def _read(path: Path) -> bytes:
    try:
        return files.read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _onnx_precision(model: Any) -> str:
    """The lowest precision of a ModelProto's weights. ONNX Runtime computes in the precision of the inputs."""
    onnx = importlib.import_module("onnx")
    if any(mark in node.op_type for node in model.graph.node for mark in ("Quantize", "QLinear", "Integer")):
        return "int8"
    narrow = {onnx.TensorProto.FLOAT16: "f16", onnx.TensorProto.BFLOAT16: "bf16"}
    kinds = {
        narrow[initializer.data_type] for initializer in model.graph.initializer if initializer.data_type in narrow
    }
    return min(kinds, default="f32")


def _onnx_device(device: str, providers: list[str]) -> str:
    """Check a device against the installed package. "auto" gives CUDA, or without CUDA the CPU."""
    has_cuda = "CUDAExecutionProvider" in providers
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    kind, _, number = device.partition(":")
    if device == "cpu" or (kind == "cuda" and has_cuda and number.isdecimal() == (":" in device)):
        return device
    choices = "auto, cpu, cuda or cuda:N" if has_cuda else "cpu; CUDA needs the package onnxruntime-gpu"
    raise UserError(f"device {device!r} is not available. Use {choices}.")


def _reason(error: Exception) -> str:
    """A runtime's error message on one line, without places in its C++ source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept_lines = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(kept_lines).rstrip(".") or type(error).__name__
