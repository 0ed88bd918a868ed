"""To add a term of the loss, a row of the table is enough."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rfdetr_core.base.code import ROOT
from rfdetr_core.config.reference import markdown
from rfdetr_core.loss import formulas, terms
from rfdetr_core.loss.criterion import Criterion, Losses
from rfdetr_core.loss.matcher import Matched
from rfdetr_core.loss.terms import TERMS, LossConfig, Term
from rfdetr_core.training.config import TrainConfig
from tests.loss.synthetic import GROUPS, gradients, make_output, make_targets

ENDINGS = ("", "_0", "_1", "_enc")  # suffixes of the layers of `make_output`
ADDED = """
from rfdetr_core.loss import terms
terms.TERMS += (terms.Term("loss_new", "new_loss_coef", terms.loss_giou, default=0, description="news"),)
from rfdetr_core.base.params import parse
from rfdetr_core.config.reference import markdown
from rfdetr_core.training.config import TrainConfig
assert terms.LossConfig.of(vars(parse(TrainConfig, {"new_loss_coef": 3}, "train"))).weights["new_loss_coef"] == 3
keys = list(TrainConfig().model_dump())
assert keys.index("new_loss_coef") == keys.index("mask_point_sample_ratio") - 1
assert "| new_loss_coef | number, from 0 | 0.0 | weight of the news |" in markdown()
nothing = dict.fromkeys((term.coefficient for term in terms.TERMS if not term.mask), 0.0)
TrainConfig(**nothing | {"new_loss_coef": 1.0})
try:
    TrainConfig(**nothing)
except ValueError as error:
    assert "new_loss_coef are all 0" in str(error)
else:
    raise AssertionError
