"""Questions by metadata: `audit --where`, for the images of a model and for the models that used images."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.cli import main
from tests.audit.repository import Images, Metadata, Repository, audit

IMAGES: Images = {
    "train": {"train/a.jpg": "a", "train/b.jpg": "b", "train/e.jpg": "e"},
    "valid": {"valid/c.jpg": "c"},
    "test": {"test/d.jpg": "d"},
}
KNOWN: Metadata = {
    "train/a.jpg": {"source": "siteA", "licence": "CC-BY-4.0"},
    "train/b.jpg": {"source": "siteA", "licence": "CC0-1.0"},
    "train/e.jpg": {"source": "siteB"},
    "valid/c.jpg": {"source": "siteB", "licence": "CC-BY-4.0"},
    "test/d.jpg": {"source": "siteA"},
}
# The same images; the metadata of one was corrected to another site.
CORRECTED = KNOWN | {"train/e.jpg": {"source": "siteA"}}


class Kept:
    """A clone, copies of its models, and the tensor digests of the models by name."""

    def __init__(self, folder: Path) -> None:
        self.repository, self.folder = Repository(folder / "clone"), folder
        self.tensors: dict[str, str] = {}

    def train(self, name: str, seed: int, metadata: Metadata | None, **options: Any) -> None:
        model = self.repository.train(seed, options.pop("images", IMAGES), metadata=metadata, **options)
        self.tensors[name] = tensor_digest(read_checkpoint(model).weights)
        shutil.copy(model, self.folder / f"{name}.pth")

    def audit(self, capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
        return audit(capsys, self.repository, *arguments, status=status)

    def images(self, capsys: pytest.CaptureFixture[str], name: str, *where: str, status: int = 0) -> set[str]:
        asked = [str(self.folder / f"{name}.pth"), "--images", *(word for text in where for word in ("--where", text))]
        rows = csv.DictReader(io.StringIO(self.audit(capsys, *asked, status=status)))
        assert rows.fieldnames == ["split", "path", "sha256", "width", "height", "labels", "pixels", "through"]
        return {row["path"] for row in rows}

    def uses(
        self, capsys: pytest.CaptureFixture[str], *where: str, status: int = 0
    ) -> tuple[set[tuple[Any, ...]], Any]:
        """The uses as (role, model, number of images, generations to the ancestor), and the answer itself."""
        asked = [word for text in where for word in ("--where", text)]
        answer = json.loads(self.audit(capsys, *asked, "--json", status=status))
        names = {tensors: name for name, tensors in self.tensors.items()} | {None: None}
        rows = [(use["role"], names[use["tensors"]], use["images"], len(use["through"])) for use in answer["uses"]]
        assert len(set(rows)) == len(rows)
        return set(rows), answer


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Two trainings on the same images; the metadata of one was corrected between them."""
    made = Kept(tmp_path)
    made.train("first", 1, KNOWN)
    made.repository.commit("first")
    made.train("second", 2, CORRECTED)
    made.repository.commit("second")
    return made


