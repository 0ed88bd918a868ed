"""A part of the GPU benchmarks: python -m benchmarks.cuda.parts LETTER --out FILE [--device cuda] ...

Each result is written as a line of JSON to FILE at once, so a part that fails keeps its earlier results.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL_STEPS = ["--steps", "1", "--warm", "0", "--side", "64"]  # the options of steps with --smoke


@dataclass(frozen=True)
class Kit:
    """The options of a part, and the file that gets its results."""

    device: str
    smoke: bool
    out: Path

    def row(self, label: str, figure: str, **numbers: Any) -> None:
        with self.out.open("a") as file:
            print(json.dumps({"what": label, "figure": figure, **numbers}), file=file)
        print(f"{label}: {figure}", flush=True)


def part_a(kit: Kit) -> None:
    """The tests that are marked gpu."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", "-rfE", *files]
    output = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    print(output[-8000:])
    counts = re.findall(r"(\d+) (passed|failed|error|errors|skipped)\b", output.splitlines()[-1])
    kit.row("tests marked gpu", ", ".join(f"{count} {name}" for count, name in counts) or output.splitlines()[-1])
    for line in output.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            kit.row("failed", line[:200])


def part_b(kit: Kit) -> None:
    """Outputs, loss and gradients compared with upstream's, in fp32."""
    import torch
    from rfdetr.models.lwdetr import build_criterion_and_postprocessors

    from benchmarks.cuda.steps import targets_of
    from rfdetr_core.checkpoint.keys import to_upstream
    from rfdetr_core.loss.criterion import Criterion
    from rfdetr_core.model.config import VARIANTS
    from tests.parity import reference
    from tests.small import SMALL

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    architectures = {variant: VARIANTS[variant] for variant in ("nano", "seg-nano")}
    if kit.smoke:
        small = replace(SMALL, classes=90)  # `targets_of` uses 90 classes
        architectures = {"small": small, "seg-small": replace(small, segmentation=True)}
    for variant, architecture in architectures.items():
        both = reference.pair(architecture, None if kit.smoke else reference.build_upstream(variant), torch.float32)
        both.upstream.to(kit.device), both.ours.to(kit.device)
        side = architecture.resolution
        images = reference.random_images(2, 3, side, side).to(kit.device)
        batch = reference.nested(images)
        batch.mask = batch.mask.to(kit.device)
        with torch.inference_mode(), reference.recorded_order() as order:
            theirs = both.upstream(batch)
        with torch.inference_mode(), reference.replayed_order(order):
            ours = both.ours(images)
        pairs = {"logits": (ours.logits, theirs["pred_logits"]), "boxes": (ours.boxes, theirs["pred_boxes"])}
        pairs |= {"masks": (ours.masks, theirs["pred_masks"])} if architecture.segmentation else {}
        differences = {name: (our_tensor - other).abs().max().item() for name, (our_tensor, other) in pairs.items()}
        kit.row(f"{variant} outputs, largest difference", _listed(differences), **differences)
        if architecture.segmentation:
            continue  # each project draws the mask points of its loss by another generator
        both.train()
        targets = [target.to(kit.device) for target in targets_of(2, side, architecture.segmentation)]
        criterion, _ = build_criterion_and_postprocessors(reference.upstream_namespace(architecture))
        with reference.recorded_order() as order:
            losses = criterion.to(kit.device)(
                both.upstream(batch), [{"labels": target.labels, "boxes": target.boxes} for target in targets]
            )
        loss = sum(losses[name] * weight for name, weight in criterion.weight_dict.items() if name in losses)
        loss.backward()
        with reference.replayed_order(order):
            output = both.ours(images)
        total = Criterion()(output, targets, groups=architecture.groups, point_seed=0).total
        total.backward()
        gradients = dict(both.upstream.named_parameters())
        apart, size = 0.0, 0.0
        for name, parameter in both.ours.named_parameters():
            other = gradients[to_upstream(name)].grad
            if parameter.grad is not None and other is not None:
                apart, size = apart + (parameter.grad - other).square().sum().item(), size + other.square().sum().item()
        relative = {"loss": abs(total.item() - loss.item()) / loss.item(), "gradient": (apart / size) ** 0.5}
        kit.row(f"{variant} training, largest relative difference", _listed(relative), **relative)


