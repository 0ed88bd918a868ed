from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from rfdetr_core.base import files
from rfdetr_core.base.manifest import read_manifest, roots
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.files import read_checkpoint
from rfdetr_core.documents.bom import bom
from rfdetr_core.documents.facts import Facts, collect
from rfdetr_core.documents.limits import limits
from tests.audit.exported import export
from tests.audit.repository import Repository
from tests.documents.scored import ENDS, LICENCES, reports, scored_repository

MODEL = "output/checkpoint_best_total.pth"
LOCK = "requirements/numeric.lock"
HASHES = {"numpy": ["1" * 64, "2" * 64], "torch": ["3" * 64], "scipy": ["4" * 64]}
LOCKED = f"""\
# made by hand
numpy==2.4.6 \\
    --hash=sha256:{HASHES["numpy"][0]} \\
    --hash=sha256:{HASHES["numpy"][1]}
scipy==1.17.1 \\
    --hash=sha256:{HASHES["scipy"][0]}
Typing.Extensions==4.0.0
colorama==0.4.6 ; sys_platform == 'win32'
tomli==1.0 ; python_version < '3'
tomli==2.0 ; python_version >= '3'
torch==2.15.0 ; sys_platform != 'emscripten' \\
    --hash=sha256:{HASHES["torch"][0]}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return scored_repository(tmp_path / "clone")


def written(facts: Facts) -> dict[str, Any]:
    """The document, after checking it with the official schema and checking its references."""
    text = bom(facts)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    content: dict[str, Any] = json.loads(text)
    defined = [node["bom-ref"] for node in objects(content) if "bom-ref" in node]
    assert len(defined) == len(set(defined))
    card = content["metadata"]["component"]["modelCard"]
    used = [entry["ref"] for entry in (*content["dependencies"], *card["modelParameters"]["datasets"])]
    assert {*used, *(name for entry in content["dependencies"] for name in entry.get("dependsOn", []))} <= {*defined}
    return content


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(child)


def component(content: dict[str, Any], reference: str) -> dict[str, Any]:
    return next(node for node in objects(content) if node.get("bom-ref") == reference)


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {pair["name"]: pair["value"] for pair in component.get("properties", [])}


def sha256(component: dict[str, Any]) -> list[str]:
    return [pair["content"] for pair in component.get("hashes", []) if pair["alg"] == "SHA-256"]


def test_model_datasets_parents_and_code_are_those_of_the_record(repository: Repository) -> None:
    repository.git("remote", "add", "origin", "https://ada:secret@example.org/team/my project.git")
    facts = collect(repository.folder / MODEL, repository.folder)
    content = written(facts)
    model, train = content["metadata"]["component"], component(content, "dataset/train")
    lineage = read_checkpoint(repository.folder / MODEL).lineage or {}
    assert sha256(model) == [files.sha256_file(repository.folder / MODEL)]
    assert properties(model)["rfdetr:tensors:sha256"] == lineage["tensors"]
    manifest = repository.manifest("train")
    assert sha256(component(train, "dataset/train/manifest/train.json")) == [files.sha256_file(manifest)]
    for name, tree in roots(read_manifest(manifest)).items():
        assert properties(train)[f"rfdetr:merkle:{name}"].startswith(tree["root"])
    assert train["licenses"] == [{"license": {"id": LICENCES["train/a.jpg"]["licence"]}}]
    assert properties(train)["rfdetr:source"] == "To be filled in by the provider."
    for place in "weights", "ancestor":
        parent = component(content, f"{place}/pretrain_weights")
        assert (parent["name"], sha256(parent)) == ("promoted.pth", ["0" * 64])
    code = component(content, "code")
    assert code["version"] == repository.git("rev-parse", "HEAD")
    assert code["externalReferences"][0]["url"] == "https://example.org/team/my%20project.git"
    assert "timestamp" not in content["metadata"]  # it would be the time of writing
    assert properties(model)["rfdetr:training:ended"] == "2026-01-02T01:05:05Z"
    by_model = next(entry for entry in content["dependencies"] if entry["ref"] == "model")
    datasets = {"dataset/train", "dataset/valid", "dataset/test"}
    assert {*by_model["dependsOn"]} == {*datasets, "weights/pretrain_weights", "code"}


def test_the_scores_of_the_model_card_have_intervals_classes_and_slices(repository: Repository) -> None:
    facts = collect(repository.folder / MODEL, repository.folder)
    metrics = written(facts)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    by_name = {(metric["type"], metric["slice"]): metric for metric in metrics}
    scores = files.read_json(reports(repository) / "metrics.json")
    for name, ends in ENDS.items():
        metric = by_name[f"boxes: {name}", "split: test"]
        assert float(metric["value"]) == scores[name]
        assert [float(metric["confidenceInterval"][end]) for end in ("lowerBound", "upperBound")] == ends
    assert "confidenceInterval" not in by_name["boxes: precision", "split: test"]
    assert {"class: class 0", "class: class 1", "metadata: licence: CC0-1.0"} <= {part for _, part in by_name}
    assert len(by_name) == len(metrics)


@pytest.mark.parametrize("place", ["the project", "its history", "nowhere", "no lock"])
def test_packages_have_the_hashes_of_the_recorded_lock_alone(repository: Repository, place: str) -> None:
    path = repository.folder / LOCK
    path.parent.mkdir()
    path.write_text(LOCKED if place != "nowhere" else "numpy==2.4.6 --hash=sha256:" + "9" * 64)
    repository.git("add", LOCK)
    repository.git("commit", "-q", "-m", "Lock")
    if place == "its history":
        path.write_text("numpy==9.9.9\n")
    facts = collect(repository.folder / MODEL, repository.folder)
    lock = None if place == "no lock" else files.sha256_bytes(LOCKED.encode())
    packages = {"python": "3.11.7", "torch": "2.15.0", "numpy": "2.4.6", "scipy": "1.0.0"}
    recorded = facts.training | {"packages": packages, "lock": lock}
    content = written(replace(facts, lineage=facts.lineage | {"training": recorded}))
    components = [component for component in content["components"] if component["bom-ref"].startswith("package/")]
    by_name = {component["name"]: component for component in components}
    has_lock = place in ("the project", "its history")
    assert {name: component["version"] for name, component in by_name.items() if name in packages} == packages
    assert all(by_name[name]["scope"] == "required" for name in packages if name != "python")
    others = sorted(
        (component["name"], component["version"], component["scope"])
        for component in components
        if component["name"] not in packages
    )
    # A package whose marker does not hold is not installed, so the record does not have it.
    assert others == (
        [
            ("colorama", "0.4.6", "optional"),
            ("tomli", "1.0", "optional"),
            ("tomli", "2.0", "optional"),
            ("typing-extensions", "4.0.0", "required"),
        ]
        if has_lock
        else []
    )
    locked = {
        name: sha256(component["externalReferences"][0])
        for name, component in by_name.items()
        if name in HASHES and "externalReferences" in component
    }
    # The training ran with another version of scipy than the lock has. So the hashes in the lock are of other files.
    assert locked == ({name: HASHES[name] for name in ("numpy", "torch")} if has_lock else {})


def test_it_is_valid_without_history_and_evaluation_and_of_an_exported_file(
    repository: Repository, tmp_path: Path
) -> None:
    (model,) = export(repository, "model.onnx")
    repository.commit("Export")
    facts = collect(model, repository.folder)
    exported = written(facts)["metadata"]["component"]
    assert exported["modelCard"]["considerations"]["technicalLimitations"] == [*limits(facts), *facts.notes]
    parity = flattened(facts.exported.description.parity)  # type: ignore[union-attr]
    assert parity
    for name, value in parity.items():
        assert properties(exported)[f"rfdetr:parity:{name}"] == str(value)
    assert sha256(exported) == [files.sha256_file(model)]
    source = component(exported, "ancestor/exported")
    assert sha256(source) == [files.sha256_file(repository.folder / MODEL)]
    (tmp_path / "alone").mkdir()
    alone = Path(shutil.copy(repository.folder / MODEL, tmp_path / "alone" / "model.pth"))
    content = written(collect(alone, alone.parent))
    assert "timestamp" not in content["metadata"]
    assert "the file alone" in properties(component(content, "code"))["rfdetr:commit"]
    card = content["metadata"]["component"]["modelCard"]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == []


def test_another_content_has_another_serial_number(repository: Repository) -> None:
    facts = collect(repository.folder / MODEL, repository.folder)
    first, again, unscored = bom(facts), bom(facts), bom(replace(facts, evaluation=None))
    assert first == again
    assert json.loads(first)["serialNumber"] != json.loads(unscored)["serialNumber"]


def test_the_library_reads_back_what_it_wrote(repository: Repository) -> None:
    content = json.loads(bom(collect(repository.folder / MODEL, repository.folder)))
    read: Bom = Bom.from_json(content)  # type: ignore[attr-defined]
    assert read.validate()
    assert read.serial_number.urn == content["serialNumber"]
    assert {component.bom_ref.value for component in read.components} == {
        component["bom-ref"] for component in content["components"]
    }
