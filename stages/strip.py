"""Stage strip: writes the model file: the winner's weights, their lineage, and what loading needs."""

from __future__ import annotations

from pathlib import Path

from stages import run


def main() -> None:
    """Write output/checkpoint_best_total.pth, and records/<weights>-<run>.json, also as output/record.json."""
    from rfdetr_core.base import files
    from rfdetr_core.selection.strip import strip

    output, selection = Path("output"), files.read_json(Path("output/selection.json"))
    strip(output, selection, output / "checkpoint_best_total.pth", records=Path("records"))


if __name__ == "__main__":
    run(main)