def part_c(kit: Kit) -> None:
    """Equal bytes: trainings with and without workers, killed and resumed; 30 steps at random sizes, twice.

    Also the largest difference between predictions of a batch and of its single images.
    """
    _trainings(kit)
    _repeated(kit)
    _batches(kit)


def _trainings(kit: Kit) -> None:
    from rfdetr_core.base.files import sha256_file
    from tests.training.tiny import OUTS, make_files, script

    folder = Path(tempfile.mkdtemp())
    where = make_files(folder / "data", train=8)
    changes = {"train": {"accelerator": kit.device, "amp_dtype": "auto", "epochs": 4}}
    kinds = {"no workers": 0, "again": 0, "4 workers": 4, "killed and resumed": 0}
    if kit.smoke:
        kinds = {"no workers": 0, "1 worker": 1, "killed and resumed": 0}
    started = {
        name: _python(script(where, folder / name, **changes, runtime={"num_workers": count}))
        for name, count in kinds.items()
    }
    state = folder / "killed and resumed" / "checkpoint.pth"
    while not state.exists() and started["killed and resumed"].poll() is None:
        time.sleep(0.005)
    started["killed and resumed"].send_signal(signal.SIGKILL)
    started["killed and resumed"].communicate()
    started["killed and resumed"] = _python(script(where, folder / "killed and resumed", **changes))
    digests: dict[str, list[str]] = {}
    for name, process in started.items():
        output = process.communicate()[0]
        if process.returncode:
            print(name, output[-4000:])
        files = [folder / name / out for out in OUTS]
        digests[name] = [sha256_file(file)[:12] if file.exists() else "missing" for file in files]
        was_resumed = "resuming after epoch" in output
        equal = digests[name] == digests["no workers"] and "missing" not in digests[name]
        note = (", resumed" if was_resumed else ", NOT RESUMED") if name == "killed and resumed" else ""
        kit.row(f"tiny training, {name}", ("equal" if equal else "DIFFERENT") + note, digests=digests[name])
    shutil.rmtree(folder)


def _batches(kit: Kit) -> None:
    import torch

    from rfdetr_core.model.config import VARIANTS
    from rfdetr_core.model.detector import build_detector
    from tests.small import random_images, random_weight

    architecture = VARIANTS["pico" if kit.smoke else "nano"]
    detector = build_detector(architecture)
    weights = {name: random_weight(name, value, 0) for name, value in detector.state_dict().items()}
    detector.load_state_dict(weights)
    detector.to(kit.device).eval()
    count = 2 if kit.smoke else 8
    images = random_images(count, 3, architecture.resolution, architecture.resolution).to(kit.device)
    with torch.inference_mode():
        together = detector(images)
        alone = [detector(images[number : number + 1]) for number in range(count)]
    logits = torch.cat([prediction.logits for prediction in alone])
    boxes = torch.cat([prediction.boxes for prediction in alone])
    apart = {
        "logits": (together.logits - logits).abs().max().item(),
        "boxes": (together.boxes - boxes).abs().max().item(),
    }
    kit.row(f"prediction, batch {count} and batch 1, largest difference", _listed(apart), **apart)


def _repeated(kit: Kit) -> None:
    size = ["--steps", "1", "--batch", "2"] if kit.smoke else ["--steps", "10", "--batch", "8"]
    variants = ("pico",) if kit.smoke else ("nano", "seg-nano")
    pairs = {
        variant: [_steps(kit, "ours", variant, *size, "--warm", "0", "--multi-scale") for _ in range(2)]
        for variant in variants
    }
    for variant, pair in pairs.items():
        digests = [_go(process)["digest"] for process in pair]
        same = "equal" if digests[0] == digests[1] else "DIFFERENT"
        kit.row(f"{variant}, {size[1]} x 3 steps at drawn sizes, twice", same, digests=digests)


