from __future__ import annotations

from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import tensor_digest, write_checkpoint
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.evaluation.evaluate import write_lineage
from tests.checkpoint.tiny import tiny_checkpoint


def test_the_lineage_of_an_evaluation_names_its_model_and_inputs(tmp_path: Path) -> None:
    where = ProjectPaths(tmp_path, tmp_path / "annotations", tmp_path / "manifest")
    for path in (where.annotations / "test.json", where.annotations / "classes.json", where.manifests / "test.json"):
        files.write_text(path, path.name)
    checkpoint, model = tiny_checkpoint(0), tmp_path / "model.pth"
    write_checkpoint(model, checkpoint)
    for name in ("first.json", "second.json"):
        write_lineage(tmp_path / name, model, where, EvaluateConfig(), "test", {"device": "cpu"})
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
    lineage = files.read_json(tmp_path / "first.json")
    assert lineage["model"]["tensors"] == tensor_digest(checkpoint.weights)
    assert lineage["model"]["sha256"] == files.sha256_file(model)
    assert {name: identity["sha256"] for name, identity in lineage["inputs"].items()} == {
        "annotations/test.json": files.sha256_bytes(b"test.json"),
        "annotations/classes.json": files.sha256_bytes(b"classes.json"),
        "manifest/test.json": files.sha256_bytes(b"test.json"),
    }
    assert str(tmp_path) not in (tmp_path / "first.json").read_text()
