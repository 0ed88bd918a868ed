"""Questions without a clone, about corrected labels, about rounded files or files saved again, and for a reviewer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.audit import context
from rfdetr_core.audit.history import cache_path
from rfdetr_core.audit.review import compare_link
from rfdetr_core.base import files
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from rfdetr_core.cli import main
from tests.audit.repository import Images, Repository, audit, audit_json, conforms, sha256_of
from tests.ci.test_markdown import HOSTILE, Page

FIRST: Images = {
    "train": {"train/a.jpg": "a wrong", "train/b.jpg": "b"},
    "valid": {"valid/c.jpg": "c"},
    "test": {"test/d.jpg": "d"},
}
SECOND: Images = FIRST | {"train": {"train/a.jpg": "a corrected", "train/e.jpg": "e"}}
KNOWN = {
    "train/a.jpg": {"source": "roof"},
    "train/b.jpg": {"source": "roof", "date": "2023-05-01"},
    "train/e.jpg": {"source": "field | x", "date": "2024-05-01"},
}
BEST = "output/checkpoint_best_ema.pth"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Two results. Between them a label was corrected, an image withdrawn and one added. `copies` has both models."""
    repository, copies = Repository(tmp_path / "clone"), tmp_path / "copies"
    copies.mkdir()
    for number, images in enumerate((FIRST, SECOND), start=1):
        shutil.copy(repository.train(number, images, lr=number / 1000, metadata=KNOWN), copies / f"{number}.pth")
        shutil.copy(repository.folder / BEST, copies / f"{number}-ema.pth")
        repository.commit(f"Retrain {number}")
    return repository


@pytest.fixture
def copies(repository: Repository) -> Path:
    return repository.folder.parent / "copies"


