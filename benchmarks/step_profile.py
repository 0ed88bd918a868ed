"""Where the time of a training step goes, beside the floor: its FLOPs at the machine's own speed of matrix products.

    python -m benchmarks.step_profile [--variant nano] [--batch 4] [--bf16] [--threads 2] [--compile]

The step is that of `train_step.py`, on a CPU. The peak is measured first, with products of 2,048 x 2,048 matrices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.train_step import our_step
from rfdetr_core.model.config import VARIANTS

STEPS = 4
SIDE = 2048

# An operation belongs to the first group of which a part is in its name.
GROUPS = {
    "convolutions": ("convolution", "mkldnn_conv", "slow_conv"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "::matmul", "::linear", "mkldnn_linear", "mkl_linear"),
    "norms": ("layer_norm", "batch_norm"),
    "copies and casts": ("copy", "::cat", "::stack", "::clone", "contiguous", "::to", "unsafe_split"),
    "compiled kernels": ("graph_0_cpp", "cpp_fused", "CompiledF", "Torch-Compiled"),
    "sampling": ("grid_sampler", "index", "gather", "scatter"),
    "optimiser, clipping, average": ("_fused_adam", "foreach", "Optimizer", "norm"),
    "choice of proposals": ("topk", "sort"),
    "sums and products": ("::add", "::mul", "::sum", "::sub", "::div", "::neg", "max", "min", "::abs", "::addc"),
    "activations": ("gelu", "relu", "silu", "sigmoid", "softmax", "softplus", "::log", "::exp", "::pow", "::sin", "::cos"),
}


def peak(dtype: torch.dtype) -> float:
    """GFLOP/s of matrix products."""
    one, other = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    spent = []
    for _ in range(12):
        start = time.perf_counter()
        one @ other
        spent.append(time.perf_counter() - start)
    return 2 * SIDE**3 / statistics.median(spent[2:]) / 1e9


def flop_formulas() -> dict[object, object]:
    """Of the operations that torch counts on CUDA alone."""

    def forward(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        outer: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
    ) -> int:
        return sdpa_backward_flop_count(outer, query, key, value)

    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def group_of(name: str) -> str:
    found = (group for group, parts in GROUPS.items() if any(part in name for part in parts))
    return next(found, "the rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="nano", choices=VARIANTS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", dest="precision", action="store_const", const="bf16", default="fp32")
    parser.add_argument("--top", type=int, default=0, help="operations to list as well, those that take longest")
    options = parser.parse_args()
    options.device, options.weights = "cpu", None
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    speed = peak(torch.bfloat16 if options.precision == "bf16" else torch.float32)
    step = our_step(options)
    step()
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counted:
        step()
    flops = counted.get_total_flops() / 1e9
    spent = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        spent.append(time.perf_counter() - start)
    seconds = statistics.median(spent)
    print(f"{options.variant}, batch {options.batch}, {options.precision}, {options.threads} threads: {seconds:.3f} s a step")
    print(f"{flops:.0f} GFLOP; products run at {speed:.0f} GFLOP/s, so the floor is {flops / speed:.3f} s", end=" ")
    print(f"({flops / speed / seconds:.2f} of the step)")
    with profile(activities=[ProfilerActivity.CPU]) as watch:
        for _ in range(STEPS):
            step()
    by_group: dict[str, float] = defaultdict(float)
    events = sorted(watch.key_averages(), key=lambda event: -event.self_cpu_time_total)
    for event in events:
        by_group[group_of(event.key)] += event.self_cpu_time_total / 1e6 / STEPS
    total = sum(by_group.values())
    print("\n| group | s | share |\n|---|---|---|")
    for group, taken in sorted(by_group.items(), key=lambda pair: -pair[1]):
        print(f"| {group} | {taken:.3f} | {taken / total:.2f} |")
    for event in events[: options.top]:
        print(f"{event.self_cpu_time_total / 1e6 / STEPS:.4f} s, {event.count // STEPS} calls, {event.key}")


if __name__ == "__main__":
    main()
