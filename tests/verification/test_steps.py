from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_core.base.chain import chain_link, first_difference
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.reproduce import first_step
from rfdetr_core.verification.steps import STEPS, check_chain, check_weights

ROWS = ["1,5,2.5,,", "1,10,2.25,aa,bb", "2,15,2.0,,", "2,20,1.5,cc,"]


def text(rows: list[str]) -> str:
    lines = ["epoch,step,loss,regular,ema,chain"]
    for row in rows:
        lines.append(f"{row},{chain_link(lines[-1], row)}")
    return "".join(f"{line}\n" for line in lines)


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    """A project that has only steps.csv."""
    (tmp_path / "dvc.yaml").write_text("")
    (tmp_path / STEPS).parent.mkdir()
    (tmp_path / STEPS).write_text(text(ROWS))
    return Contents(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("2.25", "2.5", 3), ("1,10,2.25", "1,10,2.250", 3), ("2,15,", "2,16,", 4), (",cc,", ",dd,", 5), ("loss", "x", 2)],
    ids=["a loss", "the way it is written", "a step", "a digest of weights", "a column's name"],
)
def test_a_changed_cell_is_found(contents: Contents, old: str, new: str, line: int) -> None:
    path = contents.root / STEPS
    path.write_text(path.read_text().replace(old, new, 1))
    report = Report()
    check_chain(report, contents)
    assert [actual for _, _, actual in report.mismatches] == [
        f"line {line}, which does not follow from the line before"
    ]


def test_what_was_written_holds_and_an_older_training_has_no_steps(contents: Contents) -> None:
    for _ in range(2):
        report = Report()
        check_chain(report, contents)
        check_weights(report, contents, "a.pth", "regular", 1, "aa")
        assert not report.mismatches
        (contents.root / STEPS).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("track", "epoch", "digest", "holds"),
    [
        ("regular", 1, "aa", True),
        ("ema", 1, "bb", True),
        ("ema", 2, "cc", True),  # no average: both tracks are the regular weights
        ("regular", 2, "aa", False),
        ("ema", 1, "aa", False),
        ("regular", 3, "aa", False),
    ],
    ids=["regular", "average", "no average", "weights of another epoch", "the other track", "an epoch that never was"],
)
def test_a_model_file_has_the_weights_of_its_epoch(
    contents: Contents, track: str, epoch: int, digest: str, holds: bool
) -> None:
    report = Report()
    check_weights(report, contents, "best.pth", track, epoch, digest)
    assert bool(report.mismatches) is not holds
    assert report.checked == 1


def test_the_first_step_that_differs_is_named(contents: Contents) -> None:
    before = text(ROWS)
    other = text([*ROWS[:2], "2,15,2.125,,", "2,20,1.75,dd,"])
    words = "from step 15 on, in epoch 2 (loss 2.0, here 2.125; equal up to step 10)"
    assert first_difference(before, other) == words
    assert first_difference(before, text([*ROWS[:3], "2,20,1.5,dd,"])) == (
        "from step 20 on, in epoch 2 (regular cc, here dd; equal up to step 15)"
    )
    assert first_difference(before, text(ROWS[:3])) == "after step 15"
    assert first_difference(before, "") == "after step 0"
    assert first_difference(before, before) is None
    assert first_step(other.encode(), contents.root / STEPS).endswith("(loss 2.125, here 2.0; equal up to step 10)")
    assert first_step(before.encode(), contents.root / STEPS) == ""
    assert first_step(None, contents.root / STEPS) == first_step(b"", contents.root / "gone") == ""