def test_labels_distinguish_models_before_and_after_a_correction(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = audit_json(capsys, repository, "--image", sha256_of("a"))
    assert [use["labels"] for use in answer["uses"]] == [sha256_of("labels corrected"), sha256_of("labels wrong")]
    assert any("labels changed between these uses" in note for note in answer["notes"])
    assert not audit_json(capsys, repository, "--image", sha256_of("c"))["notes"]
    assert f"labels  {sha256_of('labels wrong')}" in audit(capsys, repository, "--image", sha256_of("a"))


def test_models_of_images_from_before_a_date_are_found(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    uses = audit_json(capsys, repository, "--where", "source=roof", "--where", "date<2024-01-01")["uses"]
    assert [(use["role"], use["images"]) for use in uses] == [("trained", 1)]
    after = audit_json(capsys, repository, "--where", "date>=2024")["uses"]
    assert [(use["role"], use["images"]) for use in after] == [("trained", 1)]
    assert uses[0]["tensors"] != after[0]["tensors"]
    late = audit_json(capsys, repository, "--where", "date<2023-05-01T12:00", status=1)
    assert [row["reason"].rpartition(": ")[2] for row in late["unknown"]] == [
        "date '2023-05-01' may or may not meet date<2023-05-01T12:00"
    ]


class Alone:
    """A folder outside of any git repository."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def audit(self, *arguments: str) -> tuple[Any, str, str]:
        """Run the command audit; its exit status, output and errors."""
        status: Any = 0
        try:
            main(["audit", *arguments])
        except SystemExit as ended:
            status = ended.code
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err


@pytest.fixture
def alone(copies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alone:
    monkeypatch.chdir(copies)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(copies.parent))
    capsys.readouterr()
    return Alone(copies, capsys)


def test_without_a_repository_the_file_itself_answers(alone: Alone) -> None:
    status, text, _ = alone.audit("1.pth")
    assert status == 1
    assert "no: only the file itself says what produced it" in text
    assert "--repo DIR" in text
    status, text, _ = alone.audit("1.pth", "--json")
    answer = json.loads(text)
    assert (status, answer["certainty"], answer["found_by"], answer["chain"]) == (1, "word", None, [])
    lineage: Any = read_checkpoint(alone.folder / "1.pth").lineage
    assert answer["training"] == lineage["training"]
    conforms("audit-file", answer)


def test_without_a_repository_the_needed_manifests_are_named(alone: Alone) -> None:
    status, text, errors = alone.audit("1.pth", "--images")
    lineage: Any = read_checkpoint(alone.folder / "1.pth").lineage
    assert (status, len(text.splitlines())) == (1, 1)
    for split in ("train", "valid"):
        blob = lineage["training"]["files"][f"manifest/{split}.json"]["git"]
        assert f"manifest/{split}.json of this model is missing: this folder is not in a git repository" in errors
        assert f"Name a clone that has its git blob {blob}: --repo DIR" in errors
    status, text, _ = alone.audit("--diff", "1.pth", "2.pth")
    assert status == 1
    assert "train.lr: 0.001 -> 0.002" in text
    assert text.count("no commit confirms what the file says about itself") == 2


@pytest.mark.parametrize("question", [["--image", "0" * 64], ["--where", "a=b"]])
def test_without_a_repository_a_question_to_the_history_is_an_error(alone: Alone, question: list[str]) -> None:
    status, text, _ = alone.audit(*question)
    assert "has no git history to read" in status
    assert text == ""


def cut(model: Path, to: Path, dtype: torch.dtype, *, keep: bool, back: bool = False) -> Path:
    """Save a model with weights in half precision.

    Args:
        model: The model.
        to: The new file.
        dtype: The type of the weights.
        keep: Keep the lineage and the rest of the file; otherwise only the weights are saved.
        back: Convert the rounded weights back to float32.
    """
    content = torch.load(model, weights_only=True)
    weights = {name: weight.to(dtype) for name, weight in content["model"].items()}
    weights = {name: weight.float() for name, weight in weights.items()} if back else weights
    torch.save({**(content if keep else {}), "model": weights}, to)
    return to


@pytest.mark.parametrize("keep", [True, False], ids=["with its lineage", "bare"])
@pytest.mark.parametrize(("dtype", "back"), [(torch.float16, False), (torch.bfloat16, False), (torch.float16, True)])
def test_a_file_in_half_precision_is_found_by_each_weight(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype, keep: bool, back: bool
) -> None:
    for number in (1, 2):
        into_cache(repository, copies / f"{number}.pth")
    path = cut(copies / "1.pth", copies / "half.pth", dtype, keep=keep, back=back)
    answer = audit_json(capsys, repository, path)
    assert (answer["found_by"], answer["certainty"]) == ("rounded", "rounded")
    assert answer["lineage"] == read_checkpoint(copies / "1.pth").lineage
    assert any(f"rounded to {str(dtype).removeprefix('torch.')}" in note for note in answer["notes"])
    assert [link["stage"] for link in answer["chain"]] == ["strip", "train", "validate"]
    conforms("audit-file", answer)


def into_cache(repository: Repository, path: Path) -> Path:
    place = cache_path(repository.folder, files.md5_file(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place)
    return place


def test_a_changed_weight_of_a_rounded_file_or_a_missing_original_confirms_nothing(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cut(copies / "1.pth", copies / "half.pth", torch.float16, keep=False)
    answer = audit_json(capsys, repository, path, status=1)
    assert answer["certainty"] == "nothing"
    assert any("not in DVC's cache here" in note for note in answer["notes"])
    place = into_cache(repository, copies / "1.pth")
    content = torch.load(path, weights_only=True)
    content["model"]["class_embed.bias"][0] += 1
    torch.save(content, copies / "changed.pth")
    assert audit_json(capsys, repository, copies / "changed.pth", status=1)["certainty"] == "nothing"
    write_checkpoint(place, read_checkpoint(copies / "2.pth"))  # someone changed the cache
    assert audit_json(capsys, repository, path, status=1)["certainty"] == "nothing"


@pytest.mark.parametrize(
    ("source", "saved", "certainty", "status"),
    [
        ("1.pth", "as it is", "bytes", 0),
        ("1.pth", "again", "weights", 0),
        ("1-ema.pth", "as it is", "bytes", 0),
        ("1-ema.pth", "again", "weights", 0),
        ("1-ema.pth", "bare", "weights", 0),
        ("other track", "bare", "weights", 0),
        ("epoch", "as it is", "word", 1),
        ("epoch", "bare", "nothing", 1),
    ],
)
def test_the_certainty_of_the_answer_is_reported(
    repository: Repository,
    copies: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    saved: str,
    certainty: str,
    status: int,
) -> None:
    if (
        source == "other track"
    ):  # checkpoint_best_regular.pth if ema won: git has only its MD5, DVC's cache has the file
        best = read_checkpoint(copies / "1-ema.pth")
        other = {name: weight + 1 for name, weight in best.weights.items()}
        write_checkpoint(repository.folder / BEST, replace(best, weights=other))
        repository.lock()
        repository.git("commit", "-qam", "other weights")
        shutil.copy(repository.folder / BEST, copies / source)
    if source == "epoch":  # weights that are in no file of dvc.lock
        best = read_checkpoint(copies / "1-ema.pth")
        write_checkpoint(
            copies / source, replace(best, weights={name: weight + 2 for name, weight in best.weights.items()})
        )
    path = copies / "deployed.pth"
    content = torch.load(copies / source, weights_only=True)
    content = {"model": content["model"]} if saved == "bare" else content
    shutil.copy(copies / source, path) if saved == "as it is" else torch.save(content, path)
    answer = audit_json(capsys, repository, path, status=status)
    assert answer["certainty"] == certainty
    assert (answer["training"] is None) == (certainty == "nothing")
    sure = "yes" if status == 0 else "no"
    assert f"  certain  {sure}: " in audit(capsys, repository, path, status=status)


def analysed(repository: Repository, score: float) -> None:
    """Commit the files of evaluate that a comparison reads."""
    numbers = {"images": 1, "objects": 2, "map": score, "map_50": 0.5}
    ends = {"boxes": {"map": [score - 0.125, score + 0.125]}, "masks": None}
    files.write_json(repository.folder / "reports/evaluate/metrics.json", numbers)
    files.write_json(repository.folder / "reports/evaluate/intervals.json", ends)
    repository.git("add", "reports")
    repository.git("commit", "-q", "--amend", "--no-edit")


def test_a_reviewer_reads_what_changed_in_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository, copies = Repository(tmp_path / "clone"), tmp_path
    repository.git("remote", "add", "origin", "https://user:secret@github.com/owner/name.git")
    for number, images in enumerate((FIRST, SECOND), start=1):
        shutil.copy(repository.train(number, images, lr=number / 1000, metadata=KNOWN), copies / f"{number}.pth")
        repository.commit(f"Retrain {number}")
        analysed(repository, 0.25 * number)
    text = audit(capsys, repository, "--diff", copies / "1.pth", copies / "2.pth", "--markdown")
    page = Page(text)
    images, scores, params, chosen = (  # the parser puts the text after a table into its last cell
        [[cell.strip().partition("\n")[0] for cell in cells] for cells in table[1:]] for table in page.tables
    )
    assert images == [
        ["added", "1", "field | x 1", "train/e.jpg"],
        ["removed", "1", "roof 1", "train/b.jpg"],
        ["relabelled", "1", "roof 1", "train/a.jpg"],
    ]
    assert scores[0] == ["mAP", "0.250 (0.125 to 0.375)", "0.500 (0.375 to 0.625)", "+25.00"]
    assert scores[2] == ["AP75", "-", "-", "-"]
    assert "Both on 1 images and 2 objects of `test`." in text
    assert params[0] == ["train.lr", "0.001", "0.002"]
    assert [cells[0] for cells in chosen] == ["ema.score"]
    assert "secret" not in text
    answer = audit_json(capsys, repository, "--diff", copies / "1.pth", copies / "2.pth")
    assert answer["sources"] == {"added": {"field | x": 1}, "labels": {"roof": 1}, "removed": {"roof": 1}}
    conforms("audit-diff", answer)


def test_names_in_markdown_stay_in_their_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tmp_path / "clone")
    names = [f"train/{number} {name}" for number, name in enumerate(HOSTILE) if name.isprintable() and len(name) < 99]
    known = {name: {"source": name} for name in names}
    for number, images in enumerate(({}, dict.fromkeys(names, "x")), start=1):
        model = repository.train(number, {"train": images, "valid": {}, "test": {}}, notes=HOSTILE[4], metadata=known)
        shutil.copy(model, tmp_path / f"{number}.pth")
        repository.commit("Retrain")
    page = Page(audit(capsys, repository, "--diff", tmp_path / "1.pth", tmp_path / "2.pth", "--markdown"))
    assert [len(cells) for cells in page.tables[0]] == [4, 4]
    assert set(page.elements) <= {"h4", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li"}
    assert not page.links


def test_objects_that_changed_are_counted_by_class(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"train/a.jpg": {"cat": 2}, "train/b.jpg": {"dog": 3}, "valid/c.jpg": {"cat": 9}}
    after = {"train/a.jpg": {"cat": 1, "dog": 1}, "train/e.jpg": {"cat": 4}, "valid/c.jpg": {"cat": 9}}
    digests: dict[Path, dict[str, str]] = {}
    for path, objects in ((copies / "1.pth", before), (copies / "2.pth", after)):
        for split in ("train", "valid", "test"):
            files.write_json(copies / "annotations.json", canonical(objects, split))
            place = into_cache(repository, copies / "annotations.json")
            digests.setdefault(path, {})[f"annotations/{split}.json"] = files.md5_file(place)
    # The digests come from the entry of convert in dvc.lock, and this repository has no stage convert.
    monkeypatch.setattr(context, "_annotation_digests", lambda traced: digests[traced.file])
    answer = audit_json(capsys, repository, "--diff", copies / "1.pth", copies / "2.pth")
    assert answer["classes"] == {
        "added": {"cat": [0, 4]},
        "labels": {"cat": [2, 1], "dog": [0, 1]},
        "removed": {"dog": [3, 0]},
    }


def canonical(objects: dict[str, dict[str, int]], split: str) -> dict[str, Any]:
    names = {"cat": 0, "dog": 1}
    images = [path for path in objects if path.startswith(split)]
    return {
        "images": [{"id": number, "file_name": path} for number, path in enumerate(images)],
        "categories": [{"id": number, "name": name} for name, number in names.items()],
        "annotations": [
            {"image_id": number, "category_id": names[name]}
            for number, path in enumerate(images)
            for name, count in objects[path].items()
            for _ in range(count)
        ],
    }


@pytest.mark.parametrize(
    ("remote", "link"),
    [
        ("https://user:token@github.com/owner/name.git", "https://github.com/owner/name/compare/"),
        ("git@github.com:owner/name.git", "https://github.com/owner/name/compare/"),
        ("ssh://git@gitlab.example.org/group/part/name", "https://gitlab.example.org/group/part/name/-/compare/"),
        ("/home/me/[x](javascript:alert(1))", ""),
        ("file:///srv/name.git", ""),
    ],
)
def test_the_link_of_the_code_has_no_credentials(tmp_path: Path, remote: str, link: str) -> None:
    repository = Repository(tmp_path)
    repository.git("remote", "add", "origin", remote)
    commits = ["1" * 40, "2" * 40]
    assert compare_link(tmp_path, commits) == (link and f"{link}{commits[0]}...{commits[1]}")
    assert compare_link(tmp_path, [None, commits[1]]) == ""


def test_every_answer_has_the_version_of_its_schema_and_no_key_beside_it(
    repository: Repository, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions: dict[str, list[object]] = {
        "audit-file": [copies / "1.pth"],
        "audit-images": [copies / "1.pth", "--images"],
        "audit-image": ["--image", sha256_of("a")],
        "audit-where": ["--where", "source=roof"],
        "audit-diff": ["--diff", copies / "1.pth", copies / "2.pth"],
    }
    for name, question in questions.items():
        answer = audit_json(capsys, repository, *question)
        assert next(iter(answer)) == "schema"
        conforms(name, answer)
    main(
        ["attest", str(copies / "1.pth"), "--output", str(copies / "statement.json"), "--repo", str(repository.folder)]
    )
    conforms("attest", json.loads((copies / "statement.json").read_text()))
