"""A git repository with the files that the pipeline writes, made in milliseconds; the weights are invented."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rfdetr_core.base import files, provenance
from rfdetr_core.base.manifest import ManifestRow, read_manifest, roots, write_manifest
from rfdetr_core.base.metadata import write_metadata
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.commands.answers import ANSWERS
from rfdetr_core.lineage.compose import compose
from rfdetr_core.lineage.records import write_record
from rfdetr_core.selection.select import select
from tests.checkpoint.tiny import tiny_checkpoint

Metadata = dict[str, dict[str, str]]  # value by path of the image and column
RUN = {"host": "runner", "started": "2026-01-02T03:04:05+02:00", "seconds": 60.5}
# A text for each image, by split and path, says what the image has:
# "a": the bytes "a", without labels.
# "a moved": the bytes "a", with the labels "moved".
# "a~1": other bytes that have the pixels of "a".
Images = dict[str, dict[str, str]]


class Repository:
    """A clone whose commits are results. Its commands run the real git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def train(
        self,
        seed: int,
        images: Images,
        *,
        lr: float = 1e-4,
        parent: str | None = None,
        parents: dict[str, Any] | None = None,
        notes: str = "",
        metadata: Metadata | None = None,
        older: bool = False,
    ) -> Path:
        """Write the files of a training and return its model.

        Args:
            seed: Determines the weights.
            images: The images of each split.
            lr: The learning rate in the params.
            parent: The tensor digest of the weights that it started from.
            parents: The parents in the training record, instead of `parent`.
            notes: train.notes in the params.
            metadata: The metadata of images; None for a training that is older than metadata.
            older: The training is older than pixel digests and Merkle roots.
        """
        for split in ("train", "valid", "test"):
            rows = [row(path, content) for path, content in images.get(split, {}).items()]
            rows = [replace(entry, pixels=None) for entry in rows] if older else rows
            write_manifest(self.folder / "manifest" / f"{split}.json", rows)
            if metadata is not None:
                known = {path: metadata[path] for path in images.get(split, {}) if path in metadata}
                write_metadata(self.folder / "metadata" / f"{split}.csv", known)
        output = self.folder / "output"
        output.mkdir(exist_ok=True)
        selection = select({"val/mAP_50_95": tracks(seed), "epochs": 3})
        if parent:
            parents = {"pretrain_weights": {"name": "promoted.pth", "sha256": "0" * 64, "tensors": parent}}
        record = self.record(lr, parents or {}, notes)
        if not older:
            record["roots"] = {split: roots(read_manifest(self.manifest(split))) for split in ("train", "valid")}
        best = replace(tiny_checkpoint(seed), epoch=1, training_record=record)
        write_checkpoint(output / "checkpoint_best_ema.pth", best)
        lineage = compose(best, selection)
        model = output / "checkpoint_best_total.pth"
        stripped = replace(best, epoch=None, training_record=None, lineage=lineage)
        write_checkpoint(model, replace(stripped, best_total_source=selection["winner"]))
        write_record(self.folder / "records", model, lineage, RUN)
        self.evaluate(model)
        self.lock()
        return model

    def record(self, lr: float, parents: dict[str, Any], notes: str) -> dict[str, Any]:
        named = {f"manifest/{split}.json": provenance.identity(self.manifest(split)) for split in ("train", "valid")}
        inputs = {name: identity.pop("sha256") for name, identity in named.items()}
        return {
            "params": {"model": {}, "train": {"lr": lr, "seed": 0, "notes": notes}},
            "inputs": inputs,
            "files": named,
            "counts": {split: {"images": 1, "objects": 1} for split in ("train", "valid")},
            "parents": parents,
            "code": {"rfdetr_core/training/run.py": "1" * 64},
            "packages": {"torch": "2.15.0"},
            "machine": {"device": "cpu"},
        }

    def evaluate(self, model: Path) -> None:
        tensors = tensor_digest(read_checkpoint(model).weights)
        inputs = provenance.identities([self.manifest("test")])
        content = {"model": provenance.identity(model) | {"tensors": tensors}, "split": "test", "inputs": inputs}
        files.write_json(self.folder / "reports" / "evaluate" / "lineage.json", content)

    def lock(self) -> None:
        """Write a dvc.lock for the files of the working tree."""
        manifests = [f"manifest/{split}.json" for split in ("train", "valid", "test")]
        known = [path.relative_to(self.folder).as_posix() for path in sorted(self.folder.glob("metadata/*.csv"))]
        stages = {
            "validate": ([], manifests + known),
            "train": (manifests[:2], ["output/checkpoint_best_ema.pth"]),
            "strip": (["output/checkpoint_best_ema.pth"], ["output/checkpoint_best_total.pth"]),
            "evaluate": (["output/checkpoint_best_total.pth", manifests[2]], ["reports/evaluate/lineage.json"]),
        }
        if (self.folder / "output" / "export").exists():
            stages["export"] = (["output/checkpoint_best_total.pth"], ["output/export", "output/export.json"])
        content = {
            name: {
                "cmd": f"exec python -m stages.{name}",
                "deps": list(map(self.entry, deps)),
                "outs": list(map(self.entry, outs)),
            }
            for name, (deps, outs) in stages.items()
        }
        (self.folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": content}, sort_keys=False))

    def entry(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if path.is_dir():
            return {"path": name, "hash": "md5", "md5": f"{files.md5_bytes(self.listing(name))}.dir"}
        return {"path": name, "hash": "md5", "md5": files.md5_file(path), "size": path.stat().st_size}

    def listing(self, name: str) -> bytes:
        """The listing that DVC's cache has for a folder."""
        paths = sorted((self.folder / name).iterdir())
        return json.dumps([{"md5": files.md5_file(path), "relpath": path.name} for path in paths]).encode()

    def manifest(self, split: str) -> Path:
        return self.folder / "manifest" / f"{split}.json"

    def commit(self, subject: str, *, without: tuple[str, ...] = ()) -> str:
        """Commit the files that the pipeline tracks in git, except for `without`, and return the commit's id."""
        without += ("output/record.json",) if "records" in without else ()
        names = ["dvc.lock", "manifest", "records", "output/record.json", "reports/evaluate/lineage.json"]
        names += [name for name in ("metadata", "output/export.json") if (self.folder / name).exists()]
        names = [name for name in names if name not in without]
        self.git("add", *names)
        self.git("commit", "-q", "-m", subject)
        return self.git("rev-parse", "HEAD")


def row(path: str, content: str) -> ManifestRow:
    pixels, _, labels = content.partition(" ")
    return ManifestRow(path, sha256_of(pixels), 64, 48, sha256_of(f"labels {labels}"), pixels_of(pixels))


def pixels_of(word: str) -> str:
    return sha256_of(f"pixels of {word.partition('~')[0]}")


def sha256_of(word: str) -> str:
    return files.sha256_bytes(word.encode())


def tracks(seed: int) -> dict[str, Any]:
    return {"regular": {"score": 0.1, "epoch": 0}, "ema": {"score": 0.2 + seed / 100, "epoch": 1}}


def audit(capsys: pytest.CaptureFixture[str], repository: Repository, *arguments: object, status: int = 0) -> str:
    """Run the command audit on a repository, check its exit status, and return what it prints."""
    command = ["audit", *map(str, arguments), "--repo", str(repository.folder)]
    if status:
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == status
    else:
        main(command)
    return capsys.readouterr().out


def conforms(name: str, answer: dict[str, Any]) -> None:
    """Assert that an answer matches its schema and has no key that the schema lacks."""
    schema = ANSWERS[name]
    schema.model_validate(answer)
    assert answer.keys() <= {info.alias or key for key, info in schema.model_fields.items()}


def audit_json(capsys: pytest.CaptureFixture[str], repository: Repository, *arguments: object, status: int = 0) -> Any:
    """Run the command audit with --json and return the answer."""
    return json.loads(audit(capsys, repository, *arguments, "--json", status=status))
