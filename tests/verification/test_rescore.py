"""Models run again without training: true results are silent; forged scores, weights and detections are reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.base import environment, files
from rfdetr_core.base.code import Code
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import evaluate, machine_of, write_lineage
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.lineage.lock import Entry, Lock
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.rescore import check_detections, check_valid, compare_detections
from tests.training.tiny import MODEL, TRAIN, make_files, train

TOTAL, EVALUATION = Path("output/checkpoint_best_total.pth"), Path("reports/evaluate")
CHANGES: dict[str, dict[str, Any]] = {
    "float32, losses and classes": {"compute_val_loss": True, "log_per_class_metrics": True},
    "bfloat16": {"amp_dtype": "bf16", "epochs": 1},
    "without an average": {"use_ema": False, "epochs": 1},
}


class Trained:
    """A project with a real training, selection and evaluation, and the matching dvc.lock."""

    def __init__(self, folder: Path, changes: dict[str, Any]) -> None:
        self.folder, self.changes = folder, changes

    def make(self) -> Trained:
        output = self.folder / "output"
        where = make_files(self.folder)
        train(where, output, train=self.changes)
        (self.folder / "dvc.yaml").touch()
        selection = select(files.read_json(output / "scores.json"))
        strip(output, selection, self.folder / TOTAL, self.folder / "records")
        predictor, config = Predictor.from_checkpoint(self.folder / TOTAL), EvaluateConfig(split="valid")
        evaluate(predictor, where, config, self.folder / EVALUATION)
        machine = machine_of(predictor)
        origin = self.folder / EVALUATION / "lineage.json"
        write_lineage(origin, self.folder / TOTAL, where, config, "valid", machine)
        return self

    def copy(self, folder: Path) -> Trained:
        shutil.copytree(self.folder, folder)
        return Trained(folder, self.changes)

    def check(self) -> Report:
        params = {
            "train": {"model": MODEL, "train": TRAIN | self.changes},
            "evaluate": {"evaluate": {"split": "valid"}},
        }
        entries = {}
        for stage, values in params.items():
            digests = files.md5_bytes(files.json_text(Code().digests_of(stage)).encode())
            names = ("detections.json", "masks.json") if stage == "evaluate" else ()
            paths = [EVALUATION / name for name in names]
            outs = [{"path": str(path), "md5": files.md5_file(self.folder / path)} for path in paths]
            deps = [{"path": f"digests/{stage}.json", "md5": digests}]
            raw = {"cmd": f"python -m stages.{stage}", "deps": deps, "outs": outs, "params": {"params.yaml": values}}
            entries[stage] = Entry.of(raw)
        report, contents, pipeline = Report(), Contents(self.folder), Pipeline({}, Lock(entries))
        check_valid(report, contents, pipeline, "data")
        check_detections(report, contents, pipeline, "data")
        return report

    def named(self) -> list[str]:
        return [subject for subject, *_ in self.check().mismatches]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("rescored") / "made", CHANGES["float32, losses and classes"]).make()


@pytest.fixture
def project(trained: Trained, tmp_path: Path) -> Trained:
    return trained.copy(tmp_path / "copy")


@pytest.mark.parametrize("changes", CHANGES)
def test_every_value_of_the_best_epochs_on_valid_and_every_detection_is_found_again(
    trained: Trained, tmp_path: Path, changes: str
) -> None:
    project = trained if CHANGES[changes] == trained.changes else Trained(tmp_path, CHANGES[changes]).make()
    before = torch.get_num_threads()
    report = project.check()
    assert (report.lines()[:-1], torch.get_num_threads()) == ([], before)
    tracks = 1 if changes == "without an average" else 2
    assert report.checked >= 8 * tracks + 2
    assert any(float(value or 0) > 0 for value in _row(project, "val/mAP_50_95"))


def _row(project: Trained, column: str) -> list[str]:
    lines = [line.split(",") for line in (project.folder / "output/history.csv").read_text().splitlines()]
    return [line[lines[0].index(column)] for line in lines[1:]]


def a_score(project: Trained) -> None:
    """Raise the score of both tracks in every epoch of history.csv."""
    path = project.folder / "output" / "history.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for column in ("val/mAP_50_95", "val/ema_mAP_50_95"):
        place = lines[0].index(column)
        for line in lines[1:]:
            line[place] = repr(float(line[place]) + 0.25)
    path.write_text("\n".join(",".join(line) for line in lines) + "\n")


def weights(project: Trained) -> None:
    """Put the regular weights into the best file of the EMA track. The other content of the file stays."""
    regular, ema = (project.folder / f"output/checkpoint_best_{track}.pth" for track in ("regular", "ema"))
    checkpoint = read_checkpoint(ema)
    write_checkpoint(ema, replace(checkpoint, weights=read_checkpoint(regular).weights))


def a_detection(project: Trained) -> None:
    path = project.folder / EVALUATION / "detections.json"
    rows = json.loads(path.read_text())
    rows[0]["score"] = 0.875
    path.write_text("[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]\n")


def the_result(project: Trained) -> None:
    checkpoint = read_checkpoint(project.folder / TOTAL)
    changed = {name: value * 1.01 if "class_head.bias" in name or "class_embed" in name else value
               for name, value in checkpoint.weights.items()}  # fmt: skip
    write_checkpoint(project.folder / TOTAL, replace(checkpoint, weights=changed))


FORGED: dict[str, tuple[Callable[[Trained], None], list[str]]] = {
    "scores of both tracks": (
        a_score,
        ["val/mAP_50_95 of epoch 2 in output/history.csv", "val/ema_mAP_50_95 of epoch 2 in output/history.csv"],
    ),
    "weights of another track": (weights, ["val/ema_loss of epoch 2 in output/history.csv"]),
    "a detection": (a_detection, ["reports/evaluate/detections.json line 2"]),
    "weights of the result": (the_result, ["reports/evaluate/detections.json line 2"]),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_was_forged_is_named(project: Trained, case: str) -> None:
    forge, expected = FORGED[case]
    forge(project)
    assert set(expected) <= set(project.named())


def test_on_another_processor_last_digits_may_differ_and_forgeries_are_still_named(
    project: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project.folder / EVALUATION / "detections.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row | {"score": row["score"] + 1e-5} for row in rows]))
    monkeypatch.setattr(environment, "processor", lambda: "another")
    report = project.check()
    assert not report.mismatches
    assert any("another kind of machine (processor" in note for note in report.notes)
    path.write_text(json.dumps([rows[0] | {"score": rows[0]["score"] + 0.05}, *rows[1:]]))
    a_score(project)
    wrong = project.named()
    assert "detections of reports/evaluate/detections.json" in wrong
    assert "val/mAP_50_95 of epoch 2 in output/history.csv" in wrong


def test_missing_files_are_not_checked(project: Trained) -> None:
    for path in (project.folder / "data" / "valid").iterdir():
        path.unlink()
    report = project.check()
    assert not report.mismatches
    assert [*report.unchecked] == ["scores on valid", "detections, recomputed"]
    for path in (project.folder / "output").glob("*.pth"):
        path.unlink()
    report = project.check()
    assert not report.mismatches
    assert [*report.unchecked] == ["scores on valid", "detections, recomputed"]


def test_without_the_best_files_the_result_is_scored(project: Trained) -> None:
    for track in ("regular", "ema"):
        (project.folder / f"output/checkpoint_best_{track}.pth").unlink()
    assert project.check().lines()[:-1] == []
    a_score(project)
    assert len(project.named()) == 1


ROW = {"image_id": 1, "category_id": 0, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.6}
OTHER: dict[str, list[dict[str, Any]]] = {
    "one less": [],
    "one more": [ROW, ROW | {"score": 0.01}],
    "another score": [ROW | {"score": 0.5}],
    "another class": [ROW | {"category_id": 1}],
    "another place": [ROW | {"bbox": [14.0, 10.0, 20.0, 20.0]}],
    "another image": [ROW | {"image_id": 2}],
}


@pytest.mark.parametrize("case", OTHER)
def test_other_detections_are_named_by_their_image(case: str) -> None:
    for recomputed, stored in ((OTHER[case], [ROW]), ([ROW], OTHER[case])):
        report = Report()
        compare_detections(report, recomputed, stored, {1: "a.jpg"})
        ((_, _, actual),) = report.mismatches
        assert actual.startswith("other scores or boxes in a.jpg")
    report = Report()
    close = ROW | {"score": 0.601, "bbox": [10.1, 10.0, 20.0, 20.0]}
    compare_detections(report, [ROW, ROW | {"score": 0.05, "bbox": [0.0, 0.0, 1.0, 1.0]}],
                       [ROW | {"score": 0.05, "bbox": [9.0, 9.0, 1.0, 1.0]}, close], {1: "a.jpg"})  # fmt: skip
    assert not report.mismatches


@pytest.mark.parametrize("flag", ["--deep", "--rescore"])
@pytest.mark.parametrize("other", ["--lock", "--reproduce", "model.pth"])
def test_it_adds_to_the_plain_check_alone(flag: str, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=rf"{flag} (and --\w+ cannot be combined|checks the project)"):
        main(["verify", flag, other])
    assert capsys.readouterr().out == ""
