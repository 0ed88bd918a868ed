"""A whole `train()` of ours or upstream on image files: python -m benchmarks.cuda.whole ours|upstream DATASET ...

Imports everything, waits for a line on its standard input, trains Nano, and prints one line of JSON: the seconds of
`train()` and the peak memory. Epochs and batch are equal; other options are each project's defaults. `train()` reads
the files, trains, validates after each epoch and writes checkpoints. Ours first validates and converts the dataset.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cuda.steps import SCORING
from benchmarks.train_step import peak_memory

SMOKE_SIDE = 64  # pixels


def ours(options: argparse.Namespace, settings: dict[str, Any]) -> Callable[[], None]:
    import rfdetr_core

    side: dict[str, Any] = {"resolution": SMOKE_SIDE} if options.smoke else {}
    model = rfdetr_core.RFDETRNano(pretrain_weights=None, device=options.device, **side)
    return lambda: model.train(**settings)


def upstream(options: argparse.Namespace, settings: dict[str, Any]) -> Callable[[], None]:
    import rfdetr

    from tests.parity import upstream_training  # noqa: F401 - so that train() below has nothing left to import
    from tests.parity.reference import _no_download

    side: dict[str, Any] = {"resolution": SMOKE_SIDE, "positional_encoding_size": SMOKE_SIDE // 16}

    def train() -> None:
        with _no_download():
            model.train(**settings, **SCORING)

    with _no_download():
        model = rfdetr.RFDETRNano(pretrain_weights=None, device=options.device, **(side if options.smoke else {}))
    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("who", choices=["ours", "upstream"])
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--smoke", action="store_true", help=f"only at {SMOKE_SIDE} pixels, without workers")
    options = parser.parse_args()
    output = tempfile.mkdtemp()
    settings: dict[str, Any] = {"dataset_dir": options.dataset, "output_dir": output}
    settings |= {"epochs": options.epochs, "batch_size": options.batch}
    settings |= {"num_workers": 0, "multi_scale": False} if options.smoke else {}
    train = (ours if options.who == "ours" else upstream)(options, settings)
    print("ready", flush=True)
    sys.stdin.readline()
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    train()
    seconds = time.perf_counter() - begun
    print()  # ends the line of a progress bar
    print(json.dumps({"seconds": seconds, "peak": peak_memory(options.device)}), flush=True)


if __name__ == "__main__":
    main()
