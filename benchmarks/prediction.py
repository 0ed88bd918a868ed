"""Speed of prediction and evaluation, ours and upstream's, each in a separate process.

    python -m benchmarks.prediction [--variant nano] [--device cpu] [--threads 2] [--images 40] [--only evaluate]

predict: one 640 x 480 picture in memory; the median time of a call, and the times of its parts. The theoretical minimum
is the model's FLOPs at the speed of products of 2,048 x 2,048 matrices. evaluate: JPEG files with 3 objects each, from
the files to the scores, with random weights. Upstream runs at its defaults; the start of its loader does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_profile import flop_formulas, peak
from rfdetr_core.inference.benchmark import noise as picture
from rfdetr_core.model.config import VARIANTS

WIDTH, HEIGHT = 640, 480
CALLS, WARM = 15, 3


def milliseconds(call: Callable[[], Any]) -> float:
    """The median time of a call in milliseconds."""
    spent = []
    for _ in range(WARM + CALLS):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[WARM:]) * 1e3


def row(name: str, figure: str) -> None:
    print(f"| {name} | {figure} |", flush=True)


def ours(options: argparse.Namespace) -> Any:
    from rfdetr_core.api import model as api

    return getattr(api, VARIANTS[options.variant].name)(pretrain_weights=None, device=options.device)


def upstream(options: argparse.Namespace) -> Any:
    import rfdetr

    from tests.parity.reference import _no_download

    with _no_download():
        return getattr(rfdetr, VARIANTS[options.variant].name)(pretrain_weights=None, device=options.device)


def ours_predict(options: argparse.Namespace) -> None:
    """The times of a call, of its parts, and of the optimised copies."""
    from torch.utils.flop_counter import FlopCounterMode

    from rfdetr_core.base import images
    from rfdetr_core.data.preprocess import normalise, pixels, resize
    from rfdetr_core.model.postprocess import postprocess

    model, image = ours(options), picture(0)
    side, queries, detector = model.architecture.resolution, model.architecture.queries, model.model
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        image.save(file.name, quality=90)
        data = Path(file.name).read_bytes()
    row("decode a JPEG", f"{milliseconds(lambda: images.decode(data, 'it')):.1f} ms")
    row("resize", f"{milliseconds(lambda: resize(image, side)):.1f} ms")
    squared = pixels(image, side)[None]
    row("normalise", f"{milliseconds(lambda: normalise(squared)):.1f} ms")
    inputs = normalise(squared).to(options.device)
    with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counted:
        detector(inputs)
    flops = counted.get_total_flops() / 1e9
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        if options.device == "cpu":
            row(f"theoretical minimum, {name}: {flops:.1f} GFLOP", f"{flops / peak(dtype) * 1e3:.1f} ms")
    with torch.inference_mode():
        row("model", f"{milliseconds(lambda: detector(inputs)):.1f} ms")
        output = detector(inputs)
        row(
            "boxes and scores",
            f"{milliseconds(lambda: [*postprocess(output, [(HEIGHT, WIDTH)], queries, 0.5)]):.1f} ms",
        )
        with torch.autocast(options.device.partition(":")[0], torch.bfloat16):
            row("model, autocast to bfloat16", f"{milliseconds(lambda: detector(inputs)):.1f} ms")
    call = lambda: model.predict(image, threshold=0.5)  # noqa: E731
    row("ours: predict", f"{milliseconds(call):.1f} ms")
    pictures = [picture(seed) for seed in range(8)]
    for size in (1, 8):
        many = partial(model.predict, pictures, threshold=0.5, batch_size=size)
        row(f"ours: predict, a list of 8, batch_size {size}, per image", f"{milliseconds(many) / 8:.1f} ms")
    for name in ("float32", "bfloat16") + ("float16",) * options.device.startswith("cuda"):
        model.optimize_for_inference(dtype=name)
        row(f"ours: predict, optimised, {name}", f"{milliseconds(call):.1f} ms")


def upstream_predict(options: argparse.Namespace) -> None:
    """Upstream's default, and its optimised mode."""
    model, image = upstream(options), picture(0)
    call = lambda: model.predict(image, threshold=0.5)  # noqa: E731
    row("upstream: predict", f"{milliseconds(call):.1f} ms")
    for name in ("float32", "bfloat16") + ("float16",) * options.device.startswith("cuda"):
        try:
            model.inference(batch_size=1, dtype=getattr(torch, name))
            row(f"upstream: predict, optimised, {name}", f"{milliseconds(call):.1f} ms")
        except Exception as error:  # noqa: BLE001 - upstream may not support it
            row(f"upstream: predict, optimised, {name}", f"fails: {str(error).strip().splitlines()[-1][:80]}")
        model.remove_optimized_model()


