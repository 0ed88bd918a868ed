"""One training step of Nano at 384 pixels, batch 4: upstream and ours in turn, with equal weights, batch and threads.

    python benchmarks/train_step.py [--variant nano] [--batch 4] [--rounds 8] [--threads 2] [--bf16]

A step is forward, loss with matching, backward, gradient clipping, AdamW and the moving average, as both train.
Needs the parity tools (`make setup-dev`); it installs nothing. Peak memory is measured in a process of its own each.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rfdetr.models.lwdetr import build_criterion_and_postprocessors

from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.model.config import VARIANTS, Architecture
from rfdetr_core.model.detector import build_detector
from rfdetr_core.structures import Target
from rfdetr_core.training.ema import WeightAverage
from rfdetr_core.training.optimizer import build_optimizer
from tests.parity.reference import build_upstream, nested, random_images, upstream_namespace

OBJECTS = 10
RATES = {"lr": 1e-4, "lr_encoder": 1.5e-4, "weight_decay": 1e-4, "vit_layer_decay": 0.8, "component_decay": 0.7}


def batch_of(count: int, side: int) -> tuple[torch.Tensor, list[Target]]:
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.rand(OBJECTS, 4, generator=generator) * 0.3 + 0.2 for _ in range(count)]
    labels = [torch.randint(0, 90, (OBJECTS,), generator=generator) for _ in range(count)]
    return random_images(count, 3, side, side), [Target(*pair) for pair in zip(labels, boxes, strict=True)]


def our_step(
    architecture: Architecture, weights: dict[str, torch.Tensor], batch: int, bf16: bool
) -> Callable[[], float]:
    detector = build_detector(architecture)
    detector.load_state_dict({to_ours(name): value for name, value in weights.items() if name != KEYPOINT_MASK})
    criterion, average = Criterion(), WeightAverage(detector, 0.993, 100)
    optimizer = build_optimizer(detector, **RATES, fused=True)
    images, targets = batch_of(batch, architecture.resolution)
    updates = 0

    def step() -> float:
        nonlocal updates
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = detector(images)
        loss = criterion(output, targets, groups=architecture.groups, point_seed=0).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        average.update(detector, updates)
        return loss.item()

    return step


def upstream_step(
    variant: str, architecture: Architecture, weights: dict[str, torch.Tensor], batch: int, bf16: bool
) -> Callable[[], float]:
    model = build_upstream(variant)
    model.load_state_dict(weights)
    model.train()
    criterion, _ = build_criterion_and_postprocessors(upstream_namespace(architecture))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.993), use_buffers=True
    )
    images, targets = batch_of(batch, architecture.resolution)
    asked = [{"labels": target.labels, "boxes": target.boxes} for target in targets]

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = model(nested(images))
            terms = criterion(output, asked)
        loss = sum(terms[name] * weight for name, weight in criterion.weight_dict.items() if name in terms)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        return float(loss.item())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="nano", choices=[n for n, a in VARIANTS.items() if a.weights_file])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", choices=["ours", "upstream"], help="print the peak memory of one of them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    architecture = VARIANTS[options.variant]
    weights = copy.deepcopy(build_upstream(options.variant).state_dict())
    makers = {
        "upstream": lambda: upstream_step(options.variant, architecture, weights, options.batch, options.bf16),
        "ours": lambda: our_step(architecture, weights, options.batch, options.bf16),
    }
    if options.only:
        step = makers[options.only]()
        for _ in range(3):
            step()
        # Not getrusage: a child's maximum there starts at what its parent had.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(int(peak.split()[1]) / 1024)
        return
    steps = {name: make() for name, make in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(options.rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            loss = step()
            if round_number >= 2:
                seconds[name].append(time.perf_counter() - start)
            if round_number == 0:
                print(f"{name}: first loss {loss:.6f}")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        child = subprocess.run([sys.executable, *sys.argv, "--only", name], check=True, capture_output=True, text=True)
        peak = float(child.stdout.split()[-1])
        print(f"{name}: median {median:.3f} s a step, {options.batch / median:.2f} images/s, peak {peak:.0f} MiB")
    print(f"time ours / upstream: {medians['ours'] / medians['upstream']:.3f}")


if __name__ == "__main__":
    main()
