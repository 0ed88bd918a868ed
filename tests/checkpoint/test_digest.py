from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest, write_checkpoint
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
