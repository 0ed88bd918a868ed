"""`verify` names each change made by hand, and reports no mismatch for legitimate changes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.chain import chain_link
from rfdetr_core.base.code import ROOT
from rfdetr_core.checkpoint.files import make_checkpoint, read_checkpoint, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.evaluation.scoring import write_results
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from rfdetr_core.training.config import TrainConfig
from tests.pipeline.project import TINY, Project, add_prose

pytestmark = pytest.mark.slow
DATA, MODEL = Path("data/tiny"), Path("output/checkpoint_best_total.pth")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A committed project, trained from pretrained weights. Dataset and weights are in DVC."""
    project = Project.create(
        tmp_path_factory.mktemp("tampered") / "main", {"model": {"pretrain_weights": "parent.pth"}}
    )
    architecture = ModelConfig.model_validate(TINY["model"]).architecture(classes=2)
    weights = build_detector(architecture).state_dict()
    parent = make_checkpoint(architecture, weights, class_names=["one", "two"], args={})
    write_checkpoint(project.folder / "weights" / "parent.pth", parent)
    project.run("git", "rm", "-r", "-q", "--cached", str(DATA))
    project.run("dvc", "add", "-q", str(DATA), "weights/parent.pth")
    project.commit("dataset and weights")
    project.repro()
    project.commit("trained")
    return project


def verify(capsys: pytest.CaptureFixture[str], project: Project, *arguments: str) -> tuple[list[str], list[str]]:
    """Run `verify`. Returns the names of mismatches and of unchecked things. The exit status must agree."""
    capsys.readouterr()
    try:
        main(["verify", "--repo", str(project.folder), "--json", *arguments])
        status: object = 0
    except SystemExit as ended:
        status = ended.code
    report = json.loads(capsys.readouterr().out)
    wrong = [mismatch["what"] for mismatch in report["mismatches"]]
    assert status == (1 if wrong else 0)
    assert report["holds"] == (not wrong)
    return wrong, [unchecked["what"] for unchecked in report["unchecked"]]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def flip(path: Path, place: int = -20) -> None:
    """Change a byte in place, even if other links to the file exist."""
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    with path.open("r+b") as file:
        file.write(content)


def an_image(folder: Path) -> Path:
    return folder / DATA / "train" / "train_1.png"


def a_pixel(folder: Path) -> None:
    with Image.open(an_image(folder)) as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(an_image(folder))


def swapped(folder: Path) -> None:
    first, second = an_image(folder), folder / DATA / "train" / "train_2.png"
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


def renamed_class(folder: Path) -> None:
    for path in (folder / DATA).rglob("*.json"):
        edit(path, '"red"', '"crimson"')


def a_weight(folder: Path) -> None:
    checkpoint = read_checkpoint(folder / MODEL)
    name = sorted(checkpoint.weights)[0]
    changed = checkpoint.weights[name].clone()
    changed.view(-1)[0] += 1e-3
    write_checkpoint(folder / MODEL, replace(checkpoint, weights=checkpoint.weights | {name: changed}))


def a_lineage_entry(folder: Path) -> None:
    checkpoint = read_checkpoint(folder / MODEL)
    lineage = json.loads(json.dumps(checkpoint.lineage))
    lineage["training"]["counts"]["train"]["objects"] += 1
    write_checkpoint(folder / MODEL, replace(checkpoint, lineage=lineage))


def pretrained(folder: Path) -> None:
    path = folder / "weights" / "parent.pth"
    path.chmod(0o644)
    checkpoint = read_checkpoint(path)
    name = sorted(checkpoint.weights)[0]
    write_checkpoint(path, replace(checkpoint, weights=checkpoint.weights | {name: checkpoint.weights[name] + 1}))


def cached(folder: Path, name: str) -> Path:
    md5 = files.md5_file(folder / name)
    return folder / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def behind_a_hardlink(folder: Path) -> None:
    name = "annotations/valid.json"
    (held := cached(folder, name)).chmod(0o644)
    (folder / name).unlink()
    os.link(held, folder / name)
    flip(folder / name)


def the_run(folder: Path) -> Path:
    path = next((folder / "records").glob("*.json"))
    edit(path, '"run": {', '"run": {"more": 1, ')
    return path


