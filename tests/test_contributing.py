"""Follows every row of CONTRIBUTING.md: applies a patch to a copy of the project, runs the row's commands and tests.

A patch may change only the files that its row names. It has a test that uses the addition.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rfdetr_core.base.code import ROOT
from tests.pipeline.project import RESULTS, copy_checkout, environment_without

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
NOT_COPIED = ("data/", "docs/sample.png", *RESULTS)
NOT_RUN = ("make lock",)  # needs uv and a package index


class Row(NamedTuple):
    """A row of the table: where to add, the commands to run, the arguments of pytest."""

    places: list[str]
    commands: list[str]
    tests: str


class Before(NamedTuple):
    """A text to insert before an anchor. The anchor occurs once in the file."""

    path: str
    anchor: str
    text: str


class Patch(NamedTuple):
    """An addition. files: the new files, by path. test: its test, in `folder`, with the fixtures of this folder."""

    insertions: list[Before]
    files: dict[str, str]
    test: str
    folder: str = "tests"


def rows() -> dict[str, Row]:
    by_name = {}
    for line in re.findall(r"^\| an? .*$", PAGE, re.M):
        name, touch, run, tests = (cell.strip() for cell in line.strip("| \n").replace("| |", "| - |").split(" | "))
        places = [word for word in re.findall(r"`([^`]+)`", touch) if is_path(word)]
        by_name[name] = Row(places, re.findall(r"`((?:python|make) [^`]+)`", run), tests.strip("`"))
    return by_name


def is_path(word: str) -> bool:
    return " " not in word and ("/" in word or word.endswith((".md", ".toml", ".yaml")))


PATCHES = {
    "a dataset check": Patch(
        [
            Before(
                "rfdetr_core/ingest/rules.py",
                "def _polygons(",
                """
                def _sliver(annotation: Annotation, frame: Frame) -> str | None:
                    width, height = annotation.box[2:]
                    narrow = max(width, height) > 30 * min(width, height)
                    return f"the box is {width:g} wide and {height:g} high" if narrow else None


                """,
            ),
            Before(
                "rfdetr_core/ingest/rules.py",
                ")  # fmt: skip\n\n_OTHERS",
                '    Rule("box-sliver", "warning", "usable", "Draw the box again: it is too narrow.", _sliver),\n',
            ),
            Before(
                "rfdetr_core/ingest/meanings.py",
                '    "area-unlike-box"',
                '    "box-sliver": "One side of a box is more than 30 times as long as the other.",\n',
            ),
            Before(
                "tests/ingest/faults.py",
                '    "area too large":',
                '    "box forty times as wide as high": on("box-sliver", bbox=[2, 20, 60, 1.5], area=90),\n',
            ),
        ],
        {},
        """
        from rfdetr_core.ingest.rules import RULES

        def test_it_has_a_severity_that_params_can_change() -> None:
            assert (RULES["box-sliver"].severity, RULES["box-sliver"].scope) == ("warning", "usable")
        """,
    ),
    "a dataset format": Patch(
        [
            Before(
                "rfdetr_core/ingest/formats/__init__.py",
                ")\n_NAMED",
                "    (table.LAYOUT, table.is_present, table.read),\n",
            ),
            Before("rfdetr_core/ingest/formats/__init__.py", ', ".txt", ".yaml"', ', ".csv"'),
            Before("rfdetr_core/ingest/formats/__init__.py", ", yolo\n", ", table"),
            Before("tests/ingest/samples.py", ", make_plain, make_yolo)\n", ", make_table"),
            Before(
                "tests/ingest/samples.py",
                "# The good dataset in every",
                """
                def make_table(root: Path) -> Path:
                    make_coco(root)
                    for split, images in SPLITS.items():
                        (root / split / "_annotations.coco.json").unlink()
                        lines = ["filename,class,xmin,ymin,xmax,ymax"]
                        for number, objects in enumerate(images, start=1):
                            name = f"{split}_{number}.png"
                            corners = [(NAMES[label], x, y, x + w, y + h) for label, (x, y, w, h) in objects]
                            lines += [",".join(map(str, (name, *one))) for one in corners] or [f"{name},,,,,"]
                        (root / split / "_annotations.csv").write_text("\\n".join(lines) + "\\n")
                    return root


                """,
            ),
            Before(
                "docs/data.md",
                "| YOLO | `data.yaml`",
                "| CSV | `train/_annotations.csv`: filename, class, xmin, ymin, xmax, ymax |\n",
            ),
        ],
        {
            "rfdetr_core/ingest/formats/table.py": '''
                """CSV: a row for each object, and a row without class for an image without objects."""

                from __future__ import annotations

                import csv
                from pathlib import Path

                from rfdetr_core.ingest.findings import Findings
                from rfdetr_core.ingest.records import Annotation, Category, Dataset, ImageRecord, Place, Split

                NAME = "_annotations.csv"
                LAYOUT = f"CSV: train/{NAME} beside the images, also in valid/ and test/"


                def is_present(root: Path) -> bool:
                    """Whether train has the table."""
                    return (root / "train" / NAME).is_file()


                def read(root: Path, findings: Findings) -> Dataset:
                    """Read all splits; the classes are those of train, by name."""
                    tables = {}
                    for split in ("train", "valid", "test"):
                        if (root / split / NAME).is_file():
                            with (root / split / NAME).open(newline="") as table:
                                tables[split] = list(csv.DictReader(table))
                    names = sorted({row["class"] for row in tables["train"] if row["class"]})
                    categories = [Category(number, name) for number, name in enumerate(names)]
                    dataset: Dataset = {}
                    for split, rows in tables.items():
                        images: dict[str, ImageRecord] = {}
                        for line, row in enumerate(rows, start=2):
                            path = f"{split}/{row['filename']}"
                            place = Place(f"{split}/{NAME}", line=line, image=path)
                            record = images.setdefault(path, ImageRecord(path, place))
                            if row["class"]:
                                x, y, right, bottom = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
                                label = names.index(row["class"]) if row["class"] in names else None
                                record.annotations.append(Annotation(place, label, [x, y, right - x, bottom - y]))
                        dataset[split] = Split(Place(f"{split}/{NAME}"), list(images.values()), categories)
                    return dataset
                ''',
        },
        """
        import json
        from pathlib import Path

        from tests.ingest.samples import ingest, make_coco, make_table

        def boxes(files: dict[str, bytes]) -> list[list[list[float]]]:
            splits = [json.loads(files[f"annotations/{split}.json"]) for split in ("train", "valid", "test")]
            return [[one["bbox"] for one in split["annotations"]] for split in splits]

        def test_it_gives_the_boxes_that_coco_gives(tmp_path: Path) -> None:
            table = ingest(make_table(tmp_path / "table"), tmp_path / "from table")
            assert boxes(table) == boxes(ingest(make_coco(tmp_path / "coco"), tmp_path / "from coco"))
        """,
    ),
    "a metric": Patch(
        [
            Before("rfdetr_core/metrics/coco.py", "    per_class: tuple[ClassScores, ...]", "    map_60: float\n"),
            Before(
                "rfdetr_core/metrics/coco.py",
                "    fields: list[Any] =",
                "    map_60 = float(np.nanmean(precisions[2])) if present.any() else float('nan')\n",
            ),
            Before("rfdetr_core/metrics/coco.py", ", per_class, {}]", ", map_60"),
            Before("rfdetr_core/metrics/names.py", '    "F1": "f1",\n', '    "mAP_60": "map_60",\n'),
            Before("rfdetr_core/training/config.py", ', "mar", "f1"]', ', "map_60"'),
        ],
        {},
        """
        import json
        from pathlib import Path

        import numpy as np
        from rfdetr_core.base.paths import ProjectPaths
        from rfdetr_core.evaluation.config import EvaluateConfig
        from rfdetr_core.evaluation.evaluate import evaluate
        from tests.evaluation.scene import make_scene
        from tests.training.test_run import rows
        from tests.training.tiny import train

        def test_it_is_in_the_metrics_and_the_history_and_picks_the_best_epoch(
            where: ProjectPaths, output: Path, tmp_path: Path
        ) -> None:
            scene = make_scene(tmp_path / "scene")
            metrics = evaluate(scene.predictor(), scene.where, EvaluateConfig(pictures=0), tmp_path / "report")
            assert metrics["map_75"] <= metrics["map_60"] <= metrics["map_50"]
            assert json.loads((tmp_path / "report" / "metrics.json").read_text())["map_60"] == metrics["map_60"]
            outs = train(where, output, train={"best_model_metric": "map_60"})
            column = [float(row["val/ema_mAP_60"] or "nan") for row in rows(outs)]
            scores = json.loads(outs["scores.json"])
            assert scores["val/mAP_60"]["ema"] == {"score": max(column), "epoch": int(np.argmax(column)) + 1}
        """,
        "tests/training",
    ),
    "an optimiser": Patch(
        [
            Before(
                "rfdetr_core/training/config.py",
                'PLATEAU = "torch',
                'OPTIMIZERS["signsgd"] = "rfdetr_core.training.optimization.SignSGD"\n',
            ),
            Before(
                "rfdetr_core/training/optimization.py",
                "def build_optimizer(",
                '''
                class SignSGD(Optimizer):
                    """Steps of the size of the learning rate, against the sign of the gradient."""

                    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
                        """Take the groups."""
                        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

                    @torch.no_grad()
                    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
                        """Step."""
                        loss = closure() if closure else None
                        with torch.no_grad():
                            for group in self.param_groups:
                                for parameter in group["params"]:
                                    if parameter.grad is not None:
                                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                                        parameter.sub_(group["lr"] * parameter.grad.sign())
                        return loss


                ''',
            ),
            Before("rfdetr_core/training/optimization.py", "from torch import Tensor, nn\n", "import torch\n"),
        ],
        {},
        """
        from pathlib import Path

        from rfdetr_core.base.paths import ProjectPaths
        from tests.training.tiny import train

        def test_it_trains(where: ProjectPaths, output: Path, uninterrupted: dict[str, bytes]) -> None:
            outs = train(where, output, train={"optimizer": "SignSGD"})
            assert outs["history.csv"] != uninterrupted["history.csv"]
        """,
        "tests/training",
    ),
    "a learning-rate schedule": Patch(
        [
            Before(
                "rfdetr_core/training/schedule.py",
                "# After upstream's",
                """
                def _linear(step: int, warmup: int, per_epoch: int, steps: int, *, end_factor: float) -> float:
                    return 1 - (1 - end_factor) * (step - warmup) / max(1, steps - warmup)


                """,
            ),
            Before(
                "rfdetr_core/training/schedule.py",
                "}\n\n\ndef learning_rate_factor",
                '    "linear": Schedule("falls linearly", {"end_factor": Number(0, "the end", most=1)}, _linear),\n',
            ),
        ],
        {},
        """
        from pathlib import Path

        import pytest

        from rfdetr_core.base.paths import ProjectPaths
        from tests.training.test_run import rows
        from tests.training.tiny import train

        def test_it_trains(where: ProjectPaths, output: Path) -> None:
            asked = {"lr_scheduler": "linear", "lr_scheduler_kwargs": {"end_factor": 0.25}}
            rates = [float(row["train/lr"]) for row in rows(train(where, output, train=asked))]
            assert rates == pytest.approx([0.75e-3, 0.5e-3, 0.25e-3])  # after each of three epochs
        """,
        "tests/training",
    ),
    "a logger": Patch(
        [
            Before(
                "rfdetr_core/observers/loggers.py",
                "LOGGERS = (",
                '''
                class Curves(EpochLogger):
                    """The loss over the epochs as a picture, <run folder>/matplotlib/loss.svg."""

                    key = "matplotlib"

                    def open(self) -> Any:
                        """Begin a list of losses."""
                        return []

                    def send(self, epoch: int, row: Mapping[str, float]) -> None:
                        """Keep the loss."""
                        self.connection.append((epoch, row["train/loss"]))

                    def close(self, failed: bool) -> None:
                        """Draw."""
                        from matplotlib.figure import Figure

                        figure = Figure()
                        figure.subplots().plot(*zip(*self.connection, strict=True))
                        self.local_folder.mkdir(parents=True, exist_ok=True)
                        figure.savefig(self.local_folder / "loss.svg")


                ''',
            ),
            Before("rfdetr_core/observers/loggers.py", "WeightsAndBiases, ClearML)\n", "Curves, "),
            Before("rfdetr_core/training/config.py", '"tensorboard", "wandb", "clearml")', '"matplotlib", '),
            Before(
                "rfdetr_core/training/config.py",
                "    tensorboard: bool",
                '    matplotlib: bool = Field(False, description="draw the loss; needs the extra matplotlib")\n',
            ),
            Before("pyproject.toml", 'tensorboard = ["tensorboard"]', 'matplotlib = ["matplotlib"]\n'),
            Before("requirements/dev.in", "tensorboard\n", "matplotlib\n"),
            Before("docs/dependencies.md", "| extras: tensorboard,", "| matplotlib | the logger matplotlib |\n"),
        ],
        {},
        """
        from pathlib import Path

        import pytest

        from rfdetr_core.base.paths import ProjectPaths
        from tests.training.tiny import train

        def test_it_draws_and_changes_no_byte(
            where: ProjectPaths, output: Path, uninterrupted: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
        ) -> None:
            monkeypatch.setenv("DVC_ROOT", str(output.parent))
            assert train(where, output, runtime={"matplotlib": True}) == uninterrupted
            assert (output / "matplotlib" / "loss.svg").read_text().startswith("<?xml")
        """,
        "tests/observers",
    ),
    "a model variant": Patch(
        [
            Before(
                "rfdetr_core/model/config.py",
                "    # These two are not upstream's",
                '    "micro": Architecture("RFDETRMicro", None, 128, **_SMALLEST | {"queries": 20, "groups": 2}),\n',
            )
        ],
        {},
        """
        import numpy as np

        from rfdetr_core import RFDETRMicro

        def test_its_class_detects() -> None:
            assert len(RFDETRMicro(device="cpu").predict(np.zeros((50, 40, 3), np.uint8), threshold=0.0)) == 20
        """,
    ),
    "a stage": Patch(
        [
            Before("dvc.yaml", "\n  validate:\n", "      - digests/licence.json: {cache: false}\n"),
            Before(
                "dvc.yaml",
                "  evaluate:\n    desc",
                """
                  licence:
                    desc: Say which licence the model is under.
                    cmd: exec python -B -X pycache_prefix=/dev/null -m stages.licence
                    deps:
                      - LICENSE
                      - digests/licence.json
                    outs:
                      - reports/licence.txt: {cache: false}

                """,
            ),
        ],
        {
            "stages/licence.py": '''
                """Stage licence: the licence of the model."""

                from __future__ import annotations

                from pathlib import Path

                from stages import run


                def main() -> None:
                    """Write reports/licence.txt."""
                    from rfdetr_core.base import files

                    files.write_text(Path("reports/licence.txt"), files.read_text(Path("LICENSE")).split()[0] + "\\n")


                if __name__ == "__main__":
                    run(main)
                ''',
        },
        """
        import os
        import subprocess
        import sys
        from pathlib import Path

        from rfdetr_core.base.code import ROOT

        def test_dvc_runs_it_once() -> None:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            command = [sys.executable, "-m", "dvc", "repro", "licence"]
            first, again = (
                subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True)
                for _ in range(2)
            )
            assert first.returncode == again.returncode == 0, first.stdout + first.stderr
            assert (ROOT / "reports" / "licence.txt").read_text() == "Apache\\n"
            ran = ["Running stage 'licence'" in done.stdout for done in (first, again)]
            assert ran == [True, False]
            assert "rfdetr_core/base/files.py" in (ROOT / "digests" / "licence.json").read_text()
        """,
    ),
    "a command": Patch(
        [
            Before(
                "rfdetr_core/cli.py",
                '    publish = add("publish"',
                '    add("variants", models.variants, "list the models and their input sizes")\n',
            ),
            Before(
                "rfdetr_core/commands/models.py",
                "def promote(",
                """
                def variants(options: argparse.Namespace) -> None:
                    \"\"\"Print the models and their input sizes.\"\"\"
                    from rfdetr_core.model.config import VARIANTS

                    print(*(f"{name:20}{one.resolution}" for name, one in VARIANTS.items()), sep="\\n")


                """,
            ),
        ],
        {},
        """
        import pytest

        from rfdetr_core.cli import main

        def test_it_answers(capsys: pytest.CaptureFixture[str]) -> None:
            main(["variants"])
            assert "nano                384" in capsys.readouterr().out
        """,
    ),
    "a training option": Patch(
        [
            Before(
                "rfdetr_core/training/config.py",
                "    weight_decay: float",
                '    lr_factor: float = Field(1.0, gt=0, description="factor of all learning rates")\n',
            ),
            Before(
                "rfdetr_core/training/module.py",
                '        return {"optimizer": optimizer, "lr_scheduler"',
                """
                        for group in optimizer.param_groups:
                            group["lr"] *= config.lr_factor
                """,
            ),
            Before("tests/training/test_options.py", '    {"lr_encoder": 3e-3},', '    {"lr_factor": 2.0},\n'),
        ],
        {},
        """
        from rfdetr_core.base.params import parse
        from rfdetr_core.training.config import TrainConfig

        def test_it_is_read() -> None:
            assert parse(TrainConfig, {"lr_factor": 2}, "train").lr_factor == 2.0
        """,
    ),
    "a package": Patch(
        [
            Before("requirements/runtime.in", "requests\n", "packaging\n"),
            Before("pyproject.toml", ' "requests",', ' "packaging",'),
            Before("docs/dependencies.md", "| requests |", "| packaging | versions, compared |\n"),
        ],
        {},
        """
        import tomllib

        from rfdetr_core.base.code import ROOT

        def test_it_is_declared() -> None:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert "packaging" in project["dependencies"]
        """,
    ),
    "a loss": Patch(
        [
            Before(
                "rfdetr_core/loss/terms.py",
                "# The rows are in the order of the sum",
                """
                def loss_size(matched: Matched) -> Tensor:
                    \"\"\"L1 distance of the logarithms of width and height (P, 2).\"\"\"
                    boxes = (matched.predicted_boxes, matched.target_boxes)
                    predicted, wanted = (both[:, 2:].clamp(min=1e-6).log() for both in boxes)
                    return (predicted - wanted).abs().sum()


                """,
            ),
            Before(
                "rfdetr_core/loss/terms.py",
                ")\n\n\n@dataclass(frozen=True)\nclass LossConfig",
                '    Term("loss_size", "size_loss_coef", loss_size, default=0.0, description="size loss"),\n',
            ),
        ],
        {},
        """
        from pathlib import Path

        from rfdetr_core.observers.history import read_history
        from tests.training.tiny import make_files, train

        def test_its_weight_changes_the_training_and_its_column_is_in_the_history(tmp_path: Path) -> None:
            where = make_files(tmp_path)
            without = train(where, tmp_path / "without", train={"epochs": 1})
            weighted = train(where, tmp_path / "with", train={"epochs": 1, "size_loss_coef": 2.0})
            assert "train/loss_size" in read_history(tmp_path / "with/history.csv")[1]
            assert "train/loss_size" not in read_history(tmp_path / "without/history.csv")[1]
            assert without["checkpoint_best_regular.pth"] != weighted["checkpoint_best_regular.pth"]
        """,
    ),
    "an augmentation": Patch(
        [
            Before(
                "rfdetr_core/data/augmentation.py",
                "@with_keys\n",
                """
                @augmentation("probability of a grey image", most=1)
                def grey(example: Example, value: float, random: Generator) -> Example:
                    \"\"\"Take the colours away.\"\"\"
                    return example.recolour("rgb_to_grayscale", 3) if chance(value, random) else example


                """,
            )
        ],
        {},
        """
        from pathlib import Path

        from rfdetr_core.base.params import parse
        from rfdetr_core.data.augmentation import AugmentConfig
        from rfdetr_core.data.dataset import DetectionDataset, SampleKey
        from rfdetr_core.data.samples import read_samples
        from tests.training.tiny import make_files

        def test_every_image_is_grey(tmp_path: Path) -> None:
            where = make_files(tmp_path)
            config = parse(AugmentConfig, {"grey": 1}, "augmentation")
            images = DetectionDataset(read_samples(*where.split("train")), where.dataset, 64, augmentation=config)
            image = images[SampleKey(0, 1)].image
            assert bool((image[0] == image[1]).all()) and bool((image[1] == image[2]).all())
        """,
    ),
}


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without data and results, in a new repository."""
    folder = tmp_path_factory.mktemp("contributing") / "project"
    copy_checkout(folder, NOT_COPIED)
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "start")
    return folder


