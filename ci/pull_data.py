"""Pull the dataset and the weights if a stage that reads images may run.

DVC would not pull them for train: in dvc.yaml train depends on the manifest, not on the images.
"""

from __future__ import annotations

from pathlib import Path

from ci.remote import pull_error
from ci.steps import PLAN, nothing_to_do, read_state, show, step
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import read_section
from rfdetr_core.verification.contents import Contents

READERS = {"validate", "convert", "train", "evaluate", "report", "export"}


def main() -> None:
    """Pull the files and folders that .dvc files track in weights/, in data.dir and in its parent folders."""
    if nothing_to_do():
        return
    plan = read_state(PLAN)
    # A stage made from a template is named NAME@KEY.
    stages = {name.partition("@")[0] for name in (*plan["certain"], *plan["possible"])}
    if not READERS & stages:
        print("no stage that may run reads an image: nothing to pull")
        return
    folders = (read_section(DataConfig, "data").dir, "weights")
    tracked = Contents(Path()).pointers
    pulled = [path for path in tracked if any(f"{path}/".startswith(f"{folder}/") for folder in folders)]
    pulled += [path for path in tracked if folders[0].startswith(f"{path}/")]
    if not pulled:
        print("the dataset is in git: nothing to pull")
        return
    status, output = show("dvc", "pull", *pulled)
    if status:
        raise UserError(f"{', '.join(pulled)} cannot be pulled: {pull_error(output)}")


if __name__ == "__main__":
    step(main)
