"""Times training steps of ours or of upstream, each with its own Lightning module and Trainer.

    python -m benchmarks.cuda.steps ours|upstream --variant nano --batch 16 [--mode default|fast|compile] ...

Builds everything, waits for a line on its standard input, trains, and prints one line of JSON: seconds of a step (the
median of three windows), peak memory, and a digest of the weights. A step is a whole step of `fit`: forward, loss with
matching, backward, clipping, optimiser, schedule and EMA. The batch is already on the device. Multi-scale is off, so
that both train at the same size. Only part c turns it on, to compare digests.

Modes: `fast` is without deterministic algorithms. `compile` compiles; ours stays deterministic. `graphs` is only for
upstream, and adds CUDA graphs.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

from benchmarks.train_step import peak_memory
from rfdetr_core.checkpoint.files import tensor_digest
from rfdetr_core.data.batching import Batch
from rfdetr_core.model.config import VARIANTS, Architecture
from rfdetr_core.ops.structures import Target
from rfdetr_core.training.compilation import compile_regions, compiler_settings
from tests.small import random_images

# Upstream can score with four packages that give equal scores. Its default is vernier; the locks have hotcoco.
SCORING = {} if find_spec("vernier") else {"eval_backend": "hotcoco"}
OBJECTS = 10  # objects in each image of the batch
KERNELS = 40  # listed in a profile


class Timed(BaseException):
    """Raised to end a training after its timed steps, before it evaluates or saves."""


class Windows(Callback):
    """Times steps in three windows after a warm-up. It waits for the device only at the borders of the windows."""

    def __init__(self, device: str, steps: int, warm: int) -> None:
        self.device, self.steps, self.marks, self.first = device, steps, [], 0.0
        self.borders = [warm + number * steps for number in range(4)]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._wait()
            self.first = time.perf_counter() - self.begun
        if batch_idx + 1 in self.borders:
            self._wait()
            self.marks.append(time.perf_counter())
        if batch_idx + 1 == self.borders[-1]:
            raise Timed

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    @property
    def seconds(self) -> float:
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return statistics.median(after - before for before, after in pairs) / self.steps


class Repeated(torch.utils.data.IterableDataset[Any]):
    """A loader that returns the same batch `count` times."""

    def __init__(self, batch: Any, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.count)


def targets_of(count: int, side: int, masks: bool) -> list[Target]:
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(count):
        boxes = torch.rand(OBJECTS, 4, generator=generator) * 0.3 + 0.2
        labels = torch.randint(0, 90, (OBJECTS,), generator=generator)
        shapes = torch.rand(OBJECTS, side, side, generator=generator) > 0.5 if masks else None
        targets.append(Target(labels, boxes, shapes))
    return targets


def ours(options: argparse.Namespace, architecture: Architecture, windows: Windows) -> tuple[Any, Any, Any, nn.Module]:
    from rfdetr_core.model.detector import build_detector
    from rfdetr_core.training.config import TrainConfig
    from rfdetr_core.training.inputs import training_sizes
    from rfdetr_core.training.module import TrainingModule
    from rfdetr_core.training.trainer import build_trainer

    config = TrainConfig(
        accelerator=options.device,
        batch_size=options.batch,
        deterministic=options.mode != "fast",
        multi_scale="per-batch" if options.multi_scale else "off",
        compile="default" if options.mode == "compile" else "off",
    )
    torch.manual_seed(0)
    detector = build_detector(architecture)
    sizes = training_sizes(config, architecture)
    module = TrainingModule(detector, architecture, config, sizes)
    side = max(sizes, default=architecture.resolution)
    targets = targets_of(options.batch, side, architecture.segmentation)
    batch = Batch(random_images(options.batch, 3, side, side), targets, []).to(options.device)
    if options.mode == "compile":
        compile_regions(detector)
    trainer = build_trainer(config, callbacks=[windows], limit_val_batches=0)
    return module, trainer, batch, detector


def upstream(
    options: argparse.Namespace, architecture: Architecture, windows: Windows
) -> tuple[Any, Any, Any, nn.Module]:
    from rfdetr import config as upstream_config
    from rfdetr.utilities.tensors import NestedTensor

    from tests.parity import upstream_training
    from tests.parity.reference import _no_download

    kind = upstream_config.SegmentationTrainConfig if architecture.segmentation else upstream_config.TrainConfig
    folder = tempfile.mkdtemp()
    config = kind(
        dataset_dir=folder,
        output_dir=folder,
        batch_size=options.batch,
        accelerator=options.device,
        multi_scale=False,
        tensorboard=False,
        **SCORING,
    )
    numbers = getattr(upstream_config, f"{architecture.name}Config")(
        pretrain_weights=None,
        compile=options.mode in ("compile", "graphs"),
        cuda_graphs=options.mode == "graphs",
        resolution=architecture.resolution,
        positional_encoding_size=architecture.position_grid,
    )
    torch.manual_seed(0)
    with _no_download():
        module = upstream_training.module_model.RFDETRModelModule(numbers, config)
    side = architecture.resolution
    images = random_images(options.batch, 3, side, side).to(options.device)
    mask = torch.zeros(options.batch, side, side, dtype=torch.bool, device=options.device)
    size = torch.tensor([side, side], device=options.device)
    targets: list[dict[str, Tensor]] = []
    for number, target in enumerate(targets_of(options.batch, side, architecture.segmentation)):
        moved = target.to(options.device)
        entry = {"labels": moved.labels, "boxes": moved.boxes, "orig_size": size, "size": size}
        entry |= {"image_id": torch.tensor([number], device=options.device)}
        entry |= {} if moved.masks is None else {"masks": moved.masks}
        targets.append(entry)
    trainer = upstream_training.trainer.build_trainer(
        config,
        numbers,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.callbacks.append(windows)
    return module, trainer, (NestedTensor(images, mask), targets), module.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["ours", "upstream"])
    parser.add_argument("--variant", default="nano", choices=VARIANTS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--mode", default="default", choices=["default", "fast", "compile", "graphs"])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=8, help="in each of three windows")
    parser.add_argument("--warm", type=int, default=6)
    parser.add_argument("--side", type=int, help="pixels of the input; default: the variant's resolution")
    parser.add_argument("--multi-scale", action="store_true")
    parser.add_argument("--profile", choices=["device", "host"], help="also list the slowest operations or functions")
    options = parser.parse_args()
    architecture, windows = VARIANTS[options.variant], Windows(options.device, options.steps, options.warm)
    if options.side:
        grid = options.side // architecture.patch_size
        architecture = replace(architecture, resolution=options.side, position_grid=grid)
    build = ours if options.who == "ours" else upstream
    module, trainer, batch, detector = build(options, architecture, windows)
    loader = torch.utils.data.DataLoader(Repeated(batch, windows.borders[-1] + 1), batch_size=None)
    print("ready", flush=True)
    sys.stdin.readline()
    rows: list[tuple[str, float, int]] = []
    watch: Any = {"device": torch.profiler.profile, "host": cProfile.Profile}.get(options.profile, nullcontext)()
    # Ours compiles with the settings of a training. Upstream has its own settings.
    settings = compiler_settings(module.config) if options.who == "ours" else nullcontext()
    with watch, settings, suppress(Timed):
        trainer.fit(module, loader)
    steps = windows.borders[-1]
    if options.profile == "device":
        taken = f"self_{'device' if options.device == 'cuda' else 'cpu'}_time_total"
        ranked = sorted(watch.key_averages(), key=lambda event: -getattr(event, taken))
        rows = [
            (event.key[:90], getattr(event, taken) / 1e3 / steps, event.count)
            for event in ranked
            if getattr(event, taken)
        ]
    elif options.profile == "host":
        pstats.Stats(watch, stream=sys.stderr).sort_stats("tottime").print_stats(45).sort_stats("cumtime").print_stats(
            90
        )
    result = {
        "seconds": windows.seconds,
        "first": windows.first,
        "peak": peak_memory(options.device),
        "precision": str(trainer.precision),
        "digest": tensor_digest(detector.state_dict())[:16] if options.who == "ours" else "",
        "kernels": rows[:KERNELS],
        "busy": sum(milliseconds for _, milliseconds, _ in rows),
        "launches": sum(count for _, _, count in rows) / steps,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
