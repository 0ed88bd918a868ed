"""What the environment of a run was."""

from __future__ import annotations

from typing import Any


def observed() -> dict[str, Any]:
    """What an entry of the journal says of the environment."""
    return {}
