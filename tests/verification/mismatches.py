"""What `verify` says."""

from __future__ import annotations

import contextlib
import json

import pytest

from rfdetr_core.cli import main
from tests.audit.repository import Repository, conforms


def verify(capsys: pytest.CaptureFixture[str], repository: Repository, *arguments: object) -> list[str]:
    """What does not hold."""
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main(["verify", *map(str, arguments), "--repo", str(repository.folder), "--json"])
    answer = json.loads(capsys.readouterr().out)
    conforms("verify", answer)
    return [one["what"] for one in answer["mismatches"]]
