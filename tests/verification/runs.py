"""A test project whose stages only write files, with dvc.lock and journal as in a real project. It is fast."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from rfdetr_core.base import files
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.lock import Entry, Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.journal import check_journal
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report

TRAIN, EVALUATE = "output/history.csv", "reports/evaluate/detections.json"


class Runs:
    """A git repository with two stages: `train` writes output/history.csv; `evaluate` reads it, writes detections."""

    def __init__(self, folder: Path, inside: str = "") -> None:
        self.top, self.folder = folder, folder / inside
        self.folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", str(folder))
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        (self.folder / "dvc.yaml").write_text("stages: {}\n")

    def git(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.folder, check=check, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message: str = "result") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def run(self, seed: int, *, note: bool = True, began: float = 0.0) -> tuple[Path, Path]:
        """Run both stages and return the paths of their entries. note: False if DVC restored the results instead."""
        train, evaluate = f"loss\n{seed}\n", f'{{"of": {seed}}}\n'
        files.write_text(self.folder / TRAIN, train)
        first = self._did("train", {"params.yaml": {"train": {"seed": seed}}}, [], TRAIN, began=began, note=note)
        files.write_text(self.folder / EVALUATE, evaluate)
        return first, self._did("evaluate", {}, [TRAIN], EVALUATE, began=began, note=note)

    def _did(self, stage: str, params: dict[str, Any], deps: list[str], out: str, *, began: float, note: bool) -> Path:
        raw = {
            "cmd": f"run {stage}",
            "deps": list(map(self.output_entry, deps)),
            "params": params,
            "outs": [self.output_entry(out)],
        }
        self.lock(stage, raw)
        if note:
            return journal.write(self.folder, stage, Entry.of(raw), began)
        return Path()

    def output_entry(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return {"path": name, "hash": "md5", "md5": files.md5_file(path), "size": path.stat().st_size}

    def lock(self, stage: str, raw: dict[str, Any]) -> None:
        """Write an entry of dvc.lock."""
        path = self.folder / "dvc.lock"
        content = yaml.safe_load(path.read_text()) if path.exists() else {"schema": "2.0", "stages": {}}
        content["stages"][stage] = raw
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def locked(self, stage: str) -> dict[str, Any]:
        """Read an entry of dvc.lock."""
        return Lock.read(self.folder).stages[stage].raw

    def check(self, *, only_git: bool = False) -> Report:
        report = Report()
        check_journal(report, Contents(self.folder), Pipeline({}, Lock.read(self.folder)), only_git=only_git)
        return report

    def printed_lines(self) -> tuple[list[str], list[str]]:
        """The printed lines of mismatches, and of what was not checked."""
        lines = self.check().lines()
        unchecked = [line for line in lines if line.startswith("not checked: ")]
        return [line for line in lines[:-1] if not line.startswith(("not checked: ", "note: "))], unchecked
