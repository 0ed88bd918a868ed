"""To be written."""

from __future__ import annotations

from rfdetr_core.documents.facts import Facts


def annex_iv(facts: Facts) -> str:
    """Not written yet."""
    return ""
