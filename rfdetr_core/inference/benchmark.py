"""The command benchmark: measures latency and throughput of model files in turns, so that they can be compared."""

from __future__ import annotations

import contextlib
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.base.processes import usable_cores
from rfdetr_core.checkpoint.exported import SUFFIXES
from rfdetr_core.data.preprocess import normalise, pixels
from rfdetr_core.inference.conversion import to_rgb
from rfdetr_core.inference.exported import ExportedPredictor, as_input, load_predictor
from rfdetr_core.inference.predictor import BasePredictor, Predictor, torch_threads
from rfdetr_core.ingest.folder import listing

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SECONDS = 5.0
_TURN = 0.2  # seconds of timed calls of one contender; then the next one has its turn
_WARM = 2  # calls before the first turn, in which a runtime plans and allocates memory
_MOST_PICTURES = 32  # decoded pictures in memory
_NOISE = (640, 480)

Pictures = Sequence[Image.Image]


@dataclass(frozen=True)
class Setup:
    """A model file in one form and precision.

    form: "exact": a checkpoint as `predict` runs it by default. "optimised": as after `optimize_for_inference`.
        "raw" or "complete": an exported graph without, or with, preprocessing and postprocessing.
    threads: the number of CPU threads.
    """

    file: str
    form: str
    runtime: str
    precision: str
    device: str
    threads: int


@dataclass(frozen=True)
class Contender(Setup):
    """A setup with the two functions that are timed. The calls of several setups alternate.

    model: takes a batch of pictures and prepares the model's input. This call is not timed. It returns a function that
        only runs the model on this input; the calls of the returned function are timed.
    predict: takes a batch of decoded pictures and returns detections in pixels. Its calls are timed.
    """

    model: Callable[[Pictures], Callable[[], object]]
    predict: Callable[[Pictures], object]


@dataclass(frozen=True)
class Timing:
    """The time of calls: median and 95th percentile in milliseconds, and images per second over all calls."""

    calls: int
    p50_ms: float
    p95_ms: float
    images_per_second: float


@dataclass(frozen=True)
class Row(Setup):
    """The measurements of a setup at a batch size."""

    batch: int
    model: Timing
    predict: Timing


@dataclass(frozen=True)
class Benchmark:
    """The measurements, the machine and the images. seconds: the least time for which each task was timed."""

    machine: dict[str, Any]
    images: dict[str, Any]
    seconds: float
    rows: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """The content for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A description of machine and images, then an aligned table."""
        return "\n".join([*self._head(), "", *_aligned([_HEAD, *map(_cells, self.rows)])])

    def _head(self) -> Iterator[str]:
        machine, images = self.machine, self.images
        python, gpu = f"Python {machine['python']}", machine["gpu"]
        parts = (machine["cpu"], machine["instructions"], f"{machine['cores']} cores", machine["system"], python, gpu)
        yield f"machine  {', '.join(part for part in parts if part)}"
        yield f"images   {images['count']} from {images['source']}: {', '.join(images['sizes'])}"
        yield "model    from prepared input to raw output; for a complete file, the full graph, which prepares images"
        yield "predict  from decoded image to detections: resize, normalise, model, boxes in pixels; without decoding"
        yield f"         times in ms. Each task was timed for {self.seconds:g} s or more, and the models took turns"


_HEAD = (
    *("file", "form", "runtime", "precision", "device", "threads", "batch"),
    *("model p50", "p95", "images/s", "calls", "predict p50", "p95", "images/s", "calls"),
)
_WORDS = 5  # the first columns hold words; they are aligned on the left


def _cells(row: Row) -> tuple[str, ...]:
    figures = [
        (f"{timing.p50_ms:.1f}", f"{timing.p95_ms:.1f}", f"{timing.images_per_second:.2f}", str(timing.calls))
        for timing in (row.model, row.predict)
    ]
    words = (row.file, row.form, row.runtime, row.precision, row.device)
    return (*words, str(row.threads), str(row.batch), *figures[0], *figures[1])


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column < _WORDS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells)


