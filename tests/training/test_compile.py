from __future__ import annotations

import copy
import importlib.util
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint, read_plain
from rfdetr_core.checkpoint.keys import to_upstream
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import Target
from rfdetr_core.training import compilation, record
from rfdetr_core.training.compilation import PlainValidation, code_generator, compile_regions, compiler_settings
from rfdetr_core.training.config import TrainConfig
from tests.small import SMALL, random_images, random_weight
from tests.training.test_distributed import TWO, rows, trained
from tests.training.test_resume import fingerprint, start, stopped
from tests.training.tiny import OUTS, make_files, outs, script, train, write_state


def missing() -> str:
    """The reason why this machine cannot compile."""
    try:
        code_generator("cpu")
    except UserError as error:
        return str(error)
    return ""


COMPILES = pytest.mark.skipif(bool(missing()), reason=missing())
COMPILED = TrainConfig(compile="default")
# Two steps per epoch, each at one of a few sizes.
CHANGES: dict[str, Any] = {"train": {"compile": "default", "multi_scale": "per-batch", "expanded_scales": False}}


@pytest.fixture(autouse=True, scope="module")
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of compiled code, shared by all processes of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(scope="module")
def compiled(where: ProjectPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted compiled training."""
    output = tmp_path_factory.mktemp("compiled") / "output"
    train(where, output, **CHANGES)
    return output


def loss_and_gradients(detector: nn.Module, dtype: torch.dtype, half: bool) -> tuple[float, dict[str, Tensor]]:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.rand(3, 4, generator=generator, dtype=dtype) * 0.3 + 0.3 for _ in range(2)]
    masks = [torch.rand(3, 64, 64, generator=generator) > 0.5 for _ in range(2)]
    targets = [Target(torch.arange(3), *pair) for pair in zip(boxes, masks, strict=True)]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = detector(random_images(2, 3, 64, 64, dtype=dtype))
    loss = Criterion()(output, targets, groups=SMALL.groups, point_seed=0).total
    loss.backward()
    return loss.item(), {
        name: parameter.grad for name, parameter in detector.named_parameters() if parameter.grad is not None
    }


# In float64, rounding does not change which of two tokens of almost equal score becomes a proposal.
@COMPILES
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "segmentation", "dtype", "half", "tolerance"),
    [
        ({}, False, torch.float32, True, 2e-2),
        ({"drop_path": 0.3, "gradient_checkpointing": True}, False, torch.float64, False, 1e-10),
        ({"freeze_encoder": True}, True, torch.float64, False, 1e-10),
    ],
    ids=["bf16", "drop path and checkpointing", "segmenter, encoder frozen"],
)
def test_a_compiled_step_equals_an_uncompiled_step(
    options: dict[str, Any], segmentation: bool, dtype: torch.dtype, half: bool, tolerance: float
) -> None:
    plain = build_detector(replace(SMALL, segmentation=segmentation), **options).train()
    plain.load_state_dict(
        {name: random_weight(to_upstream(name), tensor) for name, tensor in plain.state_dict().items()}
    )
    detector = copy.deepcopy(plain.to(dtype))
    compile_regions(detector)
    assert list(detector.state_dict()) == list(plain.state_dict())
    with compiler_settings(COMPILED):
        loss, gradients = loss_and_gradients(detector, dtype, half)
    expected, expected_gradients = loss_and_gradients(plain, dtype, half)
    assert loss == pytest.approx(expected, rel=tolerance)
    assert gradients.keys() == expected_gradients.keys()
    # Relative to all gradients: some are 0 except for rounding, such as that of a key's bias.
    whole = float(torch.cat([gradient.flatten() for gradient in expected_gradients.values()]).norm())
    for name, expected_gradient in expected_gradients.items():
        assert float((gradients[name] - expected_gradient).norm()) <= tolerance * whole, name


@COMPILES
@pytest.mark.slow
def test_a_second_compiled_training_has_equal_bytes(where: ProjectPaths, compiled: Path, output: Path) -> None:
    process = start(script(where, output, **CHANGES))
    output_text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output_text
    assert outs(output) == outs(compiled)


@COMPILES
@pytest.mark.slow
def test_a_compiled_training_that_is_killed_and_resumed_equals_an_uninterrupted_one(
    where: ProjectPaths, compiled: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = stopped(where, output, signal.SIGKILL, **CHANGES)
    assert status == -signal.SIGKILL
    assert train(where, output, **CHANGES) == outs(compiled)
    assert "resuming after epoch" in capsys.readouterr().out


@COMPILES
@pytest.mark.slow
def test_a_compiled_training_writes_the_same_files_and_nearly_the_same_losses(
    where: ProjectPaths, compiled: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    train(where, plain, train=CHANGES["train"] | {"compile": "off"})
    for name in (*OUTS[:2], "checkpoint.pth"):
        weights, plain_weights = (read_checkpoint(folder / name).weights for folder in (compiled, plain))
        assert {key: tensor.shape for key, tensor in weights.items()} == {
            key: tensor.shape for key, tensor in plain_weights.items()
        }
    assert read_plain(compiled / "checkpoint.pth").keys() == read_plain(plain / "checkpoint.pth").keys()
    compiled_row, plain_row = (rows(outs(folder))[0] for folder in (compiled, plain))
    assert float(compiled_row["train/loss"]) == pytest.approx(float(plain_row["train/loss"]), rel=1e-3)


@COMPILES
@pytest.mark.slow
def test_two_compiled_processes_train_like_one_uncompiled_process(tmp_path: Path) -> None:
    where = make_files(tmp_path)
    config = {"epochs": 2, "multi_scale": "off"}
    one_process = train(where, tmp_path / "one", train=config | {"batch_size": 2})
    two_processes = trained(tmp_path, where, "two", **config, batch_size=1, compile="default", **TWO)
    for row, row_of_two in zip(rows(one_process), rows(two_processes), strict=True):
        # Only the losses: a score jumps where two detections swap.
        for name in (name for name in row if name.startswith("train/")):
            assert float(row_of_two[name]) == pytest.approx(float(row[name]), rel=1e-3, abs=1e-4), name


class StandIn:
    """A stand-in for a detector in `compile_regions`, with one layer that compiles quickly."""

    def __init__(self) -> None:
        self.layer = nn.Linear(2, 2)
        self.encoder = SimpleNamespace(blocks=[self.layer, nn.Linear(2, 2)], feature_indexes=[1])
        self.decoder = SimpleNamespace(layers=[])


@COMPILES
@pytest.mark.slow
def test_beyond_the_limit_only_validation_runs_uncompiled_and_settings_are_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch._dynamo
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    def settings() -> tuple[Any, ...]:
        limits = dynamo.recompile_limit, dynamo.accumulated_recompile_limit, dynamo.fail_on_recompile_limit_hit
        return *limits, dynamo.optimize_ddp, inductor.fallback_random, inductor.deterministic, inductor.cpp.threads

    monkeypatch.setattr(compilation, "_MOST_VARIANTS", 1)
    torch._dynamo.reset()
    before, network, validation, unused = settings(), StandIn(), PlainValidation(), (None, None)
    compile_regions(network)
    with compiler_settings(COMPILED):
        network.layer(torch.zeros(3, 2))
        validation.on_validation_start(*unused)  # type: ignore[arg-type]
        torch.testing.assert_close(network.layer(torch.zeros(4, 2)), network.layer.bias.expand(4, 2))
        validation.on_validation_end(*unused)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="recompile_limit") as raised:
            network.layer(torch.zeros(4, 2))
    message = compilation.failure(raised.value)
    assert "train.compile: off" in str(message)
    assert settings() == before
    torch._dynamo.reset()


def test_other_errors_are_not_reported_as_compiler_errors() -> None:
    assert compilation.failure(RuntimeError("torch._dynamo")) is None


@pytest.mark.parametrize(("value", "mode"), [(True, "default"), (False, "off"), ("default", "default"), ("off", "off")])
def test_compile_is_off_or_default(value: bool | str, mode: Literal["off", "default"]) -> None:
    assert parse(TrainConfig, {"compile": value}, "train").compile == mode


def test_off_is_the_default_and_another_mode_is_an_error() -> None:
    assert TrainConfig().compile == "off"
    with pytest.raises(UserError, match=r"train\.compile"):
        parse(TrainConfig, {"compile": "max-autotune"}, "train")


@COMPILES
def test_a_training_starts_from_scratch_when_compile_changes(where: ProjectPaths, tmp_path: Path) -> None:
    old = fingerprint(where, tmp_path)
    assert "machine.compiler" not in old
    write_state(tmp_path, {"epoch": 0, "run": {"fingerprint": old, "finished": False}})
    new = fingerprint(where, tmp_path, train={"compile": "default"})
    assert new["machine.compiler"] == code_generator("cpu")
    state, message = record.state_to_resume(tmp_path, new)
    assert state is None
    assert "params.train.compile was off, is default" in message


def test_without_a_compiler_nothing_starts(where: ProjectPaths, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(output))
    with pytest.raises(UserError, match=r"train\.compile needs a C\+\+ compiler.*Install g\+\+.*train\.compile: off"):
        train(where, output, train={"compile": "default"})
    assert not (output / "checkpoint.pth").exists()


def test_without_triton_or_a_c_compiler_cuda_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"needs Triton on CUDA.*train\.compile: off"):
            code_generator("cuda")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match=r"needs a C compiler for Triton.*train\.compile: off"):
        code_generator("cuda")


def test_without_headers_of_python_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compilation.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(UserError, match=r"needs the file Python\.h.*train\.compile: off"):
        code_generator("cpu")


def test_mps_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.compile does not work on mps"):
        code_generator("mps")
