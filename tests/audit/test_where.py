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


class Clone:
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
        arguments = [
            str(self.folder / f"{name}.pth"),
            "--images",
            *(word for text in where for word in ("--where", text)),
        ]
        rows = csv.DictReader(io.StringIO(self.audit(capsys, *arguments, status=status)))
        assert rows.fieldnames == ["split", "path", "sha256", "width", "height", "labels", "pixels", "through"]
        return {row["path"] for row in rows}

    def uses(
        self, capsys: pytest.CaptureFixture[str], *where: str, status: int = 0
    ) -> tuple[set[tuple[Any, ...]], Any]:
        """The uses as (role, model, number of images, generations to the ancestor), and the answer itself."""
        arguments = [word for text in where for word in ("--where", text)]
        answer = json.loads(self.audit(capsys, *arguments, "--json", status=status))
        names = {tensors: name for name, tensors in self.tensors.items()} | {None: None}
        rows = [(use["role"], names[use["tensors"]], use["images"], len(use["through"])) for use in answer["uses"]]
        assert len(set(rows)) == len(rows)
        return set(rows), answer


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """Two trainings on the same images; the metadata of one was corrected between them."""
    clone = Clone(tmp_path)
    clone.train("first", 1, KNOWN)
    clone.repository.commit("first")
    clone.train("second", 2, CORRECTED)
    clone.repository.commit("second")
    return clone


