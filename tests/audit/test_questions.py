"""Questions without a clone, about corrected labels, about files that were cut or saved again, and for a reviewer."""

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
from tests.audit.repository import Images, Repository, audit, conforms, found, sha256_of
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
    """Two results: between them a label was corrected, one image withdrawn and one added. Copies lie in `kept`."""
    made, kept = Repository(tmp_path / "clone"), tmp_path / "kept"
    kept.mkdir()
    for number, images in enumerate((FIRST, SECOND), start=1):
        shutil.copy(made.train(number, images, lr=number / 1000, metadata=KNOWN), kept / f"{number}.pth")
        shutil.copy(made.folder / BEST, kept / f"{number}-ema.pth")
        made.commit(f"Retrain {number}")
    return made


@pytest.fixture
def kept(repository: Repository) -> Path:
    return repository.folder.parent / "kept"


def test_labels_tell_models_of_before_a_correction_from_those_after_it(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    told = found(capsys, repository, "--image", sha256_of("a"))
    assert [one["labels"] for one in told["uses"]] == [sha256_of("labels corrected"), sha256_of("labels wrong")]
    assert any("labels were changed" in note for note in told["notes"])
    assert not found(capsys, repository, "--image", sha256_of("c"))["notes"]
    assert f"labels  {sha256_of('labels wrong')}" in audit(capsys, repository, "--image", sha256_of("a"))


def test_models_of_images_from_before_a_date_are_found(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    uses = found(capsys, repository, "--where", "source=roof", "--where", "date<2024-01-01")["uses"]
    assert [(one["role"], one["images"]) for one in uses] == [("trained", 1)]
    after = found(capsys, repository, "--where", "date>=2024")["uses"]
    assert [(one["role"], one["images"]) for one in after] == [("trained", 1)]
    assert uses[0]["tensors"] != after[0]["tensors"]
    late = found(capsys, repository, "--where", "date<2023-05-01T12:00", status=1)
    assert [one["reason"].rpartition(": ")[2] for one in late["unknown"]] == [
        "whether date<2023-05-01T12:00 holds for date '2023-05-01' is not certain"
    ]


class Alone:
    """A folder that is in no repository."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def audit(self, *arguments: str) -> tuple[Any, str, str]:
        """Status, and what is printed."""
        status: Any = 0
        try:
            main(["audit", *arguments])
        except SystemExit as ended:
            status = ended.code
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err


@pytest.fixture
def alone(kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Alone:
    monkeypatch.chdir(kept)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(kept.parent))
    capsys.readouterr()
    return Alone(kept, capsys)


def test_without_a_repository_a_file_answers_by_its_own_word(alone: Alone) -> None:
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


def test_without_a_repository_what_is_needed_for_images_is_said(alone: Alone) -> None:
    status, text, errors = alone.audit("1.pth", "--images")
    lineage: Any = read_checkpoint(alone.folder / "1.pth").lineage
    assert (status, len(text.splitlines())) == (1, 1)
    for split in ("train", "valid"):
        blob = lineage["training"]["files"][f"manifest/{split}.json"]["git"]
        assert f"manifest/{split}.json of this run: it is git blob {blob} of the project" in errors
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
    """Save a model with weights in half precision, and with or without what it says of itself; back: as float32."""
    content = torch.load(model, weights_only=True)
    weights = {name: one.to(dtype) for name, one in content["model"].items()}
    weights = {name: one.float() for name, one in weights.items()} if back else weights
    torch.save({**(content if keep else {}), "model": weights}, to)
    return to


@pytest.mark.parametrize("keep", [True, False], ids=["with its lineage", "bare"])
@pytest.mark.parametrize(("dtype", "back"), [(torch.float16, False), (torch.bfloat16, False), (torch.float16, True)])
def test_a_file_that_was_cut_to_half_precision_is_found_by_each_weight(
    repository: Repository, kept: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype, keep: bool, back: bool
) -> None:
    for number in (1, 2):
        into_cache(repository, kept / f"{number}.pth")
    path = cut(kept / "1.pth", kept / "half.pth", dtype, keep=keep, back=back)
    told = found(capsys, repository, path)
    assert (told["found_by"], told["certainty"]) == ("rounded", "rounded")
    assert told["lineage"] == read_checkpoint(kept / "1.pth").lineage
    assert any(f"rounded to {str(dtype).removeprefix('torch.')}" in note for note in told["notes"])
    assert [link["stage"] for link in told["chain"]] == ["strip", "train", "validate"]
    conforms("audit-file", told)


def into_cache(repository: Repository, path: Path) -> Path:
    place = cache_path(repository.folder, files.md5_file(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place)
    return place


def test_one_changed_weight_of_a_cut_file_or_an_absent_original_is_no_proof(
    repository: Repository, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cut(kept / "1.pth", kept / "half.pth", torch.float16, keep=False)
    told = found(capsys, repository, path, status=1)
    assert told["certainty"] == "nothing"
    assert any("not in DVC's cache here" in note for note in told["notes"])
    place = into_cache(repository, kept / "1.pth")
    content = torch.load(path, weights_only=True)
    content["model"]["class_embed.bias"][0] += 1
    torch.save(content, kept / "changed.pth")
    assert found(capsys, repository, kept / "changed.pth", status=1)["certainty"] == "nothing"
    write_checkpoint(place, read_checkpoint(kept / "2.pth"))  # someone changed the cache
    assert found(capsys, repository, path, status=1)["certainty"] == "nothing"


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
def test_it_is_said_how_sure_it_is_which_file_this_is(
    repository: Repository,
    kept: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    saved: str,
    certainty: str,
    status: int,
) -> None:
    if source == "other track":  # best_regular where ema won: git has its MD5 alone, and the cache the file
        best = read_checkpoint(kept / "1-ema.pth")
        other = {name: one + 1 for name, one in best.weights.items()}
        write_checkpoint(repository.folder / BEST, replace(best, weights=other))
        repository.lock()
        repository.git("commit", "-qam", "other weights")
        shutil.copy(repository.folder / BEST, kept / source)
    if source == "epoch":  # weights that are in no file of dvc.lock
        best = read_checkpoint(kept / "1-ema.pth")
        write_checkpoint(kept / source, replace(best, weights={name: one + 2 for name, one in best.weights.items()}))
    path = kept / "deployed.pth"
    content = torch.load(kept / source, weights_only=True)
    content = {"model": content["model"]} if saved == "bare" else content
    shutil.copy(kept / source, path) if saved == "as it is" else torch.save(content, path)
    told = found(capsys, repository, path, status=status)
    assert told["certainty"] == certainty
    assert (told["training"] is None) == (certainty == "nothing")
    sure = "yes" if status == 0 else "no"
    assert f"  certain  {sure}: " in audit(capsys, repository, path, status=status)


def analysed(repository: Repository, score: float) -> None:
    """What evaluate and report leave, as far as a comparison reads it; and the annotations of all images."""
    numbers = {"images": 1, "objects": 2, "map": score, "map_50": 0.5}
    ends = {"boxes": {"map": [score - 0.125, score + 0.125]}, "masks": None}
    files.write_json(repository.folder / "reports/evaluate/metrics.json", numbers)
    files.write_json(repository.folder / "reports/evaluate/intervals.json", ends)
    repository.git("add", "reports")
    repository.git("commit", "-q", "--amend", "--no-edit")


def test_a_reviewer_reads_what_changed_in_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository, kept = Repository(tmp_path / "clone"), tmp_path
    repository.git("remote", "add", "origin", "https://user:secret@github.com/owner/name.git")
    for number, images in enumerate((FIRST, SECOND), start=1):
        shutil.copy(repository.train(number, images, lr=number / 1000, metadata=KNOWN), kept / f"{number}.pth")
        repository.commit(f"Retrain {number}")
        analysed(repository, 0.25 * number)
    text = audit(capsys, repository, "--diff", kept / "1.pth", kept / "2.pth", "--markdown")
    page = Page(text)
    images, scores, params, chosen = (  # what follows a table is in its last cell
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
    told = found(capsys, repository, "--diff", kept / "1.pth", kept / "2.pth")
    assert told["sources"] == {"added": {"field | x": 1}, "labels": {"roof": 1}, "removed": {"roof": 1}}
    conforms("audit-diff", told)


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
    repository: Repository, kept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"train/a.jpg": {"cat": 2}, "train/b.jpg": {"dog": 3}, "valid/c.jpg": {"cat": 9}}
    after = {"train/a.jpg": {"cat": 1, "dog": 1}, "train/e.jpg": {"cat": 4}, "valid/c.jpg": {"cat": 9}}
    made: dict[Path, dict[str, str]] = {}
    for path, objects in ((kept / "1.pth", before), (kept / "2.pth", after)):
        for split in ("train", "valid", "test"):
            files.write_json(kept / "annotations.json", canonical(objects, split))
            place = into_cache(repository, kept / "annotations.json")
            made.setdefault(path, {})[f"annotations/{split}.json"] = files.md5_file(place)
    # The fake repository has no stage convert, whose entry in dvc.lock has these.
    monkeypatch.setattr(context, "_annotation_digests", lambda traced: made[traced.file])
    told = found(capsys, repository, "--diff", kept / "1.pth", kept / "2.pth")
    assert told["classes"] == {
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
    repository: Repository, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, list[object]] = {
        "audit-file": [kept / "1.pth"],
        "audit-images": [kept / "1.pth", "--images"],
        "audit-image": ["--image", sha256_of("a")],
        "audit-where": ["--where", "source=roof"],
        "audit-diff": ["--diff", kept / "1.pth", kept / "2.pth"],
    }
    for name, question in asked.items():
        answer = found(capsys, repository, *question)
        assert next(iter(answer)) == "schema"
        conforms(name, answer)
    main(["attest", str(kept / "1.pth"), "--output", str(kept / "statement.json"), "--repo", str(repository.folder)])
    conforms("attest", json.loads((kept / "statement.json").read_text()))
