"""Training steps of Nano at 384 pixels, batch 4: upstream and ours in turn, with equal weights, batch and threads.

    python benchmarks/train_step.py [--variant nano] [--batch 4] [--rounds 8] [--threads 2] [--device cpu|cuda]

First both at equal precision (fp32, or `--bf16`) with fast algorithms, then each at its defaults. Upstream's defaults
are fp32 on a CPU and bf16 on CUDA. Ours are `amp_dtype: auto`, deterministic algorithms and, on a CPU, keeping freed
memory. A step is forward, loss with matching, backward, gradient clipping, AdamW and EMA. Each project runs in a
separate process, one at a time. Needs the parity tools (`make setup-dev`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rfdetr_core.model.config import VARIANTS
from rfdetr_core.ops.structures import Target
from tests.small import random_images

OBJECTS = 10
Step = Callable[[], torch.Tensor]


def batch_of(count: int, side: int, device: str = "cpu") -> tuple[torch.Tensor, list[Target]]:
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.rand(OBJECTS, 4, generator=generator) * 0.3 + 0.2 for _ in range(count)]
    labels = [torch.randint(0, 90, (OBJECTS,), generator=generator) for _ in range(count)]
    targets = [Target(*pair).to(device) for pair in zip(labels, boxes, strict=True)]
    return random_images(count, 3, side, side).to(device), targets


def cast(device: str, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def our_step(options: argparse.Namespace, **model: Any) -> Step:
    from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours
    from rfdetr_core.loss.criterion import Criterion
    from rfdetr_core.model.detector import build_detector
    from rfdetr_core.training.callbacks import WeightAverage
    from rfdetr_core.training.compilation import compile_regions
    from rfdetr_core.training.config import TrainConfig
    from rfdetr_core.training.optimization import build_optimizer

    architecture = VARIANTS[options.variant]
    detector = build_detector(architecture, **model)
    if options.weights:
        weights = torch.load(options.weights)
        detector.load_state_dict({to_ours(name): tensor for name, tensor in weights.items() if name != KEYPOINT_MASK})
    detector.to(options.device)
    if getattr(options, "compile", "off") != "off":
        compile_regions(detector)
    criterion, average = Criterion(), WeightAverage(detector, 0.993, 100)
    optimizer = build_optimizer(detector, TrainConfig(), fused=True)
    images, targets = batch_of(options.batch, architecture.resolution, options.device)
    updates = 0

    def step() -> torch.Tensor:
        nonlocal updates
        with cast(options.device, options.precision):
            output = detector(images)
        loss = criterion(output, targets, groups=architecture.groups, point_seed=0).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        average.update(updates)
        return loss.detach()

    return step


def upstream_step(options: argparse.Namespace) -> Step:
    from rfdetr.models.lwdetr import build_criterion_and_postprocessors

    from tests.parity.reference import build_upstream, nested, upstream_namespace

    architecture = VARIANTS[options.variant]
    model = build_upstream(options.variant)
    torch.save(model.state_dict(), options.weights)
    model.to(options.device).train()
    criterion, _ = build_criterion_and_postprocessors(upstream_namespace(architecture))
    criterion.to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.993), use_buffers=True
    )
    images, targets = batch_of(options.batch, architecture.resolution, options.device)
    asked = [{"labels": target.labels, "boxes": target.boxes} for target in targets]
    batch = nested(images)
    batch.mask = batch.mask.to(options.device)

    def step() -> torch.Tensor:
        with cast(options.device, options.precision):
            output = model(batch)
            terms = criterion(output, asked)
        loss = sum(terms[name] * weight for name, weight in criterion.weight_dict.items() if name in terms)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        return loss.detach()  # type: ignore[no-any-return]

    return step


def default_precision(name: str, device: str) -> str:
    if name == "upstream":
        return "fp32" if device == "cpu" else "bf16"
    from rfdetr_core.training.config import TrainConfig
    from rfdetr_core.training.trainer import resolved_precision

    return {"32-true": "fp32", "bf16-mixed": "bf16"}[resolved_precision(TrainConfig(accelerator=device))]  # type: ignore[arg-type]


def run_worker(options: argparse.Namespace) -> None:
    """Run a step for each input line, and print its seconds and loss. At the end, print the peak memory."""
    from rfdetr_core.training.compilation import compiler_settings
    from rfdetr_core.training.config import TrainConfig

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.defaults:
        options.precision = default_precision(options.worker, options.device)
    if options.defaults and options.worker == "ours":
        from rfdetr_core.training.trainer import keep_freed_memory

        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if options.device == "cpu":
            keep_freed_memory()
    step = our_step(options) if options.worker == "ours" else upstream_step(options)
    print(options.precision, flush=True)
    with compiler_settings(TrainConfig(compile=options.compile)):
        for _ in sys.stdin:
            start = time.perf_counter()
            loss = step().item()  # on CUDA this waits only for the forward pass
            if options.device == "cuda":
                torch.cuda.synchronize()
            print(time.perf_counter() - start, loss, flush=True)
    print(peak_memory(options.device))


def peak_memory(device: str) -> float:
    """Peak memory in MiB: of the process on a CPU, of tensors on CUDA."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage: there, a child's maximum starts at the memory of its parent.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def compare(arguments: list[str], rounds: int, batch: int, weights: str) -> None:
    workers: dict[str, subprocess.Popen[str]] = {}
    precisions, seconds, losses, peaks = {}, {}, {}, {}
    for name in ("upstream", "ours"):  # upstream first: it writes the weights that ours reads
        command = [sys.executable, *arguments, "--weights", weights, "--worker", name]
        workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        precisions[name], seconds[name] = read_result(workers[name])[0], []
    for number in range(rounds + 2):
        for name, worker in workers.items():
            assert worker.stdin is not None
            print(file=worker.stdin, flush=True)
            took, loss = (float(number_text) for number_text in read_result(worker))
            losses.setdefault(name, loss)
            seconds[name] += [took] if number >= 2 else []
    for name, worker in workers.items():
        peaks[name] = float(worker.communicate()[0])
        median = statistics.median(seconds[name])
        print(
            f"{name} in {precisions[name]}: median {median:.3f} s a step, {batch / median:.2f} images/s, "
            f"peak {peaks[name]:.0f} MiB, first loss {losses[name]:.6f}"
        )
    ratio = statistics.median(a / b for a, b in zip(seconds["upstream"], seconds["ours"], strict=True))
    print(f"ours / upstream: images per second {ratio:.2f}, memory {peaks['ours'] / peaks['upstream']:.2f}", flush=True)


def read_result(worker: subprocess.Popen[str]) -> list[str]:
    assert worker.stdout is not None
    return worker.stdout.readline().split()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="nano", choices=[n for n, a in VARIANTS.items() if a.weights_file])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", dest="precision", action="store_const", const="bf16", default="fp32")
    parser.add_argument("--compile", default="off", choices=["off", "default"], help="use train.compile (only ours)")
    parser.add_argument("--defaults", action="store_true", help="compare only at the defaults")
    parser.add_argument("--worker", choices=["ours", "upstream"], help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.worker:
        run_worker(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pth")
        if not options.defaults:
            print("at equal precision, fast algorithms")
            compare(sys.argv, options.rounds, options.batch, weights)
        print("each at its defaults")
        compare([*sys.argv, "--defaults"], options.rounds, options.batch, weights)


if __name__ == "__main__":
    main()
