"""Stage code: writes, for every other stage, the digests of the modules that it runs."""

from __future__ import annotations

from rfdetr_core.base import files
from rfdetr_core.base.code import FOLDER, Code
from rfdetr_core.base.processes import without_collection
from stages import run


def main() -> None:
    """Write digests/<stage>.json."""
    with without_collection():
        code = Code()
        digests = {stage: code.digests_of(stage) for stage in code.stages}
    for stage, content in digests.items():
        files.write_json(FOLDER / f"{stage}.json", content)


if __name__ == "__main__":
    run(main)
