"""The GPU benchmarks: runs each part in a process with a time limit, and prints one table at the end.

    sh benchmarks/cuda/run.sh [--parts acebdfgh] [--seconds 480] [--device cuda|cpu] [--smoke] [--out FOLDER]

`--device cpu --smoke` runs every part in small on a CPU. A part writes its results to FOLDER/<part>.jsonl as soon as
they are measured. The table is also in FOLDER/table.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

# Time limits in seconds. a: tests marked gpu. c: equal bytes. e: times of steps. b: parity. d: cost of determinism.
# f: prediction. g: a whole training. h: profile of a step. The first three leave at least 120 of 480 s for the others.
# Part e measures compiled steps last, so they are missing if it is stopped.
LIMITS = {"a": 50, "c": 110, "e": 200, "b": 40, "d": 40, "f": 40, "g": 60, "h": 60}
SLOWER = 4  # factor for --smoke: the CPU may run other tests at the same time


def machine(device: str) -> str:
    import torch

    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{card}, {os.cpu_count()} CPU cores, {versions}"


def run(letter: str, options: argparse.Namespace, seconds: float) -> str:
    """Run one part and its child processes. Returns how it ended; empty if it succeeded.

    Args:
        letter: of the part.
        options: of the command.
        seconds: the limit.
    """
    out, log = options.out / f"{letter}.jsonl", options.out / f"{letter}.log"
    command = [sys.executable, "-m", "benchmarks.cuda.parts", letter, "--out", str(out), "--device", options.device]
    command += ["--smoke"] if options.smoke else []
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status:
        print(log.read_text()[-3000:], flush=True)
    return "" if status == 0 else f"stopped after {seconds:.0f} s" if status is None else f"exit status {status}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="acebdfgh")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cuda/.results"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("?.jsonl"):  # part d uses the results of part e, which must be of this run
        old.unlink()
    ends = time.monotonic() + options.seconds
    lines = [machine(options.device), "", "| part | what | figure |", "|---|---|---|"]
    for letter in options.parts:
        begun = time.monotonic()
        left = ends - begun
        limit = LIMITS[letter] * (SLOWER if options.smoke else 1)
        ended = run(letter, options, min(limit, left)) if left > 5 else "no time left"
        took = time.monotonic() - begun
        print(f"part {letter}: {took:.0f} s {ended}", flush=True)
        out = options.out / f"{letter}.jsonl"
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        figures = [(row["what"], row["figure"]) for row in rows] + ([("the part", ended)] if ended else [])
        lines += [f"| {letter} | {label} | {figure.replace('|', '/')} |" for label, figure in figures]
        (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
