"""Run the command `verify` and read its JSON answer."""

from __future__ import annotations

import contextlib
import json

import pytest

from rfdetr_core.cli import main
from tests.audit.repository import Repository, conforms


def verify(capsys: pytest.CaptureFixture[str], repository: Repository, *arguments: object) -> list[str]:
    """Run `verify --json` and return the subjects of the mismatches."""
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main(["verify", *map(str, arguments), "--repo", str(repository.folder), "--json"])
    answer = json.loads(capsys.readouterr().out)
    conforms("verify", answer)
    return [mismatch["what"] for mismatch in answer["mismatches"]]
