"""Stage strip: the winner's weights, and what loading them needs."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core import files
from rfdetr_core.stripping import strip
from stages import run


def main() -> None:
    """Write output/checkpoint_best_total.pth."""
    output = Path("output")
    strip(output, files.read_json(output / "selection.json"), output / "checkpoint_best_total.pth")


if __name__ == "__main__":
    run(main)