def a_second_record(folder: Path) -> None:
    record = json.loads(next((folder / "records").glob("*.json")).read_text())
    record["lineage"]["tensors"] = "f" * 64
    (folder / "records" / f"{'f' * 64}.json").write_text(json.dumps(record))


def the_out_of_strip(folder: Path) -> None:
    """Also changed in dvc.lock, so that only records/ contradicts it."""
    path = folder / "output" / "record.json"
    before = locked(folder, "output/record.json")
    edit(path, '"run": {', '"run": {"more": 1, ')
    size = path.stat().st_size
    edit(folder / "dvc.lock", before, locked(folder, "output/record.json"))
    edit(folder / "dvc.lock", f"size: {size - 11}", f"size: {size}")


def locked(folder: Path, name: str) -> str:
    return files.md5_file(folder / name)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of an image": (lambda folder: flip(an_image(folder)), "data/tiny/train/train_1.png"),
    "a pixel, re-encoded": (a_pixel, "data/tiny/train/train_1.png"),
    "a box": (
        lambda folder: Project(folder).edit_annotations("valid", bbox=[1, 2, 9, 9]),
        "labels of valid/valid_0.png",
    ),
    "a class name": (renamed_class, "class 0 of manifest/classes.json"),
    "an image renamed": (
        lambda folder: an_image(folder).rename(folder / DATA / "train" / "other.png"),
        "name of data/tiny/train/train_1.png",
    ),
    "two images swapped": (swapped, "data/tiny/train/train_2.png"),
    "an image more": (
        lambda folder: shutil.copy(an_image(folder), folder / DATA / "train" / "other.png"),
        "data/tiny/train/other.png",
    ),
    "a param": (lambda folder: Project(folder).set_params(train={"epochs": 3}), "params.yaml: train.epochs"),
    "a param of validate": (
        lambda folder: Project(folder).set_params(validate={"on_error": "drop"}),
        "params.yaml: validate.on_error",
    ),
    "a line of code": (
        lambda folder: edit(folder / "rfdetr_core/loss/matcher.py", "import", "import "),
        "code rfdetr_core/loss/matcher.py",
    ),
    "a line of validation": (
        lambda folder: edit(folder / "rfdetr_core/ingest/clean.py", "import", "import "),
        "code rfdetr_core/ingest/clean.py",
    ),
    "a digest of code": (lambda folder: edit(folder / "digests/train.json", '": "', '": "0'), "digests/train.json"),
    "the environment lock": (
        lambda folder: edit(folder / "requirements/numeric.lock", "==", "== "),
        "environment lock requirements/numeric.lock",
    ),
    "dvc.lock: an out": (
        lambda folder: edit(folder / "dvc.lock", locked(folder, "output/checkpoint_best_total.pth"), "0" * 32),
        "output/checkpoint_best_total.pth in dvc.lock",
    ),
    "dvc.lock: the dataset": (
        lambda folder: edit(
            folder / "dvc.lock", (folder / f"{DATA}.dvc").read_text().split("md5: ")[1].split()[0], "0" * 32 + ".dir"
        ),
        "data/tiny in data/tiny.dvc",
    ),
    "dvc.lock: a param": (
        lambda folder: edit(folder / "dvc.lock", "epochs: 2", "epochs: 3"),
        "params.yaml: train.epochs",
    ),
    "dvc.lock: a command": (
        lambda folder: edit(folder / "dvc.lock", "-m stages.strip", "-m stages.evaluate"),
        "command of strip",
    ),
    "a .dvc file": (lambda folder: edit(folder / f"{DATA}.dvc", "md5: ", "md5: 0"), "data/tiny in data/tiny.dvc"),
    "a cache object": (
        lambda folder: flip(cached(folder, "output/checkpoint_best_ema.pth")),
        "of output/checkpoint_best_ema.pth",
    ),
    "a cached image": (lambda folder: flip(cached(folder, f"{DATA}/test/test_0.png")), "of data/tiny/test/test_0.png"),
    "a cache object behind a hardlink": (behind_a_hardlink, "of annotations/valid.json"),
    "the manifest": (
        lambda folder: edit(folder / "manifest/test.json", '"width":64', '"width":65'),
        "manifest/test.json",
    ),
    "annotations": (
        lambda folder: edit(folder / "annotations/train.json", '"iscrowd":0', '"iscrowd":1'),
        "annotations/train.json",
    ),
    "scores.json": (
        lambda folder: edit(folder / "output/scores.json", '"epochs": 2', '"epochs": 1'),
        "output/scores.json",
    ),
    "selection.json": (
        lambda folder: edit(folder / "output/selection.json", '"key": "val/mAP', '"key": "val/mAR'),
        "key of output/selection.json",
    ),
    "metrics.json": (
        lambda folder: edit(folder / "reports/evaluate/metrics.json", '"map":', '"map" :'),
        "reports/evaluate/metrics.json",
    ),
    "a weight": (a_weight, "weights of output/checkpoint_best_total.pth"),
    "a byte of the checkpoint": (lambda folder: flip(folder / MODEL, 5000), "output/checkpoint_best_total.pth"),
    "a lineage entry": (a_lineage_entry, "lineage of output/checkpoint_best_total.pth: training.counts.train.objects"),
    "the pretrained weights": (pretrained, "weights/parent.pth"),
    "the record": (
        lambda folder: edit(next((folder / "records").glob("*.json")), '"epochs": 2', '"epochs": 9'),
        "lineage of output/checkpoint_best_total.pth: ",
    ),
    "the file of a record": (
        lambda folder: edit(
            next((folder / "records").glob("*.json")),
            f'"md5": "{locked(folder, str(MODEL))[0]}',
            f'"md5": "{"01"[locked(folder, str(MODEL))[0] == "0"]}',
        ),
        "content of records/",
    ),
    "the run in a record": (the_run, "content of records/"),
    "the run in a record that git does not compare": (
        lambda folder: Project(folder).run(
            "git", "update-index", "--assume-unchanged", f"records/{the_run(folder).name}"
        ),
        "content of records/",
    ),
    "a second record": (a_second_record, "records with the MD5 of output/checkpoint_best_total.pth"),
    "the record beside the model": (the_out_of_strip, "records with the MD5 of output/checkpoint_best_total.pth"),
    "a package that hides a module": (
        lambda folder: files.write_bytes(folder / "rfdetr_core" / "ops" / "boxes" / "__init__.py", b""),
        "code rfdetr_core/ops/boxes/__init__.py",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_whatever_is_tampered_with_is_named(project: Project, capsys: pytest.CaptureFixture[str], case: str) -> None:
    tamper, named = CASES[case]
    tamper(project.folder)
    wrong, _ = verify(capsys, project)
    assert any(named in name for name in wrong), wrong


def test_steps_that_are_of_other_weights_and_a_step_that_was_edited_are_named(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project.folder / "output" / "steps.csv"
    header, *rows = path.read_text().splitlines()
    forged = [header]
    for row in rows:
        *cells, regular, average, _ = row.split(",")
        cells += [regular[::-1], average[::-1]]
        forged.append(",".join([*cells, chain_link(forged[-1], ",".join(cells))]))
    forged[-1] = forged[-1].replace(",", ",1", 1)
    path.write_text("".join(f"{line}\n" for line in forged))
    wrong, _ = verify(capsys, project)
    assert {"output/steps.csv", "break in the chain of output/steps.csv"} <= {*wrong}
    for name in ("ema", "regular", "total"):
        start = f"weights of output/checkpoint_best_{name}.pth, of epoch "
        assert any(mismatch.startswith(start) for mismatch in wrong), wrong


COMMITTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a param": (lambda folder: Project(folder).set_params(train={"lr": 0.5}), "params.yaml: train.lr in dvc.lock"),
    "a param left out": (
        lambda folder: edit(folder / "params.yaml", "  multi_scale: false\n", ""),
        "params.yaml: train.multi_scale in dvc.lock",
    ),
    "a param of evaluate": (
        lambda folder: Project(folder).set_params(evaluate={"pictures": 3}),
        "params.yaml: evaluate.pictures in dvc.lock",
    ),
    "code of train": (
        lambda folder: edit(folder / "rfdetr_core/loss/matcher.py", "import", "import "),
        "code rfdetr_core/loss/matcher.py",
    ),
    "code of strip": (
        lambda folder: edit(folder / "rfdetr_core/selection/strip.py", "import", "import "),
        "code rfdetr_core/selection/strip.py",
    ),
    "code of evaluate": (
        lambda folder: edit(folder / "rfdetr_core/evaluation/scoring.py", "import", "import "),
        "code rfdetr_core/evaluation/scoring.py",
    ),
    "the environment lock": (
        lambda folder: edit(folder / "requirements/numeric.lock", "==", "== "),
        "environment lock requirements/numeric.lock",
    ),
    "scores": (
        lambda folder: edit(folder / "output/scores.json", '"val/mAP', '"val/mAR'),
        "key of output/selection.json",
    ),
    "the split of an evaluation": (
        lambda folder: edit(folder / "reports/evaluate/about.json", '"test"', '"valid"'),
        "split of reports/evaluate/about.json",
    ),
    "metrics": (
        lambda folder: edit(folder / "reports/evaluate/metrics.json", '"objects": 4', '"objects": 5'),
        "objects of reports/evaluate/metrics.json",
    ),
    "a table": (
        lambda folder: edit(folder / "reports/evaluate/per_class.csv", ",2,", ",3,"),
        "reports/evaluate/per_class.csv line 2",
    ),
    "labels": (
        lambda folder: Project(folder).edit_annotations("train", bbox=[1, 2, 9, 9]),
        "labels of train/train_0.png",
    ),
}


@pytest.mark.parametrize("case", COMMITTED)
def test_a_lock_that_was_committed_without_running_is_found(
    project: Project, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    tamper, named = COMMITTED[case]
    tamper(project.folder)
    if case == "labels":
        project.run("dvc", "add", "-q", str(DATA))
    if case.startswith("code"):
        project.repro("code")  # so that only the lineage contradicts
    project.run("dvc", "commit", "-f", "-q")
    project.commit("not run")
    wrong, _ = verify(capsys, project)
    assert any(named in name for name in wrong), wrong
    if case not in ("labels", "metrics", "a table"):  # dataset and detections are not in git
        wrong, _ = verify(capsys, project, "--lock")
        assert any(named in name for name in wrong), wrong


def test_what_the_lock_agrees_with_is_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that really ran, versions of packages, and a module that shadows another."""
    folder = project.folder
    edit(folder / "dvc.yaml", "-m stages.evaluate", "-m stages.evaluate && exec python polish.py")
    evaluation = folder / "reports/evaluate/lineage.json"
    version = json.loads(evaluation.read_text())["packages"]["numpy"]
    edit(evaluation, f'"numpy": "{version}"', '"numpy": "1.0.0"')
    (folder / "statistics.py").write_text("")
    project.run("dvc", "commit", "-f", "-q")
    project.commit("quiet")
    wrong, _ = verify(capsys, project, "--lock")
    assert wrong == [
        "command of evaluate",
        "code statistics.py",
        "version of numpy in reports/evaluate/lineage.json",
    ]


@pytest.mark.parametrize("deleted", ["records", "manifest", "reports", "output"])
def test_deleting_contradicting_files_does_not_hide_a_forgery(
    project: Project, capsys: pytest.CaptureFixture[str], deleted: str
) -> None:
    project.set_params(train={"lr": 0.5})
    project.run("dvc", "commit", "-f", "-q")
    project.run("git", "rm", "-r", "-q", deleted)
    project.commit("not run, and deleted")
    for arguments in ([], ["--lock"]):
        wrong, _ = verify(capsys, project, *arguments)
        assert "params.yaml: train.lr in dvc.lock" in wrong
        assert any(name.startswith(f"{deleted}/") for name in wrong), wrong


def test_a_record_of_another_run_is_reported_until_it_is_reverted(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    the_run(project.folder)
    project.commit("nothing to see")
    wrong, _ = verify(capsys, project)
    assert any(name.startswith("run of records/") for name in wrong)
    project.run("git", "revert", "--no-edit", "HEAD")
    assert verify(capsys, project) == ([], [])


def rewritten(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def a_pixel_of_a_picture(folder: Path) -> None:
    path = next((folder / "reports/evaluate/pictures").glob("*.png"))
    with Image.open(path) as picture:
        changed = picture.copy()
    changed.putpixel((5, 5), (1, 2, 3))
    path.unlink()
    changed.save(path)


# Results that were not computed, all in one `dvc commit`.
UNRUN: dict[str, tuple[Callable[[Path], object], str]] = {
    "the page of the dataset": (
        lambda folder: edit(folder / "reports/dataset/index.html", "</title>", " (approved)</title>"),
        "reports/dataset/index.html, recomputed",
    ),
    "the page of the evaluation": (
        lambda folder: edit(folder / "reports/evaluate/index.html", "</title>", " (approved)</title>"),
        "reports/evaluate/index.html, recomputed",
    ),
    "a picture": (a_pixel_of_a_picture, "reports/evaluate/pictures/best_1.png"),
    "a key more in metrics": (
        lambda folder: rewritten(
            folder / "reports/evaluate/metrics.json", lambda content: content.update(sensitivity=0.999)
        ),
        "sensitivity of reports/evaluate/metrics.json",
    ),
    "a key more in the lineage of the evaluation": (
        lambda folder: rewritten(
            folder / "reports/evaluate/lineage.json", lambda content: content.update(certified=True)
        ),
        "certified of reports/evaluate/lineage.json",
    ),
    "a key more in the intervals": (
        lambda folder: rewritten(
            folder / "reports/evaluate/intervals.json", lambda content: content.update(clinical=0.9)
        ),
        "clinical of reports/evaluate/intervals.json",
    ),
    "a threshold": (
        lambda folder: rewritten(folder / "reports/evaluate/thresholds.json", lambda content: content.update(images=7)),
        "images of reports/evaluate/thresholds.json",
    ),
    "a key more in the statistics": (
        lambda folder: rewritten(folder / "reports/dataset/statistics.json", lambda content: content.update(sites=9)),
        "reports/dataset/statistics.json, recomputed",
    ),
    "a score that the history does not have": (
        lambda folder: rewritten(
            folder / "output/scores.json", lambda content: content["val/mAP_50"]["ema"].update(score=0.9)
        ),
        "val/mAP_50.ema.score of output/scores.json",
    ),
}


def test_results_that_were_committed_without_running_are_made_again_and_named(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for forge, _ in UNRUN.values():
        forge(project.folder)
    project.run("dvc", "commit", "-f", "-q")
    project.commit("not run")
    wrong, _ = verify(capsys, project)
    assert [case for case, (_, named) in UNRUN.items() if named not in wrong] == [], wrong


def test_scores_and_detections_that_agree_with_all_the_rest_are_named_by_running_the_model_again(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The history, its scores, the winner that they choose, the model file and its detections are forged."""
    output, reports = project.folder / "output", project.folder / "reports" / "evaluate"
    header, *rows = (line.split(",") for line in (output / "history.csv").read_text().splitlines())
    rows[-1][header.index("val/ema_mAP_50")] = "0.75"
    (output / "history.csv").write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    rewritten(output / "scores.json", lambda content: content["val/mAP_50"].update(ema={"score": 0.75, "epoch": 2}))
    files.write_json(output / "selection.json", select(files.read_json(output / "scores.json")))
    strip(output, files.read_json(output / "selection.json"), project.folder / MODEL, project.folder / "records")
    detections = json.loads((reports / "detections.json").read_text())
    write_results(reports / "detections.json", [detections[0] | {"score": 0.9}, *detections[1:]], "bbox")
    project.run("dvc", "commit", "-f", "-q", "train", "select_best", "strip", "evaluate")
    wrong, _ = verify(capsys, project, "--rescore")
    assert "val/ema_mAP_50 of epoch 2 in output/history.csv" in wrong
    assert any(name.startswith("reports/evaluate/detections.json line ") for name in wrong)


def test_another_result_of_the_same_inputs_is_reported(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project.folder / "output/history.csv", "\n1,", "\n1,1")
    project.run("dvc", "commit", "-f", "-q", "train", "report")  # report reads history.csv
    project.commit("another history")
    with pytest.raises(SystemExit):
        main(["verify", "--repo", str(project.folder)])
    printed = capsys.readouterr().out
    assert "has other results of train for the same inputs: output/history.csv" in printed
    assert re.search(r"^output/history\.csv in dvc\.lock: expected .*\(journal/train-", printed, re.MULTILINE), printed


def test_what_is_clean_holds(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(capsys, trained) == ([], [])
    assert verify(capsys, trained, "--lock")[0] == []


def test_after_a_commit_of_comments_everything_holds_and_is_reproduced_to_the_byte(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (path for package in ("rfdetr_core", "stages") for path in (project.folder / package).rglob("*.py")):
        add_prose(path)
    project.commit("comments")
    assert verify(capsys, project) == ([], [])
    assert verify(capsys, project, "--lock")[0] == []
    assert verify(capsys, project, "--reproduce") == ([], [])


def test_reproduction_names_the_first_stage_and_epoch_that_differ(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.set_params(train={"seed": 5})
    project.run("dvc", "commit", "-f", "-q")
    project.commit("not run")
    with pytest.raises(SystemExit):
        main(["verify", "--reproduce", "--repo", str(project.folder)])
    printed = capsys.readouterr().out
    assert "note: first stage that differs: train, from step 1 on, in epoch 1 (loss " in printed
    assert "output/checkpoint_best_ema.pth: expected" in printed
    assert "annotations/train.json" not in printed


def test_a_fresh_clone_holds_and_says_what_it_cannot_check(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.run("git", "clone", "-q", str(trained.folder), str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    assert verify(capsys, clone, "--lock")[0] == []
    wrong, unchecked = verify(capsys, clone)
    assert wrong == []
    assert {"images and labels in data/tiny", str(MODEL), "weights/parent.pth"} <= set(unchecked)
    trained.run("git", "clone", "-q", "-c", "core.autocrlf=true", str(trained.folder), str(tmp_path / "windows"))
    assert verify(capsys, Project(tmp_path / "windows"), "--lock")[0] == []
    edit(clone.folder / "params.yaml", "epochs: 2", "epochs: 7")
    assert verify(capsys, clone, "--lock")[0] == ["params.yaml: train.epochs"]


def test_an_experiment_that_was_run_and_applied_holds(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("dvc", "exp", "run", "-q", "-n", "shorter", "-S", "train.epochs=1")
    assert verify(capsys, project)[0] == []
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "-q")
    assert verify(capsys, project)[0] == []
    project.run("dvc", "exp", "apply", "-q", "shorter")
    assert verify(capsys, project)[0] == []


def test_stray_files_and_explicit_defaults_raise_no_alarm(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    loss = project.folder / "rfdetr_core" / "loss"
    for name in ("matcher.py.orig", "matcher.py.rej", "matcher.py~", ".matcher.py.swp", "#matcher.py#"):
        (loss / name).write_text("left by an editor or a merge")
    (project.folder / "notes.txt").write_text("not committed")
    (loss / "matcher.py").chmod(0o600)
    (project.folder / "data" / "tiny" / "train" / "_annotations.coco.json").chmod(0o444)
    project.set_params(train={"weight_decay": TrainConfig().weight_decay})
    project.run("git", "config", "core.fileMode", "false")
    for arguments in ([], ["--lock"]):
        assert verify(capsys, project, *arguments)[0] == []
    main(["verify", "--lock", "--repo", str(project.folder)])
    assert "params.yaml: train lists defaults that dvc.lock leaves out" in capsys.readouterr().out


def test_after_a_checkout_of_git_alone_one_line_says_what_to_run(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("output/checkpoint_best_total.pth", "output/checkpoint_best_ema.pth", "annotations/valid.json"):
        path = project.folder / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content + b" ")
    project.run("dvc", "commit", "-f", "-q")
    project.commit("other results")
    project.run("git", "checkout", "-q", "HEAD~1")
    (line,) = verify(capsys, project)[0]
    assert line.startswith("files that DVC keeps: ")
    project.run("dvc", "checkout", "-q")
    assert verify(capsys, project) == ([], [])


def test_after_gc_and_rebase_and_touching_it_holds(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.run("dvc", "gc", "-w", "-f", "-q")
    project.run("git", "checkout", "-q", "-b", "other", "HEAD~1")
    (project.folder / "README.md").write_text("other\n")
    project.commit("other")
    project.run("git", "checkout", "-q", "-")
    project.run("git", "rebase", "-q", "other")
    for path in [*(project.folder / "data").rglob("*"), *(project.folder / "rfdetr_core").rglob("*.py")]:
        path.touch()
    assert verify(capsys, project) == ([], [])


def test_labels_that_are_written_otherwise_and_mean_the_same_hold(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (project.folder / DATA).rglob("*.json"):
        content = json.loads(path.read_text())
        content = {key: content[key][::-1] for key in sorted(content)}
        path.unlink()
        path.write_text(json.dumps(content, indent=3))
    (project.folder / "params.yaml").write_text("# a comment\n" + (project.folder / "params.yaml").read_text())
    assert verify(capsys, project) == ([], [])


def test_a_withdrawn_image_is_gone_and_no_alarm(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    held = cached(project.folder, str(an_image(Path())))
    held.unlink()
    an_image(project.folder).unlink()
    wrong, unchecked = verify(capsys, project)
    assert wrong == []
    assert "image data/tiny/train/train_1.png" in unchecked
    # The remaining images are still checked.
    project.edit_annotations("train", bbox=[1, 2, 9, 9])
    assert any("labels of train/train_0.png" in name for name in verify(capsys, project)[0])


def test_a_copy_elsewhere_is_checked_against_the_history(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone, copy = Project(tmp_path / "clone"), tmp_path / "renamed.pth"
    trained.run("git", "clone", "-q", str(trained.folder), str(clone.folder))
    shutil.copy(trained.folder / MODEL, copy)
    assert verify(capsys, clone, str(copy))[0] == []
    checkpoint = read_checkpoint(copy)
    torch.save({"model": checkpoint.weights, "args": checkpoint.args}, tmp_path / "other.pth")
    (tmp_path / "output").mkdir()
    shutil.copy(copy, tmp_path / MODEL)
    for tamper, named in ((a_weight, "weights of"), (a_lineage_entry, "training.counts.train.objects")):
        shutil.copy(copy, tmp_path / MODEL)
        tamper(tmp_path)
        assert any(named in name for name in verify(capsys, clone, str(tmp_path / MODEL))[0])


@pytest.mark.parametrize("module", ["rfdetr_core/selection/select.py", "stages/__init__.py"])
def test_committed_bytecode_is_not_run_and_is_named(
    project: Project, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    """Bytecode that Python would run without reading the source: unchecked, or with the hash of the original source."""
    path, marker = project.folder / module, project.folder / "ran"
    honest = path.read_bytes()
    forged = f"{honest.decode()}\nopen({str(marker)!r}, 'w').write('the bytecode ran')\n"
    code = compile(forged.replace("from __future__ import annotations\n", ""), str(path), "exec", dont_inherit=True)
    compiled = importlib._bootstrap_external._code_to_hash_pyc(code, importlib.util.source_hash(honest), True)  # type: ignore[attr-defined]
    place = Path(importlib.util.cache_from_source(str(path)))
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(compiled)
    project.run("git", "add", "-f", str(place))
    project.commit("quiet")
    project.run(sys.executable, "-c", f"import {'.'.join(path.relative_to(project.folder).with_suffix('').parts)}")
    assert marker.exists()  # proof that Python would run it
    marker.unlink()

    before = (project.folder / "output" / "selection.json").read_bytes()
    assert project.repro("--single-item", "--force", "select_best") == ["select_best"]
    assert not marker.exists()
    assert (project.folder / "output" / "selection.json").read_bytes() == before
    name = place.relative_to(project.folder).as_posix()
    assert verify(capsys, project, "--lock")[0] == [f"bytecode {name}"]
    check = ["-B", "-X", "pycache_prefix=/dev/null", "-m", "rfdetr_core", "check"]  # as the Makefile runs it
    for command in (check, ["-m", "rfdetr_core", "verify", "--reproduce", "--repo"]):
        trusted = command[-1] == "--repo"
        done = subprocess.run(
            [sys.executable, *command, *([str(project.folder)] if trusted else [])],
            cwd=ROOT if trusted else project.folder,
            env=project.environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, done
        assert f"git tracks compiled modules: {name}" in done.stderr
    assert not marker.exists()
