from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.selection.select import RULE, select


def scores(regular: float | None, ema: float | None) -> dict[str, Any]:
    tracks = {"regular": {"score": regular, "epoch": 4}, "ema": {"score": ema, "epoch": 7}}
    return {"val/mAP_50_95": tracks, "epochs": 9}


@pytest.mark.parametrize(("regular", "ema"), [(0.2, 0.2), (0.3, 0.2), (0.0, 0.0), (0.2, None), (0.2, math.nan)])
def test_without_a_strictly_higher_ema_score_the_regular_weights_win(regular: float, ema: float | None) -> None:
    assert select(scores(regular, ema))["winner"] == "regular"


@pytest.mark.parametrize("regular", [0.2, 0.0, None, math.nan, -math.inf])
def test_a_strictly_higher_ema_score_wins(regular: float | None) -> None:
    assert select(scores(regular, math.nextafter(0.2, 1)))["winner"] == "ema"


@pytest.mark.parametrize(("regular", "ema"), [(None, None), (math.nan, None), (math.nan, math.inf)])
def test_without_a_finite_score_there_is_no_winner(regular: float | None, ema: float | None) -> None:
    with pytest.raises(UserError, match="val/mAP_50_95"):
        select(scores(regular, ema))


def test_the_selection_has_both_scores_both_epochs_and_the_rule() -> None:
    selection = select(scores(0.25, math.nan))
    assert json.loads(json.dumps(selection, allow_nan=False)) == {
        "winner": "regular",
        "key": "val/mAP_50_95",
        "regular": {"score": 0.25, "epoch": 4},
        "ema": {"score": None, "epoch": 7},
        "epochs": 9,
        "rule": RULE,
    }


@pytest.mark.parametrize(
    "content",
    [
        *({}, [], {"val/mAP_50_95": 1, "epochs": 9}, {"val/mAP_50_95": {"ema": {}}, "epochs": 9}),
        *(scores(0.1, 0.2) | {"another": {}}, {"metric": "map", "regular": {}, "ema": {}, "epochs": 9}),
    ],
)
def test_scores_of_another_version_are_named(content: Any) -> None:
    with pytest.raises(UserError, match=r"scores\.json"):
        select(content)


def test_selection_does_not_import_torch() -> None:
    code = "import sys, rfdetr_core.selection.select; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