import sys
assert "torch" not in sys.modules
"""


def losses(masks: bool = False, **weights: float) -> Losses:
    output, targets = make_output(2, masks=masks), make_targets([3, 1], masks=masks)
    return Criterion(LossConfig.of(weights))(output, targets, groups=GROUPS, point_seed=1)


def area(matched: Matched) -> Tensor:
    """A term that upstream does not have."""
    return (matched.predicted_boxes[:, 2:] - matched.target_boxes[:, 2:]).prod(1).square().sum()


def add(monkeypatch: pytest.MonkeyPatch, function: Callable[[Matched], Tensor], **changes: Any) -> None:
    row = Term("loss_area", "area_loss_coef", function, **{"default": 0.0, "description": "areas"} | changes)
    monkeypatch.setattr(terms, "TERMS", (*TERMS, row))


@pytest.mark.parametrize("masks", [False, True])
def test_a_term_with_weight_0_is_not_computed(monkeypatch: pytest.MonkeyPatch, masks: bool) -> None:
    before = losses(masks)
    add(monkeypatch, lambda matched: pytest.fail("computed"))
    after = losses(masks)
    assert after.total.equal(before.total)
    assert list(after.terms) == list(before.terms)
    assert all(value.equal(before.terms[name]) for name, value in after.terms.items())


@pytest.mark.parametrize("masks", [False, True])
def test_a_term_is_added_with_its_weight_and_does_not_change_the_others(
    monkeypatch: pytest.MonkeyPatch, masks: bool
) -> None:
    before = losses(masks)
    add(monkeypatch, area)
    after = losses(masks, area_loss_coef=0.7)
    new = [after.terms.pop(f"loss_area{ending}") for ending in ENDINGS]
    assert after.terms.keys() == before.terms.keys()
    assert all(value.equal(before.terms[name]) for name, value in after.terms.items())
    assert (after.total - before.total).item() == pytest.approx(0.7 * sum(value.item() for value in new))


def test_a_mask_term_exists_only_for_outputs_with_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, lambda matched: matched.mask_samples[0].square().sum(), default=1.0, mask=True)
    assert "loss_area" in losses(masks=True).terms
    assert "loss_area" not in losses().terms


@pytest.mark.parametrize("term", [term for term in TERMS if term.default], ids=lambda term: term.name)
def test_without_a_weight_the_other_terms_stay_and_every_output_has_a_gradient(term: Term) -> None:
    """The mask points are the same, too. DDP waits for the gradient of every parameter."""
    output, targets = make_output(2, masks=term.mask), make_targets([3, 1], masks=term.mask)
    # Matching uses the same weights for its mask costs. With one object and one query the pairs stay the same.
    if term.mask:
        output, targets = make_output(1, queries=1, masks=True), make_targets([1], masks=True)
    whole = Criterion()(output, targets, groups=GROUPS, point_seed=1)
    part = Criterion(LossConfig.of({term.coefficient: 0.0}))(output, targets, groups=GROUPS, point_seed=1)
    remaining = {name: value for name, value in whole.terms.items() if name not in {term.name + end for end in ENDINGS}}
    assert part.terms.keys() == remaining.keys()
    assert all(value.equal(remaining[name]) for name, value in part.terms.items())
    missing = sum(term.default * whole.terms[term.name + end].item() for end in ENDINGS)
    assert part.total.item() == pytest.approx(whole.total.item() - missing)
    assert all(gradient.isfinite().all() for gradient in gradients(output, part.total))


@pytest.mark.parametrize("weights", [{"mask_ce_loss_coef": 0.0, "mask_dice_loss_coef": 0.0}, {"cls_loss_coef": 0.0}])
def test_outputs_of_no_term_have_a_gradient_of_zero(weights: dict[str, float]) -> None:
    output = make_output(2, masks=True)
    losses = Criterion(LossConfig.of(weights))(output, make_targets([3, 1], masks=True), groups=GROUPS, point_seed=1)
    every = gradients(output, losses.total)  # for each layer: logits, boxes, and the masks' pixels, queries and bias
    unreached = range(0, 1) if "cls_loss_coef" in weights else range(2, 5)
    assert [number for number, value in enumerate(every) if not value.any()] == [
        5 * layer + number for layer in range(len(ENDINGS)) for number in unreached
    ]


def test_the_points_of_masks_are_drawn_once_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    draw = formulas.uncertain_points
    monkeypatch.setattr(formulas, "uncertain_points", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    losses(masks=True)
    assert len(drawn) == len(ENDINGS)
    assert not drawn[0].equal(drawn[1])


def test_every_term_has_its_option_and_its_line_of_documentation() -> None:
    page = markdown()
    options = TrainConfig()
    assert LossConfig.of(vars(options)) == LossConfig()
    for term in TERMS:
        field = TrainConfig.model_fields[term.coefficient]
        assert (field.annotation, field.default) == (float, term.default)
        assert term.description in (field.description or "")
        assert getattr(options, term.coefficient) == term.default
        assert f"| {term.coefficient} | number, from 0 | {float(term.default)} | {field.description} |" in page
        with pytest.raises(ValueError, match=term.coefficient):
            TrainConfig(**{term.coefficient: -1.0})


def test_a_new_row_adds_its_option_without_importing_torch() -> None:
    subprocess.run([sys.executable, "-c", ADDED], cwd=ROOT, check=True)


def test_names_are_unique_and_differ_from_names_of_layers() -> None:
    for names in ({term.name for term in TERMS}, {term.coefficient for term in TERMS}):
        assert len(names) == len(TERMS)
    # In history.csv a number, enc or aux after the last _ means a layer.
    assert not [term.name for term in TERMS if not re.fullmatch(r"loss_\w+(?<!_enc)(?<!_aux)(?<!_)(?<!\d)", term.name)]


def test_the_weight_of_a_term_is_in_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, area)
    output, targets = make_output(1), make_targets([4])
    weight_1, two, four = (
        torch.cat([value.flatten() for value in gradients(output, losses.total)])
        for weight in (1.0, 2.0, 4.0)
        for losses in [Criterion(LossConfig.of({"area_loss_coef": weight}))(output, targets, groups=GROUPS)]
    )
    torch.testing.assert_close(four - two, 2 * (two - weight_1))
    assert (two - weight_1).any()
