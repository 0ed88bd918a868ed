"""The digests of a small training with train.portable, and the processor: python -m benchmarks.portable

Run it on two machines with the same packages. If the lines with digests differ, `train.portable` does not work there.
"""

from __future__ import annotations

import platform
import re
import tempfile
import time
from pathlib import Path

from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.portable import set_variables

SECTIONS = {
    "model": {"resolution": 256},
    "train": {"portable": True, "epochs": 2, "multi_scale": "off"},
}


def main() -> None:
    """Train two epochs of two steps at 256 pixels on one thread, and print the last row of steps.csv."""
    set_variables(TrainConfig(portable=True))
    from tests.training.tiny import make_files, train

    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    print(f"processor  {names[0] if names else platform.processor()}")
    with tempfile.TemporaryDirectory() as folder:
        where, begun = make_files(Path(folder) / "data"), time.monotonic()
        text = train(where, Path(folder) / "run", **SECTIONS)["steps.csv"].decode()
        print(f"seconds    {time.monotonic() - begun:.1f}")
    header, *_, last = text.splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    for name in ("loss", "regular", "ema", "chain"):
        print(f"{name:10} {row[name]}")


if __name__ == "__main__":
    main()