def benchmark(
    paths: Sequence[Path],
    *,
    batches: Sequence[int] = (1,),
    precisions: Sequence[str] = ("fp32", "bf16"),
    images: Path | None = None,
    threads: int | None = None,
    seconds: float = SECONDS,
    device: str = "auto",
) -> Benchmark:
    """Measure each model file at each batch size.

    Args:
        paths: Checkpoints and exported files.
        batches: The batch sizes.
        precisions: For checkpoints; an exported file has its own precision.
        images: A folder of images; None: noise.
        threads: CPU threads for the model; None: as many as this process has cores.
        seconds: The least time for which each task is timed.
        device: "auto", or torch's name of a device.

    Raises:
        UserError: a file is not a model, or its runtime is not installed; the device does not exist; or the folder has
            no images.
    """
    threads = usable_cores() if threads is None else threads
    pictures, source = load_pictures(images, max(batches))
    with torch_threads(threads):
        models = [(str(path), open_model(path, device, threads)) for path in paths]
        rows = []
        for batch in batches:
            all_contenders = [
                contender for name, model in models for contender in contenders(name, model, batch, precisions)
            ]
            say(
                f"batch {batch}: {len(all_contenders)} rows need {2 * seconds * len(all_contenders):.0f} s or more",
                file=sys.stderr,
            )
            rows += measure(all_contenders, pictures, batch, seconds)
    return Benchmark(machine({row.device for row in rows}), source, seconds, rows)


def open_model(path: Path, device: str, threads: int) -> BasePredictor:
    """Open a model file like `load_predictor`, with a number of threads.

    Args:
        path: A checkpoint or an exported file.
        device: "auto", or torch's name of a device.
        threads: CPU threads of an exported file's runtime. For a checkpoint, `torch_threads` sets them.
    """
    if path.suffix in SUFFIXES:
        return ExportedPredictor.from_file(path, device=device, threads=threads)
    return load_predictor(path, device=device)


def contenders(file: str, predictor: BasePredictor, batch: int, precisions: Sequence[str]) -> Iterator[Contender]:
    """Yield the setups to measure for a model. A checkpoint: exact in float32, and optimised in each of `precisions`.

    An exported file has only one setup.

    Args:
        file: The file's name in the table.
        predictor: The opened file.
        batch: The batch size.
        precisions: Keys of DTYPES.

    Raises:
        UserError: an exported file only accepts another batch size.
    """
    if isinstance(predictor, ExportedPredictor):
        yield _exported(file, predictor, batch)
        return
    assert isinstance(predictor, Predictor)
    forms = [("exact", "fp32", predictor)] if "fp32" in precisions else []
    for precision in precisions:
        forms.append(("optimised", precision, predictor.optimised(batch_size=batch, dtype=DTYPES[precision])))
    runtime = f"torch {torch.__version__.partition('+')[0]}"
    for form, precision, form_predictor in forms:
        model = partial(
            _torch_call, form_predictor.network, form_predictor.architecture.resolution, form_predictor.device
        )
        predict = partial(_predict, form_predictor, batch)
        yield Contender(file, form, runtime, precision, form_predictor.device, torch.get_num_threads(), model, predict)


def _exported(file: str, predictor: ExportedPredictor, batch: int) -> Contender:
    session, described = predictor.session, predictor.description
    if described.batch_size not in (None, batch):
        raise UserError(
            f"{file} takes batches of {described.batch_size}, not of {batch}. Measure it with --batch "
            f"{described.batch_size}, or export it again with export.batch_size: null."
        )
    form = "complete" if described.postprocess else "raw"
    precision = {"f32": "fp32", "f16": "fp16"}.get(session.precision, session.precision)
    model, predict = partial(_exported_call, predictor), partial(_predict, predictor, batch)
    return Contender(file, form, session.runtime, precision, session.device, session.threads, model, predict)


def _exported_call(predictor: ExportedPredictor, pictures: Pictures) -> Callable[[], object]:
    described = predictor.description
    if described.postprocess and len({picture.size for picture in pictures}) > 1:
        pictures = [pictures[0]] * len(pictures)  # a batch of a complete file must have images of equal size
    inputs = as_input(pictures, described.images, predictor.architecture.resolution)
    return partial(predictor.session.run, {predictor.session.inputs[0]: inputs})