def dataset(folder: Path, count: int) -> None:
    """Write a dataset with the same images in every split, because upstream also needs train and valid."""
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(parents=True)
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "thing"}]}
        for number in range(count):
            name = f"{split}_{number}.jpg"
            picture(number).save(folder / split / name, quality=90)
            content["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for place in range(3):
                box = {"bbox": [20 + 150 * place, 40, 120, 90], "area": 120 * 90, "iscrowd": 0, "category_id": 0}
                content["annotations"].append({"id": 3 * number + place + 1, "image_id": number, **box})
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


def ours_evaluate(options: argparse.Namespace) -> None:
    """Time the function of the stage. The dataset is validated before the clock starts."""
    from rfdetr_core.api import model as api
    from rfdetr_core.data.samples import read_samples
    from rfdetr_core.evaluation import evaluate as stage
    from rfdetr_core.evaluation.config import EvaluateConfig

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset(folder / "data", options.images)
        made = api._prepare(folder / "data", folder / "made")
        kind = getattr(api, VARIANTS[options.variant].name)
        model = kind(pretrain_weights=None, num_classes=1, device=options.device)
        model._predictor.class_names = ("thing",)
        samples = read_samples(*made.split("test"))
        list(model._predictor.detect(samples[:2], load=lambda sample: stage._picture(made.dataset, sample)))
        for size in (1, 8):
            model._predictor.batch_size = size
            start = time.perf_counter()
            stage.detect(model._predictor, made.dataset, samples, ("thing",))
            row(f"ours: detect, batch_size {size}", f"{options.images / (time.perf_counter() - start):.2f} images/s")
        model._predictor.batch_size = 1
        start = time.perf_counter()
        stage.evaluate(model._predictor, made, EvaluateConfig(pictures=0), folder / "report")
        row("ours: evaluate, all of it", f"{options.images / (time.perf_counter() - start):.2f} images/s")


def upstream_evaluate(options: argparse.Namespace) -> None:
    """Time upstream's loader, model and boxes at its defaults, from the second batch on, with pycocotools' scores.

    Upstream's `evaluate` does the same and computes the loss, but it needs a scorer that is not installed here.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from tests.parity.upstream_training import module_data

    with tempfile.TemporaryDirectory() as name:
        dataset(Path(name) / "data", options.images)
        model = upstream(options)
        config = model.get_train_config(dataset_dir=f"{name}/data", output_dir=f"{name}/out")
        data = module_data.RFDETRDataModule(model.model_config, config)
        data.setup("test")
        network, rows, start, seen = model.model.model.eval().to(options.device), [], 0.0, 0
        with torch.no_grad():
            for samples, targets in data.test_dataloader():
                sizes = torch.stack([target["orig_size"] for target in targets]).to(options.device)
                results = model.model.postprocess(network(samples.to(options.device)), sizes)
                if not start:
                    start = time.perf_counter()
                    continue
                seen += len(sizes)
                for target, result in zip(targets, results, strict=True):
                    boxes = result["boxes"].cpu()
                    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
                    rows += [
                        {"image_id": int(target["image_id"]), "category_id": 0, "bbox": box, "score": score}
                        for box, score in zip(boxes, result["scores"].tolist(), strict=True)
                    ]
        row("upstream: loader, model, boxes", f"{seen / (time.perf_counter() - start):.2f} images/s")
        truth = COCO(f"{name}/data/test/_annotations.coco.json")
        scored = COCOeval(truth, truth.loadRes(rows), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        figure = f"{seen / (time.perf_counter() - start):.2f} images/s"
    row(f"upstream: all of it, batches of {len(targets)}", figure)


PARTS = {
    "predict": (ours_predict, upstream_predict),
    "evaluate": (ours_evaluate, upstream_evaluate),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="nano", choices=VARIANTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.part:
        kind, number = options.part.split(":")
        PARTS[kind][int(number)](options)
        return
    print("| what | figure |\n|---|---|", flush=True)
    for kind in [options.only] if options.only else PARTS:
        for number in range(2):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.prediction", *sys.argv[1:]]
            done = subprocess.run([*command, "--part", f"{kind}:{number}"], capture_output=True, text=True)
            print(*[line for line in done.stdout.splitlines() if line.startswith("| ")], sep="\n", flush=True)
            if done.returncode:
                sys.exit(done.stderr[-3000:])


if __name__ == "__main__":
    main()
