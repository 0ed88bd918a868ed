from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint, read_plain
from rfdetr_core.training.nonfinite import FILE, NonFiniteError, replay
from rfdetr_core.training.trainer import build_trainer
from tests.training.test_module import prepared
from tests.training.tiny import train


def poisoned(where: ProjectPaths, folder: Path) -> str:
    """Write weights that are finite but give a loss that is not. Returns the file's name."""
    train(where, folder, train={"epochs": 1})
    weights = torch.load(folder / "checkpoint_best_regular.pth", weights_only=True)
    weights["model"]["class_embed.bias"].fill_(3e38)
    torch.save(weights, where.weights / "poisoned.pth")
    return "poisoned.pth"


@pytest.mark.slow
def test_a_batch_that_is_not_finite_is_saved_and_computed_again(where: ProjectPaths, tmp_path: Path) -> None:
    output = tmp_path / "output"
    model = {"pretrain_weights": poisoned(where, tmp_path / "before")}
    with pytest.raises(
        UserError, match=r"loss (nan|inf).*learning rate 0.001.*train/\d+\.png.*To compute the loss again"
    ) as raised:
        train(where, output, model=model, train={"multi_scale": "per-sample"})
    kept = read_plain(output / FILE)
    assert all(path in str(raised.value) for path in kept["batch"]["paths"])
    assert set(kept["losses"]) == set(replay(output / FILE))
    assert not math.isfinite(replay(output / FILE)["loss_ce"])
    done = subprocess.run(
        [sys.executable, "-m", "rfdetr_core.training.nonfinite", str(output / FILE)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "loss_bbox" in done.stdout
    assert not (output / "checkpoint.pth").exists()


def test_the_saved_weights_are_those_of_the_step_and_give_its_loss(where: ProjectPaths, tmp_path: Path) -> None:
    """The gradient of the second step is made infinite, although its loss is finite."""
    training, config = prepared(where, multi_scale="off")
    module, seen = training.module, list[dict[str, Any]]()

    def spoil(optimizer: torch.optim.Optimizer) -> None:
        seen.append({name: value.clone() for name, value in module.detector.state_dict().items()})
        gradient = module.detector.get_parameter("class_head.bias").grad
        if len(seen) == 2 and gradient is not None:
            gradient.fill_(float("inf"))

    module.on_before_optimizer_step = spoil  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="the gradient of step 1") as raised:
        build_trainer(config).fit(module, training.data)
    raised.value.saved(tmp_path)
    weights = read_checkpoint(tmp_path / FILE).weights
    assert all(value.equal(weights[name]) for name, value in seen[1].items())
    assert replay(tmp_path / FILE) == pytest.approx(read_plain(tmp_path / FILE)["losses"], rel=1e-5)


def test_a_saved_batch_whose_weights_are_not_finite_is_computed_again(where: ProjectPaths, tmp_path: Path) -> None:
    training, config = prepared(where, multi_scale="off")
    module = training.module
    module.detector.get_parameter("class_head.bias").data.fill_(float("nan"))
    with pytest.raises(NonFiniteError) as raised:
        build_trainer(config).fit(module, training.data)
    raised.value.saved(tmp_path)
    with pytest.raises(UserError, match=r"class_embed\.bias has values that are not finite"):
        read_checkpoint(tmp_path / FILE)
    assert math.isnan(replay(tmp_path / FILE)["loss_ce"])


def test_a_fused_step_that_found_infinity_changes_nothing() -> None:
    """So the saved weights are those that the step used, also on CUDA."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.full((3,), float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert parameter.tolist() == [1, 1, 1]
    parameter.grad.fill_(1)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert (parameter < 1).all()
