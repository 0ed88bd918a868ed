"""Images per second, memory and time of validate, convert and a no-op `dvc repro`, on a generated COCO dataset.

    python benchmarks/ingest.py FOLDER [--images 100000]

FOLDER gets the dataset (8 kB per image; used again in the next run) and a copy of this checkout, in which it runs.
Memory is the largest sum of the proportional set sizes (PSS) of a stage's processes. Needs Linux and psutil.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIDE = 128
RESULTS = ("data/", "digests/", "reports/", "output/", "annotations/", "manifest/", "dvc.lock")
PARTS = {"train": 0.9, "valid": 0.05, "test": 0.05}


def picture(seed: int) -> bytes:
    """A JPEG of about 5 kB: smooth colours with noise. Each seed gives another picture."""
    random = np.random.default_rng(seed)
    smooth = Image.fromarray(random.integers(30, 226, (9, 9, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    grain = random.integers(-12, 13, (SIDE, SIDE, 1), dtype=np.int16)
    data = io.BytesIO()
    Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=85)
    return data.getvalue()


def write_pictures(task: tuple[str, int, int]) -> None:
    folder, first, last = task
    for seed in range(first, last):
        (Path(folder) / f"{seed:06}.jpg").write_bytes(picture(seed))


def annotations(first: int, last: int) -> dict[str, list[dict[str, object]]]:
    """COCO annotations of the images from first to last - 1, with 1 to 5 boxes each, 3 on average."""
    random = np.random.default_rng(first)
    images = [{"id": k, "file_name": f"{k:06}.jpg", "width": SIDE, "height": SIDE} for k in range(first, last)]
    objects: list[dict[str, object]] = []
    for image in images:
        for _ in range(int(random.integers(1, 6))):
            x, y, w, h = (float(v) for v in (random.uniform((0, 0, 6, 6), (80, 80, 48, 48))).round(2))
            kind = int(random.integers(0, 10))
            annotation = {"id": len(objects), "image_id": image["id"], "category_id": kind, "bbox": [x, y, w, h]}
            objects.append(annotation | {"area": round(w * h, 4), "iscrowd": 0, "segmentation": []})
    return {
        "categories": [{"id": k, "name": f"class {k}"} for k in range(10)],
        "images": images,
        "annotations": objects,
    }


def make_dataset(folder: Path, count: int) -> None:
    if folder.exists():
        return
    ends = (np.cumsum(list(PARTS.values())) * count).round().astype(int).tolist()
    tasks = []
    for name, first, last in zip(PARTS, [0, *ends], ends, strict=False):
        (folder / name).mkdir(parents=True)
        (folder / name / "_annotations.coco.json").write_text(json.dumps(annotations(first, last)))
        tasks += [(str(folder / name), k, min(k + 500, last)) for k in range(first, last, 500)]
    with multiprocessing.Pool() as pool:
        pool.map(write_pictures, tasks, chunksize=1)


def make_project(folder: Path, data: Path) -> None:
    """Copy the working tree, with hard links to the dataset, so that each run starts without results."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(RESULTS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(data, folder / "data" / "scale", copy_function=os.link)
    params = (folder / "params.yaml").read_text().replace("dir: data/sample", "dir: data/scale")
    (folder / "params.yaml").write_text(params)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q", "-f"]):
        subprocess.run(command, cwd=folder, check=True, env=environment())


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def measured(*command: str, folder: Path) -> tuple[float, float]:
    """Run a command. Returns seconds, and the peak of the summed PSS of its processes in MiB (10 samples a second)."""
    start, peak, done = time.perf_counter(), 0.0, threading.Event()
    process = psutil.Popen(command, cwd=folder, env=environment())

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            total = 0
            for child in processes(process):
                try:
                    total += pss(child)
                except OSError:
                    continue
            peak = max(peak, total / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    if status:
        sys.exit(f"{' '.join(command)} failed with status {status}")
    return seconds, peak


def processes(parent: psutil.Process) -> list[int]:
    try:
        return [parent.pid, *(child.pid for child in parent.children(recursive=True))]
    except psutil.Error:
        return []  # the process has just ended


def pss(process: int) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    data, project = options.folder / f"data-{options.images}", options.folder / "project"
    make_dataset(data, options.images)
    make_project(project, data)
    python = sys.executable
    rows = []
    for name, command in (
        ("code", (python, "-m", "stages.code")),
        ("validate, nothing known", (python, "-m", "stages.validate")),
        ("validate, all known", (python, "-m", "stages.validate")),
        ("convert", (python, "-m", "stages.convert")),
        ("dvc repro convert, first", ("dvc", "repro", "-q", "convert")),
        ("dvc repro convert, nothing to do", ("dvc", "repro", "-q", "convert")),
    ):
        seconds, peak = measured(*command, folder=project)
        rows.append(f"{name:34} {seconds:7.1f} s {options.images / seconds:9,.0f} images/s {peak:7,.0f} MiB peak")
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
