"""Speed of exported files, checkpoints and upstream, with random weights.

    python -W ignore -m benchmarks.exported [--variants nano pico] [--batch 1 8] [--threads 2] [--seconds 5]

Measured by the code of `python -m rfdetr_core benchmark`, in one process and in turns: upstream's predict() and its
optimised model, our checkpoint, and the files that the stage export makes of it. Upstream has no class for Pico. When
upstream is imported, it sets the precision of float32 products to "high". So upstream is measured with "high", and ours
with torch's default.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.prediction import upstream
from rfdetr_core.base import files
from rfdetr_core.base.params import parse
from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint
from rfdetr_core.data.preprocess import normalise, pixels
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.export.run import Source, export_files
from rfdetr_core.inference.benchmark import (
    DTYPES,
    Benchmark,
    Contender,
    Pictures,
    contenders,
    load_pictures,
    machine,
    measure,
    noise,
    open_model,
)
from rfdetr_core.inference.predictor import torch_threads
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector

FORMATS = ("onnx", "openvino")


def write_files(variant: str, folder: Path, formats: list[str], *, postprocess: bool) -> list[Path]:
    """Write a checkpoint with random weights, and export files from it.

    Args:
        variant: of the model.
        folder: for the files.
        formats: of the exported files.
        postprocess: export complete files.
    """
    architecture = VARIANTS[variant]
    names = tuple(f"class{number}" for number in range(architecture.classes))
    torch.manual_seed(0)
    weights = build_detector(architecture).state_dict()
    path = folder / f"{variant}.pth"
    write_checkpoint(path, make_checkpoint(architecture, weights, class_names=names, args={}))
    config = parse(ExportConfig, {"formats": formats, "postprocess": postprocess}, "export")
    made = export_files(Source.read(path), config, folder, pictures=[noise(0)])
    return [path, *(folder / name for name in made if not name.endswith(".bin"))]


def upstream_contenders(variant: str, batch: int, options: argparse.Namespace) -> Iterator[Contender]:
    """Upstream at its default, and optimised in float32 and bfloat16. Each is a separate model."""
    runtime = f"rfdetr {metadata.version('rfdetr')}"
    for form, precision in (("default", "fp32"), ("optimised", "fp32"), ("optimised", "bf16")):
        model = upstream(argparse.Namespace(variant=variant, device="cpu"))
        torch.set_float32_matmul_precision("highest")  # upstream's import lowers it
        dtype = getattr(torch, DTYPES[precision])
        if form == "optimised":
            model.inference(batch_size=batch, dtype=dtype)
        network = model.model.inference_model if form == "optimised" else model.model.model.eval()
        yield Contender(
            *(f"{variant}, upstream", form, runtime, precision, "cpu", options.threads),
            model=partial(_upstream_call, network, model.model.resolution, dtype),
            predict=lambda shown, model=model: _as_upstream(lambda: model.predict([*shown], threshold=0.5)),
        )


def _upstream_call(network: Any, resolution: int, dtype: torch.dtype, shown: Pictures) -> Callable[[], object]:
    inputs = normalise(torch.stack([pixels(picture, resolution) for picture in shown])).to(dtype)

    def run() -> object:
        with torch.inference_mode():
            return network(inputs)

    return partial(_as_upstream, run)


def _as_upstream(call: Callable[[], object]) -> object:
    torch.set_float32_matmul_precision("high")
    try:
        return call()
    finally:
        torch.set_float32_matmul_precision("highest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["nano", "pico"], choices=VARIANTS)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--postprocess", action="store_true", help="complete files: preprocessing in the graph")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    pictures, about = load_pictures(None, max(options.batch))
    rows = []
    for variant in options.variants:
        with tempfile.TemporaryDirectory() as folder, torch_threads(options.threads):
            paths = write_files(variant, Path(folder), options.formats, postprocess=options.postprocess)
            models = [(f"{variant}, {path.name}", open_model(path, "cpu", options.threads)) for path in paths]
            for batch in options.batch:
                made = [contender for name, model in models for contender in contenders(name, model, batch, [*DTYPES])]
                made += upstream_contenders(variant, batch, options) if VARIANTS[variant].weights_file else []
                rows += measure(made, pictures, batch, options.seconds)
    measured = Benchmark(machine({"cpu"}), about, options.seconds, rows)
    print(measured.text())
    if options.output:
        files.write_json(options.output, measured.to_dict())


if __name__ == "__main__":
    main()
