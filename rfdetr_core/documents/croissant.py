"""To be written."""

from __future__ import annotations

from rfdetr_core.documents.facts import Facts


def croissant(facts: Facts) -> str:
    """Not written yet."""
    return ""
