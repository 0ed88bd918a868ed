"""Fail if the gate did not let the new model pass: last, so that the pull request is there to be looked at."""

from __future__ import annotations

from ci.steps import COMPARISON, left, step
from rfdetr_core.base.errors import UserError


def main() -> None:
    """Raise UserError if the verdict is failed."""
    content = left(COMPARISON)
    if content is not None:
        if content["verdict"] == "failed":
            raise UserError(f"the gate failed: {content['why']}. gate.max_drop is the limit.")
        print(f"gate {content['verdict']}: {content['why']}")


if __name__ == "__main__":
    step(main)