def test_the_images_of_a_model_are_selected_by_what_was_committed_with_it(
    clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clone.images(capsys, "first") == KNOWN.keys()
    assert clone.images(capsys, "first", "source=siteA") == {"train/a.jpg", "train/b.jpg", "test/d.jpg"}
    assert clone.images(capsys, "second", "source=siteA") == KNOWN.keys() - {"valid/c.jpg"}
    assert clone.images(capsys, "first", "source=siteA", "licence=CC-BY-4.0") == {"train/a.jpg"}
    assert clone.images(capsys, "first", " License = CC-BY-4.0") == {"train/a.jpg", "valid/c.jpg"}
    assert clone.images(capsys, "first", "source=siteB", "licence=CC0-1.0") == set()


def test_a_clone_without_a_working_tree_answers_the_same(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    expected = clone.images(capsys, "first", "source=siteB")
    shutil.rmtree(clone.repository.folder / "metadata")
    assert clone.images(capsys, "first", "source=siteB") == expected


def test_every_model_that_saw_such_an_image_is_named_with_their_number(
    clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = clone.uses(capsys, "source=siteA")[0], clone.uses(capsys, "source=siteB")[0]
    assert a == {
        ("trained", "first", 2, 0),
        ("tested", "first", 1, 0),
        ("trained", "second", 3, 0),
        ("tested", "second", 1, 0),
    }
    assert b == {("trained", "first", 1, 0), ("validated", "first", 1, 0), ("validated", "second", 1, 0)}
    assert clone.uses(capsys, "source=siteB", "licence=CC-BY-4.0")[0] == {
        ("validated", name, 1, 0) for name in ("first", "second")
    }
    output = clone.audit(capsys, "--where", "source=siteA")
    assert output.startswith("images with source=siteA\n")
    assert f"  trained    tensors {clone.tensors['second']}\n" in output
    assert "             images  3\n" in output
    assert "no model" in clone.audit(capsys, "--where", "source=siteB", "--where", "licence=CC0-1.0")


def test_images_of_an_ancestor_are_selected_by_the_metadata_of_the_ancestor(
    clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    images: Images = {"train": {"train/z.jpg": "z"}, "valid": {}, "test": {}}
    clone.train("child", 3, {"train/z.jpg": {"source": "siteC"}}, images=images, parent=clone.tensors["first"])
    clone.repository.commit("child")
    uses = clone.uses(capsys, "source=siteB")[0]
    assert {use for use in uses if use[1] == "child"} == {("trained", "child", 1, 1), ("validated", "child", 1, 1)}
    assert clone.images(capsys, "child", "source=siteB") == {"train/e.jpg", "valid/c.jpg"}
    assert clone.images(capsys, "child", "source=siteC") == {"train/z.jpg"}


def test_images_of_an_evaluation_are_selected_by_the_metadata_of_its_commit(
    clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    later: Images = IMAGES | {"test": {"test/new.jpg": "new"}}
    clone.train("second", 2, CORRECTED | {"test/new.jpg": {"source": "siteN"}}, images=later)
    clone.repository.commit("scored on another test split")
    assert clone.uses(capsys, "source=siteN")[0] == {("tested", "second", 1, 0)}
    assert ("tested", "second", 1, 0) in clone.uses(capsys, "source=siteA")[0]
    assert clone.images(capsys, "second", "source=siteN") == {"test/new.jpg"}


def test_an_uncommitted_model_is_answered_from_the_working_tree(
    clone: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    clone.train("fresh", 4, {path: {"source": "siteX"} for path in KNOWN})
    assert clone.images(capsys, "fresh", "source=siteX") == KNOWN.keys()
    assert ("trained", "fresh", 3, 0) in clone.uses(capsys, "source=siteX")[0]


def test_a_model_that_is_older_than_metadata_is_unknown_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = Clone(tmp_path)
    clone.train("old", 1, None)
    commit = clone.repository.commit("old")
    clone.train("new", 2, KNOWN)
    clone.repository.commit("new")
    uses, answer = clone.uses(capsys, "source=siteB", status=1)
    assert uses == {("trained", "new", 1, 0), ("validated", "new", 1, 0)}
    assert {(row["role"], row["tensors"]) for row in answer["unknown"]} == {
        (role, clone.tensors["old"]) for role in ("trained", "validated", "tested")
    }
    assert all(
        f"of commit {commit}: the model is older than the folder metadata/" in row["reason"]
        for row in answer["unknown"]
    )
    assert "unknown" in clone.audit(capsys, "--where", "source=siteB", status=1)
    assert clone.images(capsys, "old", "source=siteB", status=1) == set()
    assert clone.images(capsys, "old") == KNOWN.keys()


def test_a_model_without_a_record_is_found_by_its_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clone = Clone(tmp_path)
    clone.train("bare", 1, KNOWN)
    clone.repository.commit("bare", without=("records", "reports/evaluate/lineage.json"))
    clone.repository.git("clean", "-q", "-fd")
    uses = clone.uses(capsys, "source=siteA")[0]
    assert uses == {("trained", None, 2, 0), ("tested", None, 1, 0)}


def test_metadata_other_than_the_lock_names_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clone = Clone(tmp_path)
    clone.train("model", 1, KNOWN)
    path = clone.repository.folder / "metadata" / "train.csv"
    path.write_text(path.read_text().replace("siteA", "siteZ"))
    clone.repository.commit("forged")
    answer = clone.uses(capsys, "source=siteB", status=1)[1]
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
        (["source"], r"--where source is not a condition\. Write KEY=VALUE"),
        (["=siteA"], r"--where =siteA is not a condition\. Write KEY=VALUE"),
    ],
)
def test_a_condition_that_no_image_can_meet_is_one_message(clone: Clone, where: list[str], message: str) -> None:
    arguments = [word for text in where for word in ("--where", text)]
    for more in ([], [str(clone.folder / "first.pth"), "--images"]):
        with pytest.raises(SystemExit, match=message) as ended:
            main(["audit", *arguments, *more, "--repo", str(clone.repository.folder)])
        assert str(ended.value).count("\n") == 0


def test_conditions_stand_alone_or_with_the_images_of_a_file(clone: Clone) -> None:
    file, digest = str(clone.folder / "first.pth"), "0" * 64
    for more in ([file], ["--images"], ["--image", digest], ["--diff", file, file]):
        if more != ["--images"]:
            with pytest.raises(SystemExit, match="Give one of FILE"):
                main(["audit", "--where", "source=siteA", *more, "--repo", str(clone.repository.folder)])


def test_a_file_of_the_python_api_uses_the_tables_beside_it(
    clone: Clone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone.train("alone", 7, KNOWN, images=IMAGES | {"train": {"train/a.jpg": "other", "train/e.jpg": "e"}})
    beside = tmp_path / "run"
    beside.mkdir()
    shutil.copy(clone.folder / "alone.pth", beside / "model.pth")
    for folder in ("manifest", "metadata"):
        shutil.move(clone.repository.folder / folder, beside / "dataset" / folder)
    subprocess.run(["git", "checkout", "-q", "-f", "."], cwd=clone.repository.folder, check=True)
    output = clone.audit(capsys, str(beside / "model.pth"), "--images", "--where", "source=siteA")
    assert "train/a.jpg" in output
    assert "train/e.jpg" not in output
