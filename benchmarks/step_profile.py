"""The time of a training step by operation, and the theoretical minimum: its FLOPs at the speed of matrix products.

    python -m benchmarks.step_profile [--variant nano] [--batch 4] [--bf16] [--threads 2] [--top 40]

The step is that of `train_step.py`, on a CPU, and freed memory is kept as in training. The speed of products is
measured first, with 2,048 x 2,048 matrices. Each operation is timed by a dispatch mode, because torch's profiler made
some of them ten times slower.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.train_step import our_step
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.training.trainer import keep_freed_memory

STEPS = 4
SIDE = 2048

# An operation belongs to the first group that has a part of its name.
GROUPS = {
    "attention": ("flash_attention",),
    "convolutions": ("convolution",),
    "sampling": ("grid_sampler", "index", "gather", "scatter"),
    "norms of layers": ("layer_norm",),
    "matrix products": ("aten.mm", "_linear_pointwise", "addmm", "bmm", "baddbmm"),
    "optimiser, clipping, average": ("_fused_adam", "_foreach"),
    "choice of proposals": ("topk", "sort"),
    "copies and casts": ("copy", "cat", "stack", "clone", "slice_backward", "select_backward"),
    "zeros": ("zero", "fill", "new_full", "ones"),
    "activations": ("gelu", "relu", "threshold", "silu", "sigmoid", "softmax", "aten.log", "exp.", "pow", "sin", "cos"),
    "sums and products": ("add", "mul", "sum", "sub", "div", "neg", "max", "min", "abs", "lerp"),
}


def peak(dtype: torch.dtype) -> float:
    """The speed of matrix products in GFLOP/s."""
    first, other = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    spent = []
    for _ in range(12):
        start = time.perf_counter()
        first @ other
        spent.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(spent) / 1e9


def flop_formulas() -> dict[object, object]:
    """FLOP formulas of operations that torch counts only on CUDA."""

    def forward(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        outer: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
    ) -> int:
        return sdpa_backward_flop_count(outer, query, key, value)

    def linear(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
        return 2 * math.prod(x) * weight[0]

    aten = torch.ops.aten
    return {
        torch.ops.mkldnn._linear_pointwise: linear,
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


class Stopwatch(TorchDispatchMode):
    """Counts seconds and calls of each operation, by the shapes and types of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[tuple[str, str]] = Counter()
        self.calls: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        spent = time.perf_counter() - start
        tensors = (tensor for tensor in args if isinstance(tensor, torch.Tensor))
        key = str(func), ", ".join(f"{[*tensor.shape]} {str(tensor.dtype)[6:]}" for tensor in tensors)
        self.seconds[key] += spent
        self.calls[key] += 1
        return result


def group_of(name: str) -> str:
    matching = (group for group, parts in GROUPS.items() if any(part in name for part in parts))
    return next(matching, "the rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="nano", choices=VARIANTS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", dest="precision", action="store_const", const="bf16", default="fp32")
    parser.add_argument(
        "--top", type=int, default=0, help="also list this number of single operations, the slowest first"
    )
    options = parser.parse_args()
    options.device, options.weights = "cpu", None
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    speed = peak(torch.bfloat16 if options.precision == "bf16" else torch.float32)
    step = our_step(options)
    step()
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counted:
        step()
    flops = counted.get_total_flops() / 1e9
    taken = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    seconds = statistics.median(taken)
    setting = f"{options.variant}, batch {options.batch}, {options.precision}, {options.threads} threads"
    print(f"{setting}: {seconds:.3f} s a step")
    print(
        f"{flops:.0f} GFLOP; products run at {speed:.0f} GFLOP/s, so the theoretical minimum is {flops / speed:.3f} s",
        end=" ",
    )
    print(f"({flops / speed / seconds:.2f} of the step)")
    with Stopwatch() as watch:
        for _ in range(STEPS):
            step()
    by_group: Counter[str] = Counter()
    for (name, _), spent in watch.seconds.items():
        by_group[group_of(name)] += spent / STEPS
    total = sum(by_group.values())
    print("\n| group | s | share |\n|---|---|---|")
    for group, spent in by_group.most_common():
        print(f"| {group} | {spent:.3f} | {spent / total:.2f} |")
    for key, spent in watch.seconds.most_common(options.top):
        print(f"{spent / STEPS:.4f} s, {watch.calls[key] // STEPS} calls: {key[0]} {key[1]}")


if __name__ == "__main__":
    main()
