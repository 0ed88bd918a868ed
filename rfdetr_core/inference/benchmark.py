"""Latency and throughput of model files, measured side by side: the command benchmark."""

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
from rfdetr_core.inference.exported import ExportedPredictor, as_input, load_predictor
from rfdetr_core.inference.predictor import BasePredictor, Predictor, to_rgb
from rfdetr_core.ingest.folder import listing

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SECONDS = 5.0
_TURN = 0.2  # seconds of timed calls, after which the next contender has its turn
_WARM = 2  # calls before the first turn: a runtime plans and allocates in them
_MOST_PICTURES = 32  # held in memory, decoded
_NOISE = (640, 480)

Pictures = Sequence[Image.Image]


@dataclass(frozen=True)
class Setup:
    """What is measured: a file in one form and precision.

    form: exact, as `predict` runs a checkpoint by default; optimised, as after `optimize_for_inference`; raw or
    complete: an exported graph without or with preprocessing and postprocessing inside. threads: of the processor.
    """

    file: str
    form: str
    runtime: str
    precision: str
    device: str
    threads: int


@dataclass(frozen=True)
class Contender(Setup):
    """One way to run a model.

    model: prepares the model's input of a batch of pictures, and gives the call that runs the model alone on it.
    predict: from a batch of decoded pictures to detections in pixels.
    """

    model: Callable[[Pictures], Callable[[], object]]
    predict: Callable[[Pictures], object]


@dataclass(frozen=True)
class Timing:
    """What calls took: the median and the 95th percentile in milliseconds, and images a second over all of them."""

    calls: int
    p50_ms: float
    p95_ms: float
    images_per_second: float


@dataclass(frozen=True)
class Row(Setup):
    """The figures of a contender at a batch size."""

    batch: int
    model: Timing
    predict: Timing


@dataclass(frozen=True)
class Benchmark:
    """Rows, and what they were measured with. seconds: for which each figure was timed, at least."""

    machine: dict[str, Any]
    images: dict[str, Any]
    seconds: float
    rows: list[Row]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def text(self) -> str:
        """An aligned table for people, below what it was measured with."""
        return "\n".join([*self._head(), "", *_aligned([_HEAD, *map(_cells, self.rows)])])

    def _head(self) -> Iterator[str]:
        machine, images = self.machine, self.images
        python, gpu = f"Python {machine['python']}", machine["gpu"]
        parts = (machine["cpu"], machine["instructions"], f"{machine['cores']} cores", machine["system"], python, gpu)
        yield f"machine  {', '.join(part for part in parts if part)}"
        yield f"images   {images['count']} from {images['source']}: {', '.join(images['sizes'])}"
        yield "model    prepared input to raw output; of a complete file, which prepares by itself, the whole graph"
        yield "predict  decoded image to detections: resize, normalise, model, boxes in pixels; without decoding"
        yield f"         times in ms; each figure from {self.seconds:g} s or more of calls; the models took turns"


_HEAD = (
    *("file", "form", "runtime", "precision", "device", "threads", "batch"),
    *("model p50", "p95", "images/s", "calls", "predict p50", "p95", "images/s", "calls"),
)
_WORDS = 5  # columns of words, which are aligned on the left


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

    precisions: of checkpoints; an exported file has its own. images: a folder of them; None for noise. threads: of the
    processor, for the model; None for as many as this process has cores. seconds: for which each figure is timed.

    Raises:
        UserError: a file is no model or needs a runtime that is not here; no such device; a folder without images.
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
                f"batch {batch}: {len(all_contenders)} rows, {2 * seconds * len(all_contenders):.0f} s or more",
                file=sys.stderr,
            )
            rows += measure(all_contenders, pictures, batch, seconds)
    return Benchmark(machine({row.device for row in rows}), source, seconds, rows)


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads while the block runs."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)


def open_model(path: Path, device: str, threads: int) -> BasePredictor:
    """As `load_predictor`, with the threads of an exported file's runtime; those of torch are `torch_threads`."""
    if path.suffix in SUFFIXES:
        return ExportedPredictor.from_file(path, device=device, threads=threads)
    return load_predictor(path, device=device)


def contenders(file: str, predictor: BasePredictor, batch: int, precisions: Sequence[str]) -> Iterator[Contender]:
    """The ways to run a model in batches of `batch`.

    Of a checkpoint: exact in float32, and optimised in each of the precisions. Of an exported file: as it is.

    Raises:
        UserError: an exported file takes batches of another size.
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
        pictures = [pictures[0]] * len(pictures)  # a batch of a complete file has images of one size
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
    """The figures of contenders, which take turns with batches of `batch` pictures.

    In turn, since a machine's pace changes from minute to minute. A turn begins with a call that is not timed: caches,
    and threads that still wait for work, are those of the contender before.
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
    """The seconds that each call took; as many calls as fit, at least one."""
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
    """Decoded images, and what to say of them: of a folder the first in order of their paths, or noise.

    Raises:
        UserError: the folder has no image, or one of these cannot be read.
    """
    if folder is None:
        pictures, source = [noise(seed) for seed in range(max(8, min(least, _MOST_PICTURES)))], "noise"
    else:
        names = islice(listing(folder, "") if folder.is_dir() else (), _MOST_PICTURES)
        pictures, source = [to_rgb(folder / name) for name in names], str(folder)
        if not pictures:
            raise UserError(f"{folder} is not a folder with images in it. Give another --images, or none for noise.")
    sizes = Counter(f"{picture.width} x {picture.height}" for picture in pictures)
    return pictures, {"source": source, "count": len(pictures), "sizes": [*sizes], "decode": "not included"}


def noise(seed: int) -> Image.Image:
    """Blurred noise, 640 x 480: a JPEG of it has the size of a photograph's."""
    values = np.random.default_rng(seed).integers(0, 255, (*_NOISE[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values).filter(ImageFilter.GaussianBlur(2))


def machine(devices: set[str]) -> dict[str, Any]:
    """The processor, the instructions that torch uses of it, cores for this process, system, Python, and any GPU."""
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
