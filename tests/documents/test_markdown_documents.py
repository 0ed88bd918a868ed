"""The model card and Annex IV: their content, and that no value from a file is read as Markdown."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import mlcroissant as mlc
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from rfdetr_core.documents.annex_iv import annex_iv
from rfdetr_core.documents.facts import PROVIDER, Facts, collect
from rfdetr_core.documents.model_card import model_card
from tests.audit.repository import Metadata
from tests.documents.scored import ENDS, IMAGES, LICENCES, reports, scored_repository

MODEL = "output/checkpoint_best_total.pth"
POINTS = ["2(b)", "2(c)", "2(d)", "2(e)", "2(f)", "2(g)"]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    repository = scored_repository(tmp_path_factory.mktemp("cards") / "clone")
    return collect(repository.folder / MODEL, repository.folder)


def test_the_card_is_read_back_as_it_is_by_its_own_classes(facts: Facts, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(model_card(facts), encoding="utf-8")
    card = ModelCard.load(path)  # raises where a field is wrong, since errors are not ignored
    assert str(card) == path.read_text(encoding="utf-8")
    assert card.data.model_name == "TinyDetector"
    assert card.data.pipeline_tag == "object-detection"


def test_the_results_of_the_card_are_the_scores_and_intervals_of_the_evaluation(facts: Facts) -> None:
    metrics = files.read_json(facts.root / "reports" / "evaluate" / "metrics.json")
    results = {result.metric_name: result for result in ModelCard(model_card(facts)).data.eval_results}
    assert {result.metric_value for result in results.values()} == {
        metrics[name] for name in ("map", "map_50", "map_75", "mar_100")
    }
    assert results["AP50 (boxes)"].metric_args == {"interval_95": ENDS["map_50"]}
    assert {result.dataset_revision for result in results.values()} == {
        files.sha256_file(facts.root / "manifest/test.json")
    }


def test_the_card_leaves_use_and_licence_to_the_provider(facts: Facts) -> None:
    sections = sections_of(model_card(facts))
    for name in ("Intended use", "Uses that are out of scope", "Licence and contact"):
        assert PROVIDER in sections[name]
    assert PROVIDER not in sections["Evaluation"]


def test_annex_iv_has_each_point_in_its_order_and_what_is_left_to_the_provider(facts: Facts) -> None:
    sections = {name: text for name, text in sections_of(annex_iv(facts), level=2).items() if name.startswith("2(")}
    assert [name.split()[0] for name in sections] == POINTS
    assert all(PROVIDER in text for text in sections.values())
    lineage = facts.lineage
    assert "`train.lr` | `0.0001`" in sections["2(b) Design specifications"]
    assert lineage["training"]["packages"]["torch"] in sections["2(c) System architecture and computational resources"]
    assert facts.splits["train"].digests["manifest/train.json"] in sections["2(d) Data requirements"]
    assert f"{facts.evaluation.metrics['map']:.4f}" in sections["2(g) Validation and testing"]  # type: ignore[union-attr]


def test_the_examples_of_the_docs_are_such_documents() -> None:
    folder = ROOT / "docs" / "examples"
    card = ModelCard.load(folder / "model_card.md")
    assert {result.metric_type for result in card.data.eval_results} == {"map", "mar"}
    sections = sections_of((folder / "annex_iv.md").read_text(encoding="utf-8"), level=2)
    assert [name.split()[0] for name in sections if name.startswith("2(")] == POINTS
    bom = (folder / "bom.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None
    assert not mlc.Dataset(folder / "croissant.json").metadata.ctx.issues.errors


LICENCES_OF = "Licences, sources and other metadata of the images"


@pytest.mark.parametrize(
    ("metadata", "asked"),
    [
        ({}, ["licence", "source"]),
        ({path: {"season": "winter"} for path in LICENCES}, ["licence", "source"]),
        (LICENCES, ["source"]),
        ({path: {"licence": "CC0-1.0", "source": "a camera"} for path in [*LICENCES][:-1]}, ["licence", "source"]),
        ({path: {"licence": "CC0-1.0", "source": "a camera"} for path in LICENCES}, []),
    ],
)
def test_licence_and_source_of_every_image_are_given_or_left_to_the_provider(
    tmp_path: Path, metadata: Metadata, asked: list[str]
) -> None:
    repository = scored_repository(tmp_path / "clone", metadata)
    section = sections_of(model_card(collect(repository.folder / MODEL, repository.folder)))[LICENCES_OF]
    assert re.findall(rf"{PROVIDER}:\*\* the (\w+)", section) == asked
    without = {split: sum("licence" not in metadata.get(path, {}) for path in paths) for split, paths in IMAGES.items()}
    for split, count in without.items():
        assert (f"| `{split}` | `licence` | no value | {count} |" in section) == bool(count)


@pytest.mark.parametrize("place", ["no git", "damaged"])
def test_unreadable_metadata_is_not_reported_as_missing(tmp_path: Path, place: str) -> None:
    repository = scored_repository(tmp_path / "clone")
    root = repository.folder
    if place == "no git":
        root = tmp_path / "alone"
        shutil.copytree(repository.folder / "output", root / "output")
    else:
        (root / "metadata" / "train.csv").write_text("no table")
        repository.git("commit", "-q", "--amend", "-a", "-m", "Train")
    facts = collect(root / MODEL, root)
    section = sections_of(model_card(facts))[LICENCES_OF]
    assert "| `train` | `licence` | not known |" in section
    assert "could not be read for `train`" in section
    assert any("metadata/train.csv" in note for note in facts.notes) == (place == "damaged")


def test_metadata_that_were_changed_after_the_commit_are_not_used(tmp_path: Path) -> None:
    repository = scored_repository(tmp_path / "clone")
    path = repository.folder / "metadata" / "train.csv"
    path.write_text(path.read_text().replace("CC0-1.0", "CC-BY-4.0"))
    facts = collect(repository.folder / MODEL, repository.folder)
    assert facts.splits["train"].metadata == {"train/a.jpg": LICENCES["train/a.jpg"]}
    assert any("metadata/train.csv differs from its version in the model's commit" in note for note in facts.notes)


def test_a_long_licence_is_whole_and_no_folder_of_the_machine_is_named(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(200))
    repository = scored_repository(tmp_path / "clone", {path: {"licence": text} for path in LICENCES})
    facts = collect(repository.folder / MODEL, repository.folder)
    written = model_card(facts)
    assert re.sub("[` ]", "", text) in re.sub("[` ]", "", written)
    params = {"model": {"pretrain_weights": "/home/ada/promoted.pth"}, "train": {"resume": "/home/ada/last.ckpt"}}
    changed = replace(facts, lineage=facts.lineage | {"training": facts.training | {"params": params}})
    for document in (model_card, annex_iv):
        assert "promoted.pth" in document(changed)
        assert "/home/ada" not in document(changed)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("git@example.org:team/x.git", "ssh://git@example.org/team/x.git"),
        ("ssh://git@example.org/team/x.git", "ssh://git@example.org/team/x.git"),
        ("https://ada:secret@example.org/team/x.git", "https://example.org/team/x.git"),
        ("https://example.org/my project;id", "https://example.org/my project;id"),
    ],
)
def test_the_address_of_the_commands_is_one_that_git_takes(tmp_path: Path, remote: str, address: str) -> None:
    repository = scored_repository(tmp_path / "clone")
    repository.git("remote", "add", "origin", remote)
    section = sections_of(model_card(collect(repository.folder / MODEL, repository.folder)))["How to reproduce it"]
    (line,) = (line for line in section.splitlines() if line.startswith("git clone"))
    assert shlex.split(line, comments=True)[:4] == ["git", "clone", address, "project"]


def test_what_a_script_changed_is_listed_and_equal_bytes_are_not_promised(facts: Facts) -> None:
    custom = {"trainer": {"max_steps": 3}, "weights": "7" * 64}
    changed = facts.training | {"custom": custom, "classes": {"torch.optim.Adam": {"package": "torch", "version": "2"}}}
    for write in (model_card, annex_iv):
        text = write(replace(facts, lineage=facts.lineage | {"training": changed}))
        section = sections_of(text)["Changes in addition to the parameters"]
        assert "`custom.trainer.max_steps` | `3`" in section
        assert "`classes.torch.optim.Adam.version` | `2`" in section
        assert "Equal bytes are expected" not in text
        assert "Equal bytes are expected" in write(facts)
    params = {"train": {"deterministic": False}}
    loose = replace(facts, lineage=facts.lineage | {"training": facts.training | {"params": params}})
    assert "not deterministic" in sections_of(model_card(loose))["How to reproduce it"]


def test_no_name_of_a_file_forges_a_row_a_heading_or_a_link(tmp_path: Path, facts: Facts) -> None:
    hostile = "x` | [y](https://example.org)\n\n# Heading <b> @everyone www.evil.example"
    metadata = {path: {"licence": hostile if row["licence"] == "CC0-1.0" else "z"} for path, row in LICENCES.items()}
    repository = scored_repository(tmp_path / "clone", metadata)
    path = reports(repository) / "about.json"
    files.write_json(path, files.read_json(path) | {"not_measured": hostile})
    forged = collect(repository.folder / MODEL, repository.folder)
    for write in (model_card, annex_iv):
        before, after = write(facts), write(forged)
        assert [*sections_of(after)] == [*sections_of(before)]
        for table in re.findall(r"(?:^\|.*\n)+", after, re.M):
            assert len({line.count("|") for line in table.splitlines()}) == 1
        outside = re.sub(r"`[^`]*`|<code>.*?</code>", "", after.partition("\n# ")[2])
        assert not [sign for sign in ("](", "<b", "@everyone", "www.evil") if sign in outside]


def sections_of(text: str, level: int | None = None) -> dict[str, str]:
    """The text under each heading, by its title; level: that of the headings, else any."""
    pattern = rf"^#{{{level}}} (.*)$" if level else r"^#+ (.*)$"
    parts = re.split(pattern, text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