def test_the_images_of_a_model_are_selected_by_what_was_committed_with_it(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kept.images(capsys, "first") == KNOWN.keys()
    assert kept.images(capsys, "first", "source=siteA") == {"train/a.jpg", "train/b.jpg", "test/d.jpg"}
    assert kept.images(capsys, "second", "source=siteA") == KNOWN.keys() - {"valid/c.jpg"}
    assert kept.images(capsys, "first", "source=siteA", "licence=CC-BY-4.0") == {"train/a.jpg"}
    assert kept.images(capsys, "first", " License = CC-BY-4.0") == {"train/a.jpg", "valid/c.jpg"}
    assert kept.images(capsys, "first", "source=siteB", "licence=CC0-1.0") == set()


def test_a_clone_without_a_working_tree_answers_the_same(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    expected = kept.images(capsys, "first", "source=siteB")
    shutil.rmtree(kept.repository.folder / "metadata")
    assert kept.images(capsys, "first", "source=siteB") == expected


def test_every_model_that_saw_such_an_image_is_named_with_their_number(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = kept.uses(capsys, "source=siteA")[0], kept.uses(capsys, "source=siteB")[0]
    assert a == {
        ("trained", "first", 2, 0),
        ("tested", "first", 1, 0),
        ("trained", "second", 3, 0),
        ("tested", "second", 1, 0),
    }
    assert b == {("trained", "first", 1, 0), ("validated", "first", 1, 0), ("validated", "second", 1, 0)}
    assert kept.uses(capsys, "source=siteB", "licence=CC-BY-4.0")[0] == {
        ("validated", name, 1, 0) for name in ("first", "second")
    }
    output = kept.audit(capsys, "--where", "source=siteA")
    assert output.startswith("images with source=siteA\n")
    assert f"  trained    tensors {kept.tensors['second']}\n" in output
    assert "             images  3\n" in output
    assert "no model" in kept.audit(capsys, "--where", "source=siteB", "--where", "licence=CC0-1.0")


def test_images_of_an_ancestor_are_selected_by_the_metadata_of_the_ancestor(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    images: Images = {"train": {"train/z.jpg": "z"}, "valid": {}, "test": {}}
    kept.train("child", 3, {"train/z.jpg": {"source": "siteC"}}, images=images, parent=kept.tensors["first"])
    kept.repository.commit("child")
    uses = kept.uses(capsys, "source=siteB")[0]
    assert {use for use in uses if use[1] == "child"} == {("trained", "child", 1, 1), ("validated", "child", 1, 1)}
    assert kept.images(capsys, "child", "source=siteB") == {"train/e.jpg", "valid/c.jpg"}
    assert kept.images(capsys, "child", "source=siteC") == {"train/z.jpg"}


def test_images_of_an_evaluation_are_selected_by_the_metadata_of_its_commit(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    later: Images = IMAGES | {"test": {"test/new.jpg": "new"}}
    kept.train("second", 2, CORRECTED | {"test/new.jpg": {"source": "siteN"}}, images=later)
    kept.repository.commit("scored on another test split")
    assert kept.uses(capsys, "source=siteN")[0] == {("tested", "second", 1, 0)}
    assert ("tested", "second", 1, 0) in kept.uses(capsys, "source=siteA")[0]
    assert kept.images(capsys, "second", "source=siteN") == {"test/new.jpg"}


def test_an_uncommitted_model_is_answered_from_the_working_tree(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    kept.train("fresh", 4, {path: {"source": "siteX"} for path in KNOWN})
    assert kept.images(capsys, "fresh", "source=siteX") == KNOWN.keys()
    assert ("trained", "fresh", 3, 0) in kept.uses(capsys, "source=siteX")[0]


def test_a_model_that_is_older_than_metadata_is_unknown_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept(tmp_path)
    kept.train("old", 1, None)
    commit = kept.repository.commit("old")
    kept.train("new", 2, KNOWN)
    kept.repository.commit("new")
    uses, answer = kept.uses(capsys, "source=siteB", status=1)
    assert uses == {("trained", "new", 1, 0), ("validated", "new", 1, 0)}
    assert {(row["role"], row["tensors"]) for row in answer["unknown"]} == {
        (role, kept.tensors["old"]) for role in ("trained", "validated", "tested")
    }
    assert all(f"of commit {commit}: it is older than metadata" in row["reason"] for row in answer["unknown"])
    assert "unknown" in kept.audit(capsys, "--where", "source=siteB", status=1)
    assert kept.images(capsys, "old", "source=siteB", status=1) == set()
    assert kept.images(capsys, "old") == KNOWN.keys()


def test_a_model_without_a_record_is_found_by_its_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept(tmp_path)
    kept.train("bare", 1, KNOWN)
    kept.repository.commit("bare", without=("records", "reports/evaluate/lineage.json"))
    kept.repository.git("clean", "-q", "-fd")
    uses = kept.uses(capsys, "source=siteA")[0]
    assert uses == {("trained", None, 2, 0), ("tested", None, 1, 0)}


def test_metadata_other_than_the_lock_names_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept(tmp_path)
    kept.train("model", 1, KNOWN)
    path = kept.repository.folder / "metadata" / "train.csv"
    path.write_text(path.read_text().replace("siteA", "siteZ"))
    kept.repository.commit("forged")
    answer = kept.uses(capsys, "source=siteB", status=1)[1]
    assert [row["reason"].partition(" of commit")[0] for row in answer["unknown"]] == ["metadata/train.csv"]
    assert "dvc.lock" in answer["unknown"][0]["reason"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            ["camera=x"],
            r"no image had a column camera when its model was committed\. The columns are licence, source\.",
        ),
        (["source=siteZ"], r"no image had this value when its model was committed\. Values of source: siteA, siteB\."),
        (["licence=CC0-1.0", "license=MIT"], r"--where licence=MIT: .* Values of licence: CC-BY-4\.0, CC0-1\.0\."),
        (["source"], r"--where source is not KEY=VALUE"),
        (["=siteA"], r"--where =siteA is not KEY=VALUE"),
    ],
)
def test_a_condition_that_no_image_can_meet_is_one_message(kept: Kept, where: list[str], message: str) -> None:
    asked = [word for text in where for word in ("--where", text)]
    for more in ([], [str(kept.folder / "first.pth"), "--images"]):
        with pytest.raises(SystemExit, match=message) as ended:
            main(["audit", *asked, *more, "--repo", str(kept.repository.folder)])
        assert str(ended.value).count("\n") == 0


def test_conditions_stand_alone_or_with_the_images_of_a_file(kept: Kept) -> None:
    file, digest = str(kept.folder / "first.pth"), "0" * 64
    for more in ([file], ["--images"], ["--image", digest], ["--diff", file, file]):
        if more != ["--images"]:
            with pytest.raises(SystemExit, match="audit takes one of FILE"):
                main(["audit", "--where", "source=siteA", *more, "--repo", str(kept.repository.folder)])


def test_a_file_of_the_python_api_uses_the_tables_beside_it(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.train("alone", 7, KNOWN, images=IMAGES | {"train": {"train/a.jpg": "other", "train/e.jpg": "e"}})
    beside = tmp_path / "run"
    beside.mkdir()
    shutil.copy(kept.folder / "alone.pth", beside / "model.pth")
    for folder in ("manifest", "metadata"):
        shutil.move(kept.repository.folder / folder, beside / "dataset" / folder)
    subprocess.run(["git", "checkout", "-q", "-f", "."], cwd=kept.repository.folder, check=True)
    output = kept.audit(capsys, str(beside / "model.pth"), "--images", "--where", "source=siteA")
    assert "train/a.jpg" in output
    assert "train/e.jpg" not in output
