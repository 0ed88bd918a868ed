"""A copy of this project with a dataset that trains in seconds, run by the real `dvc`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

from rfdetr_core.base.code import ROOT

TINY = {
    "model": {"variant": "pico", "resolution": 64, "num_queries": 10, "group_detr": 2},
    "train": {"epochs": 2, "batch_size": 2, "grad_accum_steps": 1, "multi_scale": False, "amp_dtype": None},
    "evaluate": {"pictures": 1},
    "export": {"formats": []},  # writing a file takes longer than the other stages
    "runtime": {"num_workers": 0, "threads": 1, "mlflow": False},
}

# Changes to TINY with which a model learns: a mAP of 0.2 to 0.5, depending on the seed, in nine seconds of training.
LEARNS = {
    "model": {"group_detr": 4},
    "train": {
        "epochs": 4,
        "lr": 1e-3,
        "lr_encoder": 1e-4,
        "clip_max_norm": 5.0,
        "ema_decay": 0.95,
        "eval_interval": 100,
        "scale_jitter": False,
        "augmentation": {},
    },
    "runtime": {"checkpoint_interval": 1},
}
# The dataset for it: one large rectangle in each image.
LEARNT = {"counts": {"train": 64, "valid": 4, "test": 40}, "objects": 1, "sides": (24, 32)}

# The files that every training writes into its folder, except checkpoint_<epoch>.pth.
CHECKPOINTS = {f"checkpoint{end}.pth" for end in ("", "_best_ema", "_best_regular", "_best_total")}

# Not copied: data and results of this checkout, and files that a user of the pipeline does not need.
FOLDERS = ("digests/", "manifest/", "metadata/", "annotations/", "output/", "reports/", "records/", "journal/")
RESULTS = (*FOLDERS, "dvc.lock")
LEFT_OUT = ("data/", "tests/", "docs/", *RESULTS)


def make_dataset(
    folder: Path, counts: dict[str, int], seed: int = 0, *, objects: int = 2, sides: tuple[int, int] = (8, 20)
) -> None:
    """Write a COCO dataset in Roboflow's layout: bright rectangles of two classes on noise, 64 x 64 PNG.

    Args:
        folder: of the dataset.
        counts: images of each split.
        seed: of the random numbers.
        objects: in each image.
        sides: the shortest side of a rectangle, and the longest plus 1, in pixels.
    """
    random = np.random.default_rng(seed)
    for split, count in counts.items():
        images, annotations = [], []
        (folder / split).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(random.integers(0, 90, (64, 64, 3), dtype=np.uint8))
            name = f"{split}_{number}.png"
            images.append({"id": number, "file_name": name, "width": 64, "height": 64})
            for _ in range(objects):
                x, y = (int(v) for v in random.integers(2, 60 - sides[1], 2))
                w, h = (int(v) for v in random.integers(*sides, 2))
                kind = int(random.integers(0, 2))
                colour = ((250, 40, 40), (40, 250, 40))[kind]
                ImageDraw.Draw(picture).rectangle([x, y, x + w - 1, y + h - 1], fill=colour)
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": kind,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                        "segmentation": [],
                    }
                )
            picture.save(folder / split / name)
        categories = [{"id": 0, "name": "red"}, {"id": 1, "name": "green"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


def environment_without(*beginnings: str) -> dict[str, str]:
    """The environment without variables whose names begin with one of these texts."""
    return {name: value for name, value in os.environ.items() if not name.startswith(beginnings)}


def copy_checkout(folder: Path, left_out: tuple[str, ...]) -> None:
    """Copy the files of this checkout that git tracks or would track. left_out: beginnings of paths to skip."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in listed:
        if name and not name.startswith(left_out) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def add_prose(path: Path) -> None:
    """Add comments, blank lines and trailing spaces to a module, and a text to its docstring."""
    first, docstring, rest = path.read_text().partition('"""')
    rest = rest.replace("\nfrom __future__ import annotations\n", "\nfrom __future__ import annotations  \n")
    documented = f"{first}{docstring}Other words. {rest}" if docstring else first
    path.write_text(f"# A comment.\n\n{documented}\n\n  \n# another\n")


class Project:
    """A checkout of the project in a separate folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, params: dict[str, dict[str, object]] | None = None) -> Project:
        """Copy the working tree (files that git tracks or would track), add the tiny dataset and params, and commit."""
        copy_checkout(folder, LEFT_OUT)
        project = cls(folder)
        make_dataset(folder / "data" / "tiny", {"train": 4, "valid": 2, "test": 2})
        project.set_params(data={"dir": "data/tiny"}, **{k: dict(v) for k, v in TINY.items()})
        for section, values in (params or {}).items():
            project.set_params(**{section: values})
        project.run("git", "init", "-q", "-b", "main")
        project.run("git", "config", "user.email", "test@localhost")
        project.run("git", "config", "user.name", "test")
        project.commit("start")
        return project

    def copy(self, folder: Path) -> Project:
        """Copy the project to another folder, with its history, cache and results."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def move_data_to_dvc(self, remote: str) -> None:
        """Move the dataset from git to DVC, and add a remote."""
        self.run("git", "rm", "-r", "-q", "--cached", "data/tiny")
        self.run("dvc", "add", "-q", "data/tiny")
        self.run("dvc", "remote", "add", "-q", "-d", "store", remote)

    def environment(self) -> dict[str, str]:
        """The environment of a user with an active venv, without variables of this repository."""
        env = environment_without("DVC_", "MLFLOW_", "PYTHONPATH", "GIT_")
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        return env

    def run(
        self, *command: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project and capture its output."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment() | (env or {}), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0 or not check, f"{command} failed\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`. Returns the stages whose command ran, in order."""
        done = self.run("dvc", "repro", *arguments)
        return re.findall(r"^Running stage '(\w+)'", done.stdout + done.stderr, flags=re.MULTILINE)

    def changed_stages(self) -> set[str]:
        """The stages whose dependencies changed, from `dvc status`, which runs nothing."""
        return set(json.loads(self.run("dvc", "status", "--json").stdout))

    def set_params(self, **sections: dict[str, object]) -> None:
        """Change keys of params.yaml."""
        path = self.folder / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            content.setdefault(section, {}).update(values)
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", message)

    def edit_annotations(self, split: str, *, index: int = 0, **changes: object) -> None:
        """Change keys of one annotation of a split."""
        path = self.folder / "data" / "tiny" / split / "_annotations.coco.json"
        content = json.loads(path.read_text())
        content["annotations"][index].update(changes)
        path.write_text(json.dumps(content))
