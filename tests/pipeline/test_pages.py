"""The commands in docs/audit.md and docs/retention.md are run in order, and print what the pages show.

On a page, `...` stands for any lines. A digest on the page stands for one digest of the test's project, the same in
the whole page. Dates and counts are not compared.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from tests.pipeline.project import Project

pytestmark = pytest.mark.slow
_ANY = re.compile(
    r"(?P<cut>[0-9a-f]*\.\.\.)|(?P<name>\b[0-9a-f]{32,64}\b)|(?P<date>\d{4}-\d\d-\d\dT\S+)|(?P<count>\b\d[\d.]*\b)"
)
_SPLIT = "_annotations.coco.json"


@dataclass
class Shown:
    """A command of a page, and the lines that it prints according to the page."""

    command: str
    lines: list[str]


def shown(page: str) -> list[Shown]:
    commands: list[Shown] = []
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if line.startswith("    $ "):
            commands.append(Shown(line[6:], []))
        elif commands and line.startswith("    "):
            commands[-1].lines.append(line[4:])
        elif commands and commands[-1].lines:
            commands[-1].lines.append("")
    for command in commands:
        while command.lines and not command.lines[-1]:
            command.lines.pop()
    return commands


def compare(page: list[str], printed: list[str], names: dict[str, str]) -> None:
    """The printed lines are the lines of the page, in order. Three dots on the page stand for any number of lines."""
    place, skipping = 0, False
    for line in page:
        if line == "...":
            skipping = True
            continue
        pattern, digests = as_pattern(line)
        match = re.fullmatch(pattern, printed[place]) if place < len(printed) else None
        while match is None and skipping and place + 1 < len(printed):
            place += 1
            match = re.fullmatch(pattern, printed[place])
        assert match, "\n".join(["expected", line, "in", *printed])
        for digest, real in zip(digests, match.groups(), strict=True):
            assert names.setdefault(digest, real) == real, f"{digest} stood for {names[digest]}, now for {real}"
        place, skipping = place + 1, False
    assert skipping or place == len(printed), "\n".join(["more was printed:", *printed[place:]])


def as_pattern(line: str) -> tuple[str, list[str]]:
    pattern, at, digests = "", 0, []
    for match in _ANY.finditer(line):
        pattern += re.escape(line[at : match.start()])
        pattern += {"cut": ".*", "name": "([0-9a-f]{32,64})", "date": r"\S+", "count": r"[\d.]+"}[str(match.lastgroup)]
        digests += [match[0]] if match.lastgroup == "name" else []
        at = match.end()
    return pattern + re.escape(line[at:]), digests


def run(project: Project, command: str) -> list[str]:
    done = subprocess.run(
        ["sh", "-c", command], cwd=project.folder, env=project.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout.rstrip("\n").splitlines()


def check(project: Project, example: Shown, names: dict[str, str]) -> None:
    """Run a command of a page, with digests of the page replaced by those of the project."""
    command = re.sub(r"\b[0-9a-f]{64}\b", lambda match: names[match[0]], example.command)
    compare(example.lines, run(project, command), names)


@pytest.fixture(scope="module")
def project(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Trained; a box moved and an image withdrawn; trained again. Copies of both models are in the project."""
    folder = tmp_path_factory.mktemp("pages")
    made = reproduced.copy(folder / "project")
    made.move_data_to_dvc(str(folder / "store"))
    table = made.folder / "data" / "tiny" / "metadata.csv"
    table.write_text(
        "file_name,site,licence\ntrain_0.png,roof,CC-BY-4.0\ntrain_3.png,roof,CC0-1.0\ntest_0.png,field,\n"
    )
    publish(made, "Train on the first data", "first.pth")
    withdraw(made, "train_3.png")
    made.edit_annotations("train", bbox=[20, 21, 9, 9], area=81)
    publish(made, "Withdraw an image, move a box", "second.pth")
    model = read_checkpoint(made.folder / "second.pth")
    name, weights = next(
        (name, tensor) for name, tensor in model.weights.items() if tensor.is_floating_point() and tensor.dim()
    )
    changed = weights.clone()
    changed.view(-1)[0] += 1
    write_checkpoint(made.folder / "swapped.pth", replace(model, weights={**model.weights, name: changed}))
    shutil.copy(made.folder / "first.pth", made.folder / "renamed.pth")
    return made


def publish(project: Project, message: str, copy: str) -> None:
    project.run("dvc", "add", "-q", "data/tiny")
    project.repro()
    project.run("git", "add", "-A", ":!*.pth")
    project.run("git", "commit", "-q", "-m", message)
    project.run("dvc", "push", "-q")
    shutil.copy(project.folder / "output/checkpoint_best_total.pth", project.folder / copy)


def withdraw(project: Project, name: str) -> None:
    folder = project.folder / "data/tiny/train"
    content = json.loads((folder / _SPLIT).read_text())
    (withdrawn_id,) = [image["id"] for image in content["images"] if image["file_name"] == name]
    content["images"] = [image for image in content["images"] if image["id"] != withdrawn_id]
    content["annotations"] = [
        annotation for annotation in content["annotations"] if annotation["image_id"] != withdrawn_id
    ]
    (folder / _SPLIT).write_text(json.dumps(content))
    (folder / name).unlink()


@contextmanager
def committed_without_training(project: Project) -> Iterator[None]:
    """A param is changed and committed as if the model had been trained with it."""
    project.set_params(train={"batch_size": 3})
    project.run("dvc", "commit", "-q", "-f")
    project.run("git", "commit", "-q", "-a", "-m", "Larger batches")
    yield
    project.run("git", "reset", "-q", "--hard", "HEAD~")
    project.run("dvc", "checkout", "-q", "--force")


def test_the_commands_of_the_audit_page_print_its_answers(project: Project) -> None:
    names: dict[str, str] = {}
    commands = shown("audit.md")
    forgeries = [command for command in commands if any("train.batch_size" in line for line in command.lines)]
    assert len(forgeries) == 1
    for command in commands:
        if command in forgeries:
            with committed_without_training(project):
                check(project, command, names)
        else:
            check(project, command, names)


def test_after_each_deletion_of_the_page_its_statements_are_true(project: Project) -> None:
    page = (ROOT / "docs" / "retention.md").read_text()
    gc = [line.split("#")[0].split() for line in page.splitlines() if line.startswith("    dvc gc")]
    commits, workspace, cloud = gc
    cache, store = project.folder / ".dvc/cache/files/md5", project.folder.parent / "store/files/md5"
    first = next(line.split()[-1] for line in run(project, "python -m rfdetr_core audit first.pth") if "  md5 " in line)
    place = Path(first[:2]) / first[2:]
    for command, kept in ((commits, [True, True]), (workspace, [False, True]), (cloud, [False, False])):
        project.run(*command, "-f")
        assert [(folder / place).exists() for folder in (cache, store)] == kept, command
    for example in shown("retention.md"):
        check(project, example, {})
