from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.portable import VARIABLES, use_portable
from rfdetr_core.training.trainer import device_kind, resolved_precision
from tests.training.tiny import outs, script, train

# Variables that another machine or its user may have set.
OTHERS = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
SET = (
    "from rfdetr_core.training.config import TrainConfig\n"
    "from rfdetr_core.training.portable import set_variables\n"
    "set_variables(TrainConfig(portable=True))\n"
)


def run(source: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run([sys.executable, "-c", source], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_portable_training_gives_equal_results_for_any_instruction_set(
    where: ProjectPaths, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    digests = []
    for name, variables in {"one": {}, "other": OTHERS | {"ATEN_CPU_CAPABILITY": "default"}}.items():
        done = run(SET + script(where, tmp_path / name, train={"portable": True, "epochs": 1}), tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        made = outs(tmp_path / name)
        digests.append([made[file] for file in ("steps.csv", "history.csv", "scores.json")])
    assert digests[0] == digests[1]
    rows = [text.splitlines()[1:3] for text in (digests[0][0], uninterrupted["steps.csv"])]
    assert rows[0] != rows[1]


@pytest.mark.slow
def test_the_stage_sets_the_variables_before_torch_is_imported(tmp_path: Path) -> None:
    params: dict[str, Any] = {"data": {"dir": "data"}, "model": {}, "train": {"portable": True}, "runtime": {}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = run("from stages.train import main; main()", tmp_path)
    assert "UserError: train.portable needs runtime.threads" in done.stderr


def test_when_it_is_too_late_the_message_says_how_to_start_python(
    where: ProjectPaths, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(portable=True)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="env ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE MKL_DYNAMIC=FALSE python"):
        train(where, output, train={"portable": True})
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(UserError, match="torch computes with AVX512"):
        use_portable(config)
    assert torch.backends.mkldnn.enabled
    use_portable(TrainConfig())


@pytest.mark.parametrize(
    "setting", [{"accelerator": "cuda"}, {"amp_dtype": "bf16"}, {"compile": True}, {"deterministic": False}], ids=str
)
def test_portable_refuses_settings_other_than_fp32_on_a_cpu(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="portable computes in fp32 on the CPU"):
        parse(TrainConfig, {"portable": True} | setting, "train")


def test_portable_computes_in_fp32_on_the_cpu_even_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    config = TrainConfig(portable=True)
    assert (device_kind(config), resolved_precision(config)) == ("cpu", "32-true")
