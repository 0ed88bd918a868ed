from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import write_plain
from rfdetr_core.model.config import VARIANTS, ModelConfig
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.trainer import Probe, devices, largest, usable, with_batch_size

AUTO = TrainConfig(batch_size="auto", accelerator="cpu")


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 31, 32, 33, 127, 128, 1000])
def test_the_largest_batch_that_fits_is_found_in_few_tries(most: int) -> None:
    tried: list[int] = []

    def fits(images: int) -> bool:
        tried.append(images)
        return images <= most

    assert largest(fits) == min(most, 128)
    assert len(tried) <= 15
    assert max(tried) <= min(2 * most, 128)


def test_a_device_too_small_for_one_image_is_an_error() -> None:
    with pytest.raises(UserError, match="gradient_checkpointing"):
        largest(lambda images: False)


def test_the_batch_is_a_part_of_the_largest_one_and_smaller_with_ema() -> None:
    # upstream, training/auto_batch.py: floor(floor(most * 0.9) * 0.7), at least 1
    assert [usable(most, AUTO) for most in (1, 2, 10, 128)] == [1, 1, 6, 80]
    assert [usable(most, AUTO.model_copy(update={"use_ema": False})) for most in (1, 2, 10, 128)] == [1, 1, 9, 115]


def sized(config: TrainConfig, state: Path) -> tuple[int | str, int]:
    made = with_batch_size(config, ModelConfig(), VARIANTS["pico"], 64, state)
    return made.batch_size, made.grad_accum_steps


def test_without_cuda_the_batch_size_is_fixed_and_steps_reach_the_target(tmp_path: Path) -> None:
    state = tmp_path / "checkpoint.pth"
    assert sized(AUTO, state) == (4, 4)
    assert sized(AUTO.model_copy(update={"auto_batch_target_effective": 3}), state) == (3, 1)
    assert sized(TrainConfig(batch_size=7, grad_accum_steps=2), state) == (7, 2)


def test_an_interrupted_training_keeps_its_batch_size(tmp_path: Path) -> None:
    state = tmp_path / "checkpoint.pth"
    for finished, size in ((False, (6, 3)), (True, (4, 4))):
        write_plain(state, {"run": {"finished": finished, "fingerprint": {"machine.batch_size": 6}}})
        assert sized(AUTO, state) == size


def test_devices_of_all_nodes_are_counted() -> None:
    assert devices(TrainConfig(accelerator="cpu", devices=3, num_nodes=2)) == 6
    assert devices(TrainConfig(accelerator="cpu", devices="auto", num_nodes=2)) == 2


@pytest.mark.parametrize("variant", ["pico", "seg-pico"])
def test_the_probe_runs_a_whole_step_and_reports_short_memory(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(variant=variant, resolution=48 if variant == "seg-pico" else 64, num_queries=4, group_detr=1)
    probe = Probe(AUTO, model, model.architecture(classes=2), 96, device="cpu")
    assert probe(2)
    assert len(probe.optimizer.state) > 100
    detector = probe.detector

    def full(images: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(probe, "detector", full)
    assert not probe(2)
    monkeypatch.setattr(probe, "detector", detector)
    assert probe(1)
