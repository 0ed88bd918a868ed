"""Stage select_best: chooses between the EMA weights and the regular weights."""

from __future__ import annotations

from pathlib import Path

from stages import run


def main() -> None:
    """Write output/selection.json."""
    from rfdetr_core.base import files
    from rfdetr_core.selection.select import select

    output = Path("output")
    files.write_json(output / "selection.json", select(files.read_json(output / "scores.json")))


if __name__ == "__main__":
    run(main)
