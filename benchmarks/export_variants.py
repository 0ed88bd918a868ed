"""Each variant as an exported file: size, seconds to export, and the largest difference from its checkpoint.

    python -m benchmarks.export_variants [--variants nano pico] [--formats onnx openvino] [--complete]
        [--large nano pico] [--threads 2]

Weights are random, from a seed. Images are noise: single ones and batches of 3; for the variants of --large also
batches of 16, which need much memory. Every query is compared, as the stage export does it. With random weights nearly
equal scores are frequent: `ties` counts the queries whose proposal differs for this reason. Each variant runs in a
separate process, which frees its memory at its end.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.processes import usable_cores
from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint
from rfdetr_core.export import parity
from rfdetr_core.export.config import ExportConfig, Format
from rfdetr_core.export.run import Source, export_draft
from rfdetr_core.inference.sessions import open_session
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector

LARGE = 16
HEAD = "| variant | format | MB | seconds to export | batches | boxes | scores | masks | queries | ties |"


def random_source(variant: str, folder: Path) -> Source:
    """A checkpoint of a variant with random weights, whose queries have different boxes and scores."""
    architecture = VARIANTS[variant]
    torch.manual_seed(0)
    detector = build_detector(architecture)
    with torch.no_grad():  # a new detector leaves all boxes at the proposals and gives equal scores
        detector.class_head.weight.normal_(0, 0.1)
        detector.query_boxes.normal_(0, 0.2)
        detector.box_head.layers[-1].weight.normal_(0, 0.02)
    names = [f"class {number}" for number in range(architecture.classes)]
    path = folder / "model.pth"
    write_checkpoint(path, make_checkpoint(architecture, detector.state_dict(), class_names=names, args={}))
    return Source.read(path)


def row(variant: str, kind: Format, options: argparse.Namespace) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = random_source(variant, folder)
        config = ExportConfig(formats=(kind,), postprocess=options.complete)
        start = time.perf_counter()
        draft = export_draft(source, config, kind)
        seconds = time.perf_counter() - start
        path = draft.write_with_tokens(folder)
        size = sum(
            path.with_suffix(suffix).stat().st_size for suffix in {path.suffix, *[".bin"] * (kind == "openvino")}
        )
        del draft
        gc.collect()
        session = open_session(path, threads=options.threads)
        opened = parity.Opened(session, session, config.images if config.postprocess else "normalised")
        cells = [variant, kind, f"{size / 2**20:.1f}", f"{seconds:.0f}"]
        comparisons: list[parity.Differences] = []
        try:
            for batch in (None, LARGE) if variant in options.large else (None,):
                comparisons.append(parity.compare(opened, source.detector, source.architecture, [], batch))
        except UserError as error:
            return f"| {' | '.join([*cells, str(error)])} |"
    worst = [
        max((getattr(comparison, name) or 0.0) for comparison in comparisons) for name in ("boxes", "scores", "masks")
    ]
    batches = sorted({size for comparison in comparisons for size in comparison.batches})
    cells += [", ".join(map(str, batches)), *(f"{value:.1e}" if value else "" for value in worst)]
    cells += [str(sum(getattr(comparison, name) for comparison in comparisons)) for name in ("queries", "ties")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table; with --row, one row of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--formats", nargs="+", choices=("onnx", "openvino"), default=["onnx"])
    parser.add_argument("--complete", action="store_true", help="complete files: photographs in, detections out")
    parser.add_argument(
        "--large", nargs="*", choices=VARIANTS, default=[], help="variants to run also with a batch of 16"
    )
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.row:
        print(row(options.variants[0], options.formats[0], options), flush=True)
        return
    print(HEAD, "|---" * HEAD.count(" | ") + "|---|", sep="\n", flush=True)
    for variant in options.variants:
        for kind in options.formats:
            command = [sys.executable, "-m", "benchmarks.export_variants", "--row", "--variants", variant]
            command += ["--formats", kind, "--threads", str(options.threads), "--large", *options.large]
            subprocess.run(command + ["--complete"] * options.complete, check=True)


if __name__ == "__main__":
    main()
