"""Fail if the gate failed. This is the last step: the pull request is open already."""

from __future__ import annotations

from ci.steps import COMPARISON, nothing_to_do, read_state, step
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say


def main() -> None:
    """Print the verdict of the gate.

    An undecided gate does not fail the run: the title of the pull request says that a person has to decide.

    Raises:
        UserError: the verdict is "failed", or there is no verdict although a stage was to run.
    """
    content = read_state(COMPARISON)
    if content is None:
        if not nothing_to_do():
            raise UserError(f"there is no {COMPARISON}. Run: python -m ci.compare")
        return
    if content["verdict"] == "failed":
        raise UserError(f"the gate failed: {content['why']}.")
    say(f"gate {content['verdict']}: {content['why']}")


if __name__ == "__main__":
    step(main)