def part_d(kit: Kit) -> None:
    """The cost of determinism: the time of our steps with and without it.

    If the same folder has results of part e, they are used. Otherwise both times are measured here.
    """
    before = kit.out.with_name("e.jsonl")
    rows = [json.loads(line) for line in before.read_text().splitlines()] if before.exists() else []
    measured = {(row["size"], row["contender"]): row for row in rows if "size" in row}
    sizes = [size for size, contender in measured if contender == "ours fast" and (size, "ours default") in measured]
    if not sizes:
        variant, batch = ("nano", 2) if kit.smoke else ("nano", 16)
        in_turn = _in_turn(kit, variant, batch, [("ours", "default"), ("ours", "fast")])
        sizes = [f"{variant}, batch {batch}"]
        measured = {(sizes[0], contender): row for contender, row in in_turn.items()}
    for size in sizes:
        with_it, without = (measured[size, f"ours {mode}"]["seconds"] for mode in ("default", "fast"))
        figure = f"{with_it * 1e3:.1f} and {without * 1e3:.1f} ms a step, {with_it / without - 1:+.1%} for determinism"
        kit.row(f"{size}, ours with and without determinism", figure, with_it=with_it, without=without)


def part_e(kit: Kit) -> None:
    """Times of steps, of ours and of upstream.

    First both at their defaults, and ours without determinism. Compiled steps come last, because they start slowly.
    """
    plain = [("upstream", "default"), ("ours", "default"), ("ours", "fast")]
    compiled = [("upstream", "compile"), ("ours", "compile"), ("upstream", "graphs")]
    if kit.smoke:
        _in_turn(kit, "nano", 2, [*plain, ("ours", "compile")])
        return
    for variant, batch in (("nano", 16), ("medium", 8), ("seg-nano", 8)):
        _in_turn(kit, variant, batch, plain)
    _in_turn(kit, "nano", 16, compiled)


def _in_turn(kit: Kit, variant: str, batch: int, contenders: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Time the steps of each contender. All are built at the same time, and train one after another.

    Args:
        kit: the options.
        variant: of the model.
        batch: images of a step.
        contenders: who (ours or upstream) and mode.
    """
    size = ["--batch", str(batch), *(SMALL_STEPS if kit.smoke else [])]
    processes = {f"{who} {mode}": _steps(kit, who, variant, "--mode", mode, *size) for who, mode in contenders}
    results: dict[str, dict[str, Any]] = {}
    for name, process in processes.items():
        try:
            result = results[name] = _go(process)
        except RuntimeError as error:
            kit.row(f"{variant}, batch {batch}, {name}", f"failed: {str(error)[-300:]}")
            continue
        seconds, peak = result["seconds"], result["peak"]
        figure = f"{seconds * 1e3:.1f} ms a step, {batch / seconds:.1f} images/s, {peak:,.0f} MiB"
        label = f"{variant}, batch {batch}, {name} ({result['precision']})"
        if "upstream default" in results and name != "upstream default":
            base = results["upstream default"]
            figure += f"; {base['seconds'] / seconds:.2f} x speed, {peak / base['peak']:.2f} x memory"
        about = {"size": f"{variant}, batch {batch}", "contender": name}
        kit.row(label, f"{figure}; first step {result['first']:.1f} s", **about, **result)
    return results


def part_f(kit: Kit) -> None:
    """Prediction from pictures in memory, ours and upstream's."""
    import numpy as np
    import rfdetr
    import torch
    from PIL import Image

    from rfdetr_core import RFDETRNano
    from tests.parity.reference import _no_download

    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, (480, 640, 3), dtype=np.uint8)) for _ in range(16)]
    count = 2 if kit.smoke else 16
    side: dict[str, Any] = {"resolution": 64} if kit.smoke else {}
    ours = RFDETRNano(pretrain_weights=None, device=kit.device, **side)
    side |= {"positional_encoding_size": 4} if kit.smoke else {}
    with _no_download():
        theirs = rfdetr.RFDETRNano(pretrain_weights=None, device=kit.device, **side)
    calls: dict[str, Callable[[], Any]] = {
        "ours, batch 1": lambda: ours.predict(pictures[0], threshold=0.5),
        f"ours, list of {count}": lambda: ours.predict(pictures[:count], threshold=0.5),
        "upstream, batch 1": lambda: theirs.predict(pictures[0], threshold=0.5),
        f"upstream, list of {count}": lambda: theirs.predict(pictures[:count], threshold=0.5),
    }
    for name, call in calls.items():
        _timed(kit, name, call)
    batched = ours._predictor
    batched.batch_size = count
    _timed(kit, f"ours, batch {count}", lambda: ours.predict(pictures[:count], threshold=0.5))
    for dtype in (torch.float32, torch.float16):
        theirs.inference(batch_size=1, dtype=dtype)
        _timed(kit, f"upstream optimised, {dtype}, batch 1", lambda: theirs.predict(pictures[0], threshold=0.5))
        theirs.remove_optimized_model()


