from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlcroissant as mlc
import numpy as np
import pytest
import yaml
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.documents.croissant import VERSION, croissant
from rfdetr_core.documents.facts import PROVIDER, collect
from tests.audit.repository import Images, Repository
from tests.documents.scored import IMAGES, LICENCES, evaluate, scored_repository

MODEL = "output/checkpoint_best_total.pth"
DATA = "data/my [set]"  # in a pattern of file names, [set] means one of three letters
NOT_KNOWN = {"version", "datePublished"}  # facts of a dataset that are not recorded


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A scored repository whose stage validate read the folder of the dataset, as dvc.lock of a project says."""
    repository = scored_repository(tmp_path / "clone", LICENCES | {"valid/b.jpg": {"source": "a camera"}})
    lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())
    read = [{"path": DATA, "md5": "0" * 32 + ".dir"}, {"path": "requirements/numeric.lock", "md5": "0" * 32}]
    lock["stages"]["validate"]["deps"] = read
    (repository.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    repository.git("commit", "-q", "--amend", "-a", "-m", "Train")
    colours = iter(range(0, 250, 10))
    for path in (path for images in IMAGES.values() for path in images):
        file = repository.folder / DATA / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 48), next(colours)).save(file)
    return repository


def loaded(root: Path, file: Path | None = None) -> mlc.Dataset:
    """The dataset as mlcroissant reads it from the document in the project's folder, without an error."""
    path = root / "croissant.json"
    path.write_text(croissant(collect(file or root / MODEL, root)))
    dataset = mlc.Dataset(path)
    assert not dataset.metadata.ctx.issues.errors
    warned = dataset.metadata.ctx.issues.warnings
    assert {name for name in NOT_KNOWN if any(f"/{name}" in message for message in warned)} == NOT_KNOWN
    assert len(warned) == len(NOT_KNOWN)
    assert files.read_json(path)["conformsTo"] == VERSION
    return dataset


def rows(dataset: mlc.Dataset, table: str) -> list[dict[str, Any]]:
    """The rows of a table by the names of their columns; text as text."""
    read = dataset.records(table)
    return [
        {name.rpartition("/")[2]: value.decode() if isinstance(value, bytes) else value for name, value in row.items()}
        for row in read
    ]


def test_mlcroissant_reads_images_objects_and_classes_from_the_project(repository: Repository) -> None:
    dataset = loaded(repository.folder)
    for split, images in IMAGES.items():
        manifest = files.read_json(repository.manifest(split))
        columns = ("path", "sha256", "width", "height")
        assert rows(dataset, f"{split}/images") == [{name: row[name] for name in columns} for row in manifest]
        pictures = {row["path"]: np.asarray(row["image"]) for row in rows(dataset, f"{split}/pictures")}
        assert pictures.keys() == images.keys()
        for path, pixels in pictures.items():
            with Image.open(repository.folder / DATA / path) as image:
                assert (pixels == np.asarray(image.convert("RGB"))).all()
    # The fake training's record names only the manifests. The evaluation's lineage also names its split's annotations.
    truth = files.read_json(repository.folder / "annotations" / "test.json")
    records = rows(dataset, "test/objects")
    assert [row["box"] for row in records] == [annotation["bbox"] for annotation in truth["annotations"]]
    assert [(row["image_id"], row["class_id"], row["area"], row["crowd"]) for row in records] == [
        (annotation["image_id"], annotation["category_id"], annotation["area"], annotation["iscrowd"])
        for annotation in truth["annotations"]
    ]
    paths = {image["id"]: image["file_name"] for image in truth["images"]}
    assert {row["image_id"]: row["path"] for row in rows(dataset, "test/image_ids")} == paths
    assert {row["name"] for row in rows(dataset, "splits")} == IMAGES.keys()


def test_files_have_their_digests_and_licences_and_sources_come_from_the_metadata(repository: Repository) -> None:
    metadata = loaded(repository.folder).metadata
    assert metadata.file_objects
    for file in metadata.file_objects:
        assert file.sha256 == files.sha256_file(repository.folder / file.content_url)
    # The image of valid has a source and no licence, and the others have a licence and no source.
    assert set(metadata.license) == {"CC0-1.0", "CC-BY-4.0", f"{PROVIDER}: the licence of 1 of 5 images."}
    assert f"a camera (1 images); {PROVIDER}: the source of 4 of 5 images." in metadata.description
    assert metadata.cite_as == "To be filled in by the provider."


def test_what_nobody_wrote_down_is_marked_as_to_be_filled_in(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "clone")
    evaluate(repository, repository.train(1, IMAGES))
    repository.lock()
    repository.commit("Train")
    metadata = loaded(repository.folder).metadata
    assert metadata.license == ["To be filled in by the provider."]
    assert "Sources: To be filled in by the provider." in metadata.description


def test_a_dataset_outside_of_the_project_has_no_paths_of_that_machine(repository: Repository) -> None:
    lock = (repository.folder / "dvc.lock").read_text().replace(DATA, "/home/ada/set")
    (repository.folder / "dvc.lock").write_text(lock)
    repository.git("commit", "-q", "--amend", "-a", "-m", "Train")
    text = croissant(collect(repository.folder / MODEL, repository.folder))
    assert "/home/ada" not in text
    assert loaded(repository.folder).metadata.file_sets == []


def test_it_is_valid_without_history_and_evaluation(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = Path(shutil.copy(repository.folder / MODEL, tmp_path / "alone" / "model.pth"))
    # mlcroissant cannot read the missing manifests, but it can check whether the document is valid.
    dataset = loaded(alone.parent, alone)
    assert {file.sha256 for file in dataset.metadata.file_objects} == {
        files.sha256_file(repository.manifest(split)) for split in ("train", "valid")
    }
    assert dataset.metadata.file_sets == []


def test_a_split_of_many_folders_has_one_pattern_for_each_kind_of_image(tmp_path: Path) -> None:
    images: Images = {
        "train": {f"{number}/a.{kind}": f"{number}{kind}" for number in range(30) for kind in ("png", "jpg")}
    }
    repository = Repository(tmp_path / "clone")
    repository.train(1, images | {"valid": {"v/b.jpg": "b"}})
    lock = yaml.safe_load((repository.folder / "dvc.lock").read_text())
    lock["stages"]["validate"]["deps"] = [{"path": "data/set", "md5": "0" * 32 + ".dir"}]
    (repository.folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    repository.commit("Train")
    train, valid = loaded(repository.folder).metadata.file_sets
    assert train.includes == ["data/set/*.jpg", "data/set/*.png"]
    assert train.encoding_formats == ["image/jpeg", "image/png"]
    assert valid.includes == ["data/set/v/*.jpg"]
