from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.checkpoint.files import (
    content_digest,
    read_checkpoint,
    read_plain,
    tensor_digest,
    write_checkpoint,
    write_plain,
)
from tests.checkpoint.tiny import tiny_checkpoint


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return tiny_checkpoint(0).weights


def test_the_digest_does_not_depend_on_order_container_or_memory(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    digest = tensor_digest(weights)
    assert tensor_digest(dict(reversed(weights.items()))) == digest
    write_checkpoint(tmp_path / "a.pth", replace(tiny_checkpoint(0), args={"other": 1}))
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    torch.save({"model": content["model"]}, tmp_path / "saved again.pt")
    torch.save({"state_dict": {f"model.{k}": v for k, v in content["model"].items()}}, tmp_path / "b.ckpt")
    for name in ("a.pth", "saved again.pt", "b.ckpt"):
        assert tensor_digest(read_checkpoint(tmp_path / name).weights) == digest
    strided = {name: torch.stack([value, value], dim=-1)[..., 0] for name, value in weights.items()}
    assert tensor_digest(strided) == digest


def test_one_changed_bit_or_shape_changes_it(weights: dict[str, torch.Tensor]) -> None:
    digest, name = tensor_digest(weights), "query_boxes"
    for other in (
        torch.nextafter(weights[name], torch.tensor(9.0)),
        weights[name].T.contiguous(),
        weights[name].double(),
    ):
        assert tensor_digest(weights | {name: other}) != digest
    assert tensor_digest({key: value for key, value in weights.items() if key != name}) != digest


def test_a_half_precision_tensor_has_a_digest(weights: dict[str, torch.Tensor]) -> None:
    halved = {name: value.bfloat16() for name, value in weights.items()}
    assert tensor_digest(halved) not in (
        tensor_digest(weights),
        tensor_digest({k: v.half() for k, v in weights.items()}),
    )


STATE: dict[str, Any] = {
    "epoch": 1,
    "run": {"finished": False, "digest": "0" * 64},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "names": ("a", "b")}],
}


def _with(change: Callable[[Any], object]) -> dict[str, Any]:
    changed = copy.deepcopy(STATE)
    change(changed)
    return changed


def test_the_digest_of_a_state_is_equal_after_reading_and_leaves_itself_out(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.pth", STATE)
    digest = content_digest(STATE)
    assert content_digest(read_plain(tmp_path / "a.pth")) == digest
    assert content_digest(_with(lambda content: content["run"].update(digest=digest))) == digest
    assert content_digest(_with(lambda content: content["run"].pop("digest"))) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(epoch=2),
        lambda content: content.update(epoch=True),
        lambda content: content["run"].update(finished=True),
        lambda content: content["optimizer_states"].append({}),
        lambda content: content["optimizer_states"][0].update(names=["a", "b"]),
        lambda content: content["optimizer_states"][0]["state"].update(
            {"0": content["optimizer_states"][0]["state"].pop(0)}
        ),
        lambda content: content["optimizer_states"][0]["state"][0]["exp_avg"].add_(1e-30),
        lambda content: content["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(2, dtype=torch.int32)),
        lambda content: content["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(1, 2)),
    ],
)
def test_the_digest_of_a_state_changes_with_every_value_type_shape_and_key(change: Callable[[Any], object]) -> None:
    assert content_digest(_with(change)) != content_digest(STATE)