@pytest.fixture
def project(copied: Path) -> Iterator[Path]:
    """The copy; it is reset after the test."""
    yield copied
    run(copied, "git", "reset", "-q", "--hard")
    run(copied, "git", "clean", "-q", "-fd")


def run(folder: Path, *command: str) -> str:
    """The output of a command, which must not fail."""
    environment = environment_without("GIT_", "DVC_", "PYTEST_", "PYTHONPATH")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python(folder: Path, arguments: str) -> str:
    return run(folder, sys.executable, *shlex.split(arguments))


def apply(patch: Patch, folder: Path) -> None:
    for path, anchor, text in patch.insertions:
        content = (folder / path).read_text()
        assert content.count(anchor) == 1, f"{path} has {anchor!r} {content.count(anchor)} times"
        (folder / path).write_text(content.replace(anchor, indented(text) + anchor))
    for path, text in patch.files.items():
        (folder / path).write_text(indented(text))
    imports = "from __future__ import annotations\n"
    (folder / patch.folder / "test_addition.py").write_text(imports + indented(patch.test, base=8))


def indented(text: str, base: int = 16) -> str:
    """The text of a file. A text that starts with a line end loses its indentation in this module."""
    if not text.startswith("\n"):
        return text
    return "".join(line[base:] or "\n" for line in text[1:].rstrip(" ").splitlines(keepends=True))


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.slow
def test_a_row_is_all_that_its_addition_takes(name: str, project: Path) -> None:
    patch, row = PATCHES[name], rows()[name]
    apply(patch, project)
    places = [re.escape(place).replace("<name>", r"\w+") for place in row.places]
    for path in {insertion.path for insertion in patch.insertions} | patch.files.keys():
        assert any(re.match(place, path) for place in places), f"{path} is not in the row"
    python(project, "-m ruff check -q rfdetr_core stages")
    for command in row.commands:
        if command not in NOT_RUN:
            command, _, output = command.partition(" > ")
            text = python(project, command.removeprefix("python "))
            if output:
                (project / output).write_text(text)
    tests = row.tests.replace('-k "', '-k "test_addition or ')
    python(project, f"-m pytest -q -x -p no:cacheprovider {patch.folder}/test_addition.py {tests}")


def test_every_row_has_a_patch() -> None:
    assert rows().keys() == PATCHES.keys()


def test_every_path_of_the_page_exists() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    words = {word.partition("::")[0] for text in re.findall(r"`([^`\n]+)`", PAGE) for word in text.split()}
    named = {word for word in words if re.search(r"/|\.(py|js|md|toml|yaml)$", word) and "<" not in word}
    assert {"rfdetr_core/ingest/rules.py", "dvc.yaml", "counts.py"} <= named
    for word in named:
        assert list(ROOT.glob(word)) or any(path.endswith(f"/{word}") for path in listed), word
