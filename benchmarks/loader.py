"""Images per second of the training loader, ours and upstream's, at Nano's largest size; and the time of its parts.

    python benchmarks/loader.py [--images 200] [--workers 0 1 2] [--rounds 3] [--large 8]

Generates JPEGs in a temporary folder: 640 x 480, quality 90, 7 boxes each. Both loaders read them in turn at 544 pixels
(the largest size of Nano), in batches of 4, up to normalised tensors. Only ours also reads JPEGs of 4000 x 3000,
decoded at full and at reduced size. Needs the parity tools (`make setup-dev`). Upstream chooses its transforms by
installed packages.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rfdetr_core.base import files
from rfdetr_core.data.augmentation import AugmentConfig, View
from rfdetr_core.data.batching import multi_scale_sizes
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.data.dataset import DetectionDataset, SampleKey
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.model.config import VARIANTS

NANO, BATCH, BOXES = VARIANTS["nano"], 4, 7
SIZES = multi_scale_sizes(NANO.resolution, NANO.patch_size, NANO.windows)


def write_dataset(root: Path, count: int, width: int, height: int) -> None:
    """Write COCO in Roboflow's layout. The images are noisy blobs, so that JPEGs are as large as photographs.

    Args:
        root: folder of the dataset.
        count: of images.
        width, height: of images in pixels.
    """
    random = np.random.default_rng(0)
    for split, number in (("train", count), ("valid", 2), ("test", 2)):
        (root / split).mkdir(parents=True)
        rows, objects = [], []
        for k in range(number):
            coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=int)
            pixels = (smooth + random.integers(-9, 10, (height, width, 1))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{k:05}.jpg", quality=90)
            rows.append({"id": k + 1, "file_name": f"{k:05}.jpg", "width": width, "height": height})
            for _ in range(BOXES):
                x, y, w, h = random.uniform([0, 0, 10, 10], [width * 0.6, height * 0.6, width * 0.3, height * 0.3])
                annotation = {"id": len(objects) + 1, "image_id": k + 1, "category_id": 1, "iscrowd": 0, "area": w * h}
                objects.append(annotation | {"bbox": [x, y, w, h], "segmentation": []})
        content = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def samples_of(root: Path, folder: Path) -> list[Sample]:
    """The samples of train, as validate and convert write them. folder: for their files."""
    config = ValidateConfig()
    with contextlib.redirect_stdout(io.StringIO()):
        validate_dataset(root, config, folder / "reports", folder / "manifest")
        convert_dataset(root, config, folder / "manifest", folder / "annotations")
    return read_samples(folder / "annotations" / "train.json", folder / "manifest" / "train.json")


def our_batches(root: Path, samples: list[Sample], workers: int) -> Iterable[Any]:
    side = max(SIZES)
    numbers: dict[str, Any] = {"resolution": NANO.resolution, "train_resolution": side, "batch_size": BATCH, "seed": 0}
    module = TrainingData(root, samples, samples[:2], **numbers, num_workers=workers, persistent_workers=False)
    return (module.on_after_batch_transfer(batch, 0) for batch in module.train_dataloader())


def upstream_batches(root: Path, workers: int) -> Iterable[Any]:
    from rfdetr.config import RFDETRNanoConfig, TrainConfig

    from tests.parity.upstream_training import module_data

    model = RFDETRNanoConfig(pretrain_weights=None, num_classes=1, device="cpu")
    options = {"dataset_dir": str(root), "dataset_file": "roboflow", "output_dir": str(root.parent / "output")}
    options |= {"augmentation_backend": "cpu"}
    config = TrainConfig(**options, batch_size=BATCH, num_workers=workers, grad_accum_steps=1)
    module = module_data.RFDETRDataModule(model, config)
    with contextlib.redirect_stdout(io.StringIO()):
        module.setup("fit")
    return module.train_dataloader()


def rate(batches: Callable[[], Iterable[Any]], count: int) -> float:
    """Images per second after the first batch: then all worker processes have started."""
    stream = iter(batches())
    next(stream)
    start = time.perf_counter()
    seen = BATCH * sum(1 for _ in stream)
    assert seen >= count - 2 * BATCH
    return seen / (time.perf_counter() - start)


def seconds_an_image(images: DetectionDataset) -> float:
    start = time.perf_counter()
    for index in range(len(images)):
        _ = images[SampleKey(1, index)]
    return (time.perf_counter() - start) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=8)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "small", options.images, 640, 480)
        samples = samples_of(folder / "small", folder)
        backend = next((kind for kind in ("albumentations", "kornia") if find_spec(kind)), "torchvision")
        decoder = "simplejpeg" if find_spec("simplejpeg") else "Pillow"
        print(f"{options.images} JPEGs of 640 x 480 at {max(SIZES)} pixels; upstream with {backend} and {decoder}")
        for workers in options.workers:
            ways: dict[str, Callable[[], Iterable[Any]]] = {
                "ours": lambda n=workers: our_batches(folder / "small", samples, n),  # type: ignore[misc]
                "upstream": lambda n=workers: upstream_batches(folder / "small", n),  # type: ignore[misc]
            }
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, batches in ways.items():
                    rates[way].append(rate(batches, options.images))
            medians = {way: statistics.median(values) for way, values in rates.items()}
            summary = ", ".join(f"{way} {value:6.1f}" for way, value in medians.items())
            print(f"workers {workers}: images per second {summary} ({medians['ours'] / medians['upstream']:.2f} times)")
        images = DetectionDataset(samples, folder / "small", max(SIZES), augmentation=AugmentConfig(), seed=0)
        whole = min(seconds_an_image(images) for _ in range(options.rounds))
        hashed = min(_hashing(folder / "small", samples) for _ in range(options.rounds))
        print(f"one image: {whole * 1e3:.2f} ms, of which sha256 {hashed * 1e3:.3f} ms ({hashed / whole:.1%})")
        if options.large:
            _compare_reduced(folder, options.large, options.rounds)


def _hashing(root: Path, samples: list[Sample]) -> float:
    """Seconds per image that the check of the SHA-256 takes."""
    contents = [(root / sample.path).read_bytes() for sample in samples]
    start = time.perf_counter()
    for content in contents:
        files.sha256_bytes(content)
    return (time.perf_counter() - start) / len(contents)


def _compare_reduced(folder: Path, count: int, rounds: int) -> None:
    write_dataset(folder / "large", count, 4000, 3000)
    samples = samples_of(folder / "large", folder / "of_large")
    images = DetectionDataset(samples, folder / "large", max(SIZES), augmentation=AugmentConfig(), seed=0)
    reduced = min(seconds_an_image(images) for _ in range(rounds))
    with mock.patch.object(View, "reduction", return_value=1):
        whole = min(seconds_an_image(images) for _ in range(rounds))
    hashed = min(_hashing(folder / "large", samples) for _ in range(rounds))
    times = f"{reduced * 1e3:.0f} ms an image, decoded whole {whole * 1e3:.0f} ms ({whole / reduced:.1f} times)"
    print(f"{count} JPEGs of 4000 x 3000: {times}; sha256 {hashed * 1e3:.1f} ms ({hashed / reduced:.1%})")


if __name__ == "__main__":
    main()
