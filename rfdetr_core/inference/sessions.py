"""Runtimes for exported files: ONNX Runtime and OpenVINO, arrays in and arrays out."""

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

    runtime: name and version, such as "onnxruntime 1.32.0". precision: in which the runtime computes: f32, f16, bf16,
    or int8 where layers are quantised. device: cpu, cuda or cuda:N. inputs, outputs: names, in the order of the file.
    """

    path: Path
    runtime: str
    precision: str
    device: str
    threads: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name for inputs by name. The arrays are the caller's to keep.

        Raises:
            UserError: the runtime refuses the inputs, such as one of another shape.
        """
        try:
            return self._run({name: np.ascontiguousarray(array) for name, array in inputs.items()})
        except Exception as error:
            raise UserError(f"{self.path} cannot be run by {self.runtime}: {_reason(error)}.") from error

    @abstractmethod
    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]: ...


def open_session(path: Path, *, device: str = "cpu", threads: int | None = None) -> Session:
    """Load a .onnx or .xml file; it needs no description.

    device: cpu; for .onnx also cuda or cuda:N, and auto: CUDA where the installed onnxruntime has it. threads: of the
    processor; None: as many as there are cores for this process.

    Raises:
        UserError: another kind of file, or one that is missing or damaged; its runtime is not installed; no such
            device; or OpenVINO would compute in another precision than float32.
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
        options.log_severity_level = 3  # errors alone: they are raised, too
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device != "cpu":
            # By default, CUDA multiplies float32 in TensorFloat-32, which has 10 bits of mantissa.
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
            "ENABLE_CPU_PINNING": False,  # it would bind the threads of the caller, too
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
        # Of the file: a compiled model has the names of inner tensors, too.
        self.inputs = tuple(entry.any_name for entry in model.inputs)
        self.outputs = tuple(entry.any_name for entry in model.outputs)

    def _run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        results = self._compiled(inputs, share_inputs=True, share_outputs=False)
        return {name: results[place] for place, name in enumerate(self.outputs)}


@cache
def _core() -> Any:
    """OpenVINO's core, one for the life of the process.

    Each core gives the thread a signal stack of its own, and at its end the stack that it found. Of two cores, the
    second to end gives back the stack of the first, which is no more, and the next signal, a Ctrl-C, ends the process.
    """
    return importlib.import_module("openvino").Core()


def _import(name: str, path: Path, install: str) -> Any:
    """A runtime. Raises a UserError with the command that installs it."""
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
    """The precision of a ModelProto's layers: ONNX Runtime computes each operator in that of its inputs."""
    onnx = importlib.import_module("onnx")
    if any(mark in node.op_type for node in model.graph.node for mark in ("Quantize", "QLinear", "Integer")):
        return "int8"
    narrow = {onnx.TensorProto.FLOAT16: "f16", onnx.TensorProto.BFLOAT16: "bf16"}
    kinds = {
        narrow[initializer.data_type] for initializer in model.graph.initializer if initializer.data_type in narrow
    }
    return min(kinds, default="f32")


def _onnx_device(device: str, providers: list[str]) -> str:
    """The device that is asked for, if the installed package has it; auto: CUDA, or without it the CPU."""
    has_cuda = "CUDAExecutionProvider" in providers
    if device == "auto":
        return "cuda" if has_cuda else "cpu"
    kind, _, number = device.partition(":")
    if device == "cpu" or (kind == "cuda" and has_cuda and number.isdecimal() == (":" in device)):
        return device
    choices = "auto, cpu, cuda or cuda:N" if has_cuda else "cpu; CUDA needs the package onnxruntime-gpu"
    raise UserError(f"device {device!r} is not available. Use {choices}.")


def _reason(error: Exception) -> str:
    """What a runtime's error says, on one line, without the places in its C++ sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept_lines = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(kept_lines).rstrip(".") or type(error).__name__
