"""Time and memory of two options: deterministic algorithms, and gradient checkpointing.

    python benchmarks/choices.py [--device cpu|cuda] [--variant nano] [--batch 4] [--rounds 5] [--threads 2]

First come single operations, forward and backward, in the sizes of the variant. "fast" is torch's kernel, "strict" the
deterministic replacement. On a CPU torch's kernels are deterministic, so there training always uses them. Then come
whole steps.

The contenders take turns, and a time is the median of their runs. On a CPU it is the CPU time of the process, so that
other programs do not count. On CUDA it is clock time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.train_step import our_step, peak_memory
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.ops import sampling

Operation = Callable[[], Tensor]


def seconds(calls: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The median time of each call in seconds. The calls take turns. The first round does not count.

    Args:
        calls: by name.
        rounds: how many count.
        device: cpu or cuda.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            spent[name] += [clock() - start] if number else []
    return {name: statistics.median(values) for name, values in spent.items()}


def operations(variant: str, batch: int, device: str) -> dict[str, dict[str, Operation]]:
    """Operations whose backward pass must be deterministic: the fast and the strict function, on the same input."""
    architecture = VARIANTS[variant]
    side, heads = architecture.resolution // architecture.patch_size, architecture.cross_heads
    values = torch.randn(batch * heads, architecture.width // heads, side, side, device=device, requires_grad=True)
    places = torch.rand(
        batch * heads,
        architecture.points,
        architecture.groups * architecture.queries,
        2,
        device=device,
        requires_grad=True,
    )
    masks = torch.randn(10 * architecture.groups * batch, 1, 4 * side, 4 * side, device=device, requires_grad=True)
    points = torch.rand(len(masks), 1, side * side, 2, device=device)
    grid = torch.randn(
        1,
        architecture.encoder_width,
        architecture.position_grid,
        architecture.position_grid,
        device=device,
        requires_grad=True,
    )
    features = torch.randn(batch, architecture.width, side, side, device=device, requires_grad=True)
    size = (side + 4, side + 4)
    return {
        "deformable sampling": {
            "fast": lambda: sampling.F.grid_sample(values, places, align_corners=False),
            "strict": lambda: sampling.gather_samples(values, places),
        },
        "points of masks": {
            "fast": lambda: sampling.F.grid_sample(masks, points, padding_mode="border", align_corners=False),
            "strict": lambda: sampling.gather_samples(masks, points, border=True),
        },
        "position embeddings": {
            "fast": lambda: sampling.F.interpolate(grid, size, mode="bicubic", antialias=True),
            "strict": lambda: sampling.multiply_to_size(grid, size, kernel="bicubic", antialias=True),
        },
        "features of masks": {
            "fast": lambda: sampling.F.interpolate(features, (4 * side, 4 * side), mode="bilinear"),
            "strict": lambda: sampling.multiply_to_size(features, (4 * side, 4 * side)),
        },
    }


def whole_step(options: argparse.Namespace) -> None:
    """Print the seconds of a step and the peak memory of one option, measured in this process."""
    torch.use_deterministic_algorithms("strict" in options.step)
    if options.step == "gathered":
        sampling._forbidden_on = lambda device: True
    torch.manual_seed(0)
    step = our_step(options, gradient_checkpointing=options.step == "checkpointing")
    spent = seconds({"step": step}, options.rounds, options.device)["step"]
    print(f"| {options.step} | {options.precision} | {spent:.3f} | {peak_memory(options.device):,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--variant", default="nano", choices=VARIANTS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fp32", dest="precision", action="store_const", const="fp32", default="bf16")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.weights = None
    torch.set_num_threads(options.threads)
    if options.step:
        whole_step(options)
        return
    print("| operation, forward and backward | fast s | strict s |\n|---|---|---|")
    for name, ways in operations(options.variant, options.batch, options.device).items():
        calls = {way: lambda call=call: call().sum().backward() for way, call in ways.items()}
        spent = seconds(calls, options.rounds, options.device)
        print(f"| {name} | {spent['fast']:.4f} | {spent['strict']:.4f} |", flush=True)
    print("\n| step | precision | seconds | peak MiB |\n|---|---|---|---|", flush=True)
    # Each choice runs in a separate process, because its peak memory is measured. "gathered": on a CPU, the kernels
    # that "strict" uses on CUDA.
    for choice in ("fast", "strict", *(["gathered"] if options.device == "cpu" else []), "checkpointing"):
        subprocess.run([sys.executable, *sys.argv, "--step", choice], check=True)


if __name__ == "__main__":
    main()
