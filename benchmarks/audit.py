"""The time of `audit` in a project with a long history. Builds the project with git fast-import, then times commands.

Run: python -m benchmarks.audit [--commits 1000] [--images 100000] [--keep DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import yaml

from rfdetr_core.base import files

_CHANGED = 100  # images that change in each commit
_CODE = 75  # files that a stage depends on


def main() -> None:
    """Build the project, pack it like a clone, and time each command twice (cold, warm) in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="build the project in this folder and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        _build(folder, options.commits, options.images)
        changed, last = (_digest(image, 0) for image in (0, options.images - 1))
        asked = {"in the first commit": ["--image", changed], "in all, last row": ["--image", last]}
        asked |= {"in no commit": ["--image", "0" * 64], "FILE": [str(folder / "scores.json")]}
        asked |= {"source": ["--where", "source=site7"], "before a date": ["--where", "date<2020-01-01"]}
        for name, arguments in asked.items():
            command = [sys.executable, "-m", "rfdetr_core", "audit", *arguments, "--repo", str(folder), "--json"]
            for again in ("first", "again"):
                start = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                uses = len(json.loads(done.stdout).get("uses", [])) if done.stdout else done.stderr.strip()
                print(f"{name:20} {again}  {time.perf_counter() - start:6.1f} s  uses: {uses}", flush=True)


def _digest(image: int, version: int) -> str:
    return hashlib.sha256(f"{image} {version}".encode()).hexdigest()


def _row(image: int, version: int) -> bytes:
    name = f"train/{image:06}.jpg"
    row = {"path": name, "sha256": _digest(image, version), "width": 64, "height": 48, "labels": _digest(image, -1)}
    return files.canonical_json(row)


def _metadata(image: int, version: int) -> bytes:
    """A line of metadata/train.csv. Its date is the date of the commit."""
    return b"train/%06d.jpg,20%02d-%02d-01,site%d" % (
        image,
        10 + version // 80,
        1 + version % 12,
        (image + version) % 40,
    )


def _changed(number: int, images: int) -> Iterator[int]:
    """The images that differ from the previous commit."""
    for place in range(_CHANGED if number else 0):
        yield ((number - 1) * _CHANGED + place) % max(images - 1, 1)


def _build(folder: Path, commits: int, images: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True)
    (folder / "scores.json").write_text("scores 0")
    command = ["git", "fast-import", "--quiet", "--depth=50"]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        rows, tables = ([make(image, 0) for image in range(images)] for make in (_row, _metadata))
        manifests, known = [], []
        # All manifests first, then all tables: fast-import stores a file as a change of the previous file.
        for number in range(commits):
            for image in _changed(number, images):
                rows[image] = _row(image, number)
            manifest = b"[\n" + b",\n".join(rows) + b"\n]\n"
            process.stdin.write(b"blob\nmark :%d\ndata %d\n%s\n" % (number + 1, len(manifest), manifest))
            git = hashlib.sha1(b"blob %d\0" % len(manifest) + manifest, usedforsecurity=False).hexdigest()
            manifests.append((git, hashlib.md5(manifest, usedforsecurity=False).hexdigest()))
        for number in range(commits):
            for image in _changed(number, images):
                tables[image] = _metadata(image, number)
            table = b"path,date,source\n" + b"\n".join(tables) + b"\n"
            process.stdin.write(b"blob\nmark :%d\ndata %d\n%s\n" % (commits + number + 1, len(table), table))
            known.append(hashlib.md5(table, usedforsecurity=False).hexdigest())
        for number, (git, md5) in enumerate(manifests):
            outs = {"manifest/train.json": md5, "metadata/train.csv": known[number]}
            _commit(process.stdin, number, commits, git, outs)
        process.stdin.close()
    subprocess.run(["git", "gc", "-q"], cwd=folder, check=True)


def _stage(deps: dict[str, str], outs: dict[str, str]) -> dict[str, object]:
    """A stage as DVC writes it into dvc.lock."""
    rows = (
        [{"path": path, "hash": "md5", "md5": md5, "size": 1} for path, md5 in digests.items()]
        for digests in (deps, outs)
    )
    return {"cmd": "python", **dict(zip(("deps", "outs"), rows, strict=True))}


def _commit(pipe: IO[bytes], number: int, commits: int, git: str, outs: dict[str, str]) -> None:
    """Write a commit. outs: MD5 of each file that validate wrote, by path."""
    tensors = hashlib.sha256(f"tensors {number}".encode()).hexdigest()
    training = {key: {} for key in ("params", "inputs", "counts", "parents", "code", "packages", "machine")}
    training["files"] = {"manifest/train.json": {"git": git}}
    model = {"md5": tensors[:32], "sha256": tensors, "size": 1}
    lineage = {"tensors": tensors, "training": training, "selection": {}, "code": {}}
    record = {"lineage": lineage, "file": model, "run": {}}
    evaluation = {"model": {"sha256": tensors, "tensors": tensors}, "split": "test", "inputs": {}}
    scores = hashlib.md5(f"scores {number}".encode(), usedforsecurity=False).hexdigest()
    code = {f"rfdetr_core/part_{place}.py": f"a{place:031x}" for place in range(_CODE)}
    model_path, scores_path = "output/checkpoint_best_total.pth", "reports/evaluate/scores.json"
    lock = {
        "validate": _stage({}, outs),
        "train": _stage(
            {"manifest/train.json": outs["manifest/train.json"], **code},
            {"output/checkpoint_best_ema.pth": tensors[32:]},
        ),
        "strip": _stage({"output/checkpoint_best_ema.pth": tensors[32:]}, {model_path: model["md5"]}),
        "evaluate": _stage({model_path: model["md5"], **code}, {scores_path: scores}),
    }
    contents = {
        f"records/{tensors}.json": files.canonical_json(record),
        "reports/evaluate/lineage.json": files.canonical_json(evaluation),
        "dvc.lock": yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False).encode(),
    }
    subject = f"Retrain {number}".encode()
    head = b"commit refs/heads/main\ncommitter Ada <ada@example.org> %d +0000\n" % (1_700_000_000 + number)
    pipe.write(head + b"data %d\n%s\n" % (len(subject), subject))
    pipe.write(b"M 100644 :%d manifest/train.json\n" % (number + 1))
    pipe.write(b"M 100644 :%d metadata/train.csv\n" % (commits + number + 1))
    for path, content in contents.items():
        pipe.write(b"M 100644 inline %s\ndata %d\n" % (path.encode(), len(content)))
        pipe.write(content + b"\n")


if __name__ == "__main__":
    main()
