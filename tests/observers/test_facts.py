from __future__ import annotations

from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT, Code
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from tests.training.tiny import make_files, train


def test_facts_of_a_run_are_in_its_record_and_change_no_result(tmp_path: Path) -> None:
    where = make_files(tmp_path / "files")
    outs, first, second = {}, tmp_path / "first", tmp_path / "again"
    for output in (first, second):
        outs[output] = train(where, output, train={"epochs": 1})
        strip(output, select(files.read_json(output / "scores.json")), output / "total.pth", output / "records")
    assert outs[first] == outs[second]
    assert (first / "total.pth").read_bytes() == (second / "total.pth").read_bytes()
    (path,) = (first / "records").iterdir()
    run = files.read_json(path)["run"]
    noted = files.read_json(first / "run.json")["run"]
    assert run == noted | {"code_of_strip": run["code_of_strip"]}
    assert {path: files.sha256_file(ROOT / path) for path in noted["code"]} == noted["code"]
    assert noted["code"].keys() == Code().digests("stages.train").keys()
    assert run["seconds"] > 0
    assert {"parent_commit", "dirty", "host", "started"} <= run.keys()
    assert path.name in {record.name for record in (second / "records").iterdir()}