def _timed(kit: Kit, name: str, call: Callable[[], Any]) -> None:
    import torch

    spent = []
    for number in range(3 if kit.smoke else 30):
        start = time.perf_counter()
        call()
        if kit.device == "cuda":
            torch.cuda.synchronize()
        spent += [time.perf_counter() - start] if number >= 2 else []
        if sum(spent) > 5:
            break
    median = statistics.median(spent)
    kit.row(f"predict, Nano, {name}", f"{median * 1e3:.1f} ms", seconds=median)


def part_g(kit: Kit) -> None:
    """A whole `train()` of 160 JPEGs of 640 x 480 in two epochs, ours and upstream's, one after the other."""
    from benchmarks.loader import write_dataset

    count, epochs, batch = (4, 1, 2) if kit.smoke else (160, 2, 16)
    folder = Path(tempfile.mkdtemp())
    options = [str(folder), "--epochs", str(epochs), "--batch", str(batch), *(["--smoke"] if kit.smoke else [])]
    processes = {who: _started(kit, "whole", who, *options) for who in ("upstream", "ours")}
    write_dataset(folder, count, 640, 480)
    for who, process in processes.items():
        label = f"train() of {count} images, {epochs} epochs, batch {batch}, {who}"
        try:
            result = _go(process)
        except RuntimeError as error:
            kit.row(label, f"failed: {str(error)[-300:]}")
            continue
        rate = count * epochs / result["seconds"]
        kit.row(label, f"{result['seconds']:.1f} s, {rate:.1f} images/s, {result['peak']:,.0f} MiB", **result)
    shutil.rmtree(folder)


def part_h(kit: Kit) -> None:
    """Which operations take the time of a step, on the device and in Python."""
    size = ["--batch", "2", *SMALL_STEPS] if kit.smoke else ["--steps", "4", "--warm", "4"]
    watched = {who: _steps(kit, who, "nano", "--profile", "device", *size) for who in ("ours", "upstream")}
    process = _steps(kit, "ours", "pico" if kit.smoke else "nano", "--profile", "host", *size)
    for who, waiting in watched.items():
        result = _go(waiting)
        figure = f"{result['busy']:.1f} ms of {result['seconds'] * 1e3:.1f} (watched), {result['launches']:.0f} calls"
        kit.row(f"{who}, Nano step, the device works", figure, kernels=result["kernels"])
        for name, milliseconds, count in result["kernels"][:15]:
            kit.row(f"{who}, Nano step", f"{milliseconds:.3f} ms a step, {count} calls: {name}")
    _go(process)
    print(_log(process))


def _python(source: str) -> subprocess.Popen[str]:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, **pipes)


def _steps(kit: Kit, who: str, variant: str, *options: str) -> subprocess.Popen[str]:
    return _started(kit, "steps", who, "--variant", variant, *options)


def _started(kit: Kit, module: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that builds a model and then waits for `_go`."""
    command = [sys.executable, "-m", f"benchmarks.cuda.{module}", *arguments, "--device", kit.device]
    # With --smoke a compiled model is not compiled: a CPU would take minutes.
    environment = os.environ | ({"TORCHDYNAMO_DISABLE": "1"} if kit.smoke else {})
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read by _go
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    process.log = log  # type: ignore[attr-defined]
    return process


def _go(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Let the process train. Returns the last line that it prints, as JSON."""
    output = process.communicate("go\n")[0]
    if process.returncode or not output.strip():
        text = _log(process)
        print(text[-4000:], flush=True)
        raise RuntimeError(text.strip().splitlines()[-1] if text.strip() else f"exit status {process.returncode}")
    return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]


def _log(process: subprocess.Popen[str]) -> str:
    log: Any = process.log  # type: ignore[attr-defined]
    log.seek(0)
    return str(log.read())


def _listed(differences: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in differences.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("letter", choices=[name[-1] for name in globals() if name.startswith("part_")])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    globals()[f"part_{options.letter}"](Kit(options.device, options.smoke, options.out))


if __name__ == "__main__":
    main()