def _torch_call(network: Any, resolution: int, device: str, pictures: Pictures) -> Callable[[], object]:
    inputs = normalise(torch.stack([pixels(picture, resolution) for picture in pictures]).to(device))

    def call() -> object:
        with torch.inference_mode():
            output = network(inputs)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return output

    return call


def _predict(predictor: BasePredictor, batch: int, pictures: Pictures) -> object:
    return predictor.predict([*pictures], predictor.threshold, batch_size=batch)


def measure(contenders: Sequence[Contender], pictures: Pictures, batch: int, seconds: float) -> list[Row]:
    """Time the contenders in turns, because the speed of a machine changes from minute to minute.

    Each turn begins with a call that is not timed. It fills the caches and wakes the threads, which the previous
    contender used.

    Args:
        contenders: Each has two tasks: the model, and predict.
        pictures: Used in a cycle.
        batch: Pictures of a call.
        seconds: The least time for which each task is timed.
    """
    spent: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
    taken = cycle(pictures)
    chosen = [*islice(taken, batch)]
    for contender in contenders:
        calls: list[Callable[[], object]] = [contender.model(chosen), partial(contender.predict, chosen)]
        for call in calls:
            for _ in range(_WARM):
                call()
    while True:
        for contender, (of_model, of_predict) in zip(contenders, spent, strict=True):
            of_model += _turn(contender.model(chosen), min(_TURN, seconds))
            of_predict += _turn(partial(contender.predict, chosen), min(_TURN, seconds))
        if min((sum(seconds_of_call) for times in spent for seconds_of_call in times), default=math.inf) >= seconds:
            break
        chosen = [*islice(taken, batch)]
    return [_row(contender, batch, times) for contender, times in zip(contenders, spent, strict=True)]


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    """The seconds of each call. Calls are repeated until `seconds` have passed, at least once."""
    call()
    spent: list[float] = []
    while not spent or sum(spent) < seconds:
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return spent


def _row(contender: Contender, batch: int, times: Sequence[Sequence[float]]) -> Row:
    model, predict = (_timing(seconds_of_calls, batch) for seconds_of_calls in times)
    return Row(
        contender.file,
        contender.form,
        contender.runtime,
        contender.precision,
        contender.device,
        contender.threads,
        batch,
        model,
        predict,
    )


def _timing(spent: Sequence[float], batch: int) -> Timing:
    median, high = (float(np.percentile(spent, share)) * 1e3 for share in (50, 95))
    return Timing(len(spent), median, high, batch * len(spent) / sum(spent))


def load_pictures(folder: Path | None, least: int) -> tuple[list[Image.Image], dict[str, Any]]:
    """Decoded images and their description for the result. From a folder, the first in order of their paths.

    folder: None gives noise. least: the smallest number of noise pictures.

    Raises:
        UserError: the folder has no image, or an image cannot be read.
    """
    if folder is None:
        pictures, source = [noise(seed) for seed in range(max(8, min(least, _MOST_PICTURES)))], "noise"
    else:
        names = islice(listing(folder, "") if folder.is_dir() else (), _MOST_PICTURES)
        pictures, source = [to_rgb(folder / name) for name in names], str(folder)
        if not pictures:
            raise UserError(
                f"{folder} is not a folder with images in it. Give another folder, or leave out --images for noise."
            )
    sizes = Counter(f"{picture.width} x {picture.height}" for picture in pictures)
    return pictures, {"source": source, "count": len(pictures), "sizes": [*sizes], "decode": "not included"}


def noise(seed: int) -> Image.Image:
    """Blurred noise, 640 x 480. As a JPEG it is about as large as a photograph."""
    values = np.random.default_rng(seed).integers(0, 255, (*_NOISE[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values).filter(ImageFilter.GaussianBlur(2))


def machine(devices: set[str]) -> dict[str, Any]:
    """The processor, the instruction set that torch uses, the cores of this process, the system, Python and the GPU."""
    amx = " with AMX" * torch.cpu._is_amx_tile_supported()
    gpus = sorted(torch.cuda.get_device_name(device) for device in devices if device.startswith("cuda"))
    return {
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability() + amx,
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": ", ".join(gpus) or None,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError):  # not Linux
        for line in files.read_text(Path("/proc/cpuinfo")).splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
