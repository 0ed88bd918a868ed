"""Checkpoint files: a written file is read back, equal content gives equal bytes, and no code of a file ever runs."""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import (
    Checkpoint,
    file_content,
    model_config_of,
    read_checkpoint,
    read_plain,
    write_checkpoint,
    write_plain,
)
from rfdetr_core.model.config import VARIANTS
from tests.checkpoint.tiny import tiny_checkpoint, tiny_record


def _equal(first: Checkpoint, other: Checkpoint) -> bool:
    same = first.weights.keys() == other.weights.keys()
    tensors = all(torch.equal(tensor, other.weights[name]) for name, tensor in first.weights.items())
    return same and tensors and replace(first, weights={}, path=None) == replace(other, weights={}, path=None)


def _upstream_model() -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = file_content(tiny_checkpoint())["model"]
    return model


def test_a_written_checkpoint_is_read_back(tmp_path: Path) -> None:
    checkpoint = replace(
        tiny_checkpoint(),
        epoch=0,
        best_total_source="ema",
        threshold=0.25,
        training_record=tiny_record(inputs={"a": "0" * 64}, note=[None, 1.5, True]),
        rfdetr_version="1.11.2",
    )
    write_checkpoint(tmp_path / "a.pth", checkpoint)
    assert _equal(read_checkpoint(tmp_path / "a.pth"), checkpoint)


def test_the_layout_is_upstreams(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pth", tiny_checkpoint())
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert list(content) == ["model", "args", "rfdetr_version", "model_name", "model_config"]
    assert next(iter(content["model"])) == "_kp_active_mask"
    assert content["model"]["_kp_active_mask"].shape == (0, 0)
    assert content["model"]["_kp_active_mask"].dtype == torch.bool
    assert content["rfdetr_version"] == "1.11.2"
    assert content["args"]["class_names"] == ["class 0", "class 1", "class 2"]
    assert content["args"]["num_queries"] == 6
    assert content["args"]["group_detr"] == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_model_config_has_the_fields_of_upstream(variant: str) -> None:
    assert len(model_config_of(VARIANTS[variant])) == 44


def test_equal_content_is_equal_bytes_whatever_name_order_sharing_or_storage(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    write_checkpoint(tmp_path / "a.pth", checkpoint)
    shared = "".join(["class", " 0"])
    views = {
        name: torch.stack([tensor, tensor + 1], -1)[..., 0] for name, tensor in reversed(checkpoint.weights.items())
    }
    args = checkpoint.args | {"class_names": [shared, "class 1", "class 2"]}
    write_checkpoint(tmp_path / "checkpoint_best_total.pth", replace(checkpoint, weights=views, args=args))
    write_checkpoint(tmp_path / "again.pth", read_checkpoint(tmp_path / "a.pth"))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_equal_content_is_equal_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.checkpoint.tiny import tiny_checkpoint;"
        "from rfdetr_core.checkpoint.files import write_checkpoint;"
        "write_checkpoint(Path(sys.argv[1]), tiny_checkpoint())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "other.pth")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    write_checkpoint(tmp_path / "here.pth", tiny_checkpoint())
    assert (tmp_path / "here.pth").read_bytes() == (tmp_path / "other.pth").read_bytes()


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.pth", {"x": torch.zeros(1_000_000)[:2]})
    assert (tmp_path / "a.pth").stat().st_size < 10_000


@pytest.mark.parametrize("value", [np.float64(1), Path("/x"), {1}, object(), torch.float32, argparse.Namespace()])
def test_only_plain_values_are_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"content\['args'\]\['deep'\]\[1\] is a"):
        write_plain(tmp_path / "a.pth", {"args": {"deep": [0, value]}})
    assert list(tmp_path.iterdir()) == []


def test_plain_values_keep_their_types(tmp_path: Path) -> None:
    content = {"betas": (0.9, 0.999), "steps": {0: [1, True, None, float("inf")]}, "text": "ä\n", "empty": ()}
    write_plain(tmp_path / "a.pth", content)
    assert read_plain(tmp_path / "a.pth") == content
    assert type(read_plain(tmp_path / "a.pth")["betas"]) is tuple


def test_a_resume_file_is_a_model_file_too(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    write_plain(tmp_path / "checkpoint.pth", file_content(checkpoint) | {"resume": {"optimizer": [torch.ones(3)]}})
    assert torch.equal(read_plain(tmp_path / "checkpoint.pth")["resume"]["optimizer"][0], torch.ones(3))
    assert read_checkpoint(tmp_path / "checkpoint.pth").weights.keys() == checkpoint.weights.keys()


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


class _Harmless:
    pass


def _hostile(marker: Path) -> dict[str, Any]:
    model, attack = _upstream_model(), _Malicious(marker)
    return {
        "top.pth": {"model": model, "x": attack},
        "key.pth": {"model": model, attack: 1},
        "args.pth": {"model": model, "args": argparse.Namespace(a=1, b=attack)},
        "only.pth": attack,
        "class.pth": {"model": model, "x": _Harmless()},
        "path.pth": {"model": model, "x": Path("/x")},
        "numpy.pth": {"model": model, "x": np.float64(1)},
        "partial.pth": {"model": model, "x": getattr},
    }


@pytest.mark.parametrize("name", sorted(_hostile(Path())))
def test_objects_are_refused_and_none_of_their_code_runs(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    torch.save(_hostile(marker)[name], tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} is refused: it asks for .*No code was run"):
        read_checkpoint(tmp_path / name)
    assert not marker.exists()


def test_a_pickle_or_the_old_torch_format_is_not_a_checkpoint(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"model": _Malicious(marker)}))
    torch.save({"model": _Malicious(marker)}, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UserError, match="is not a checkpoint, or is cut off"):
            read_checkpoint(tmp_path / name)
    assert not marker.exists()


def test_each_kind_of_broken_file_has_its_own_message(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "good.pth", tiny_checkpoint())
    good = (tmp_path / "good.pth").read_bytes()
    flipped = bytearray(good)
    position = good.find(tiny_checkpoint().weights["query_features"].numpy().tobytes())
    flipped[position + 5] ^= 1
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b.txt", "x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "cut.pth").write_bytes(good[:-100])
    (tmp_path / "flipped.pth").write_bytes(flipped)
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    torch.save([1], tmp_path / "list.pth")
    torch.save({"weights": {}}, tmp_path / "foreign.pth")
    torch.save({"model": {"class_embed.weight": 3}}, tmp_path / "number.pth")
    messages = {
        "missing.pth": "does not exist",
        "folder": "Is a directory",
        "cut.pth": "is not a checkpoint, or is cut off",
        "flipped.pth": "is damaged",
        "empty.pth": "is not a checkpoint, or is cut off",
        "text.pth": "is not a checkpoint, or is cut off",
        "other.zip": "is not a checkpoint, or is cut off",
        "list.pth": "is not an RF-DETR checkpoint: it holds list",
        "foreign.pth": "is not an RF-DETR checkpoint: it has no `model`",
        "number.pth": "is not an RF-DETR checkpoint: its `model` holds something other",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message) as error:
            read_checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


def test_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "good.pth", tiny_checkpoint())
    good = (tmp_path / "good.pth").read_bytes()
    for size in range(0, len(good), len(good) // 50):
        (tmp_path / "cut.pth").write_bytes(good[:size])
        with pytest.raises(UserError):
            read_checkpoint(tmp_path / "cut.pth")


@pytest.mark.parametrize("namespace", [argparse.Namespace, types.SimpleNamespace, dict])
def test_args_may_be_a_namespace_as_in_published_files(tmp_path: Path, namespace: Any) -> None:
    torch.save({"model": _upstream_model(), "args": namespace(num_classes=3, lr=1e-4)}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").args == {"num_classes": 3, "lr": 1e-4}


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod."])
def test_lightnings_layout_is_read(tmp_path: Path, prefix: str) -> None:
    state = OrderedDict((prefix + name, tensor) for name, tensor in _upstream_model().items())
    state["metric.total"] = torch.ones(1)
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 1.0}, "epoch": 4}, tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint.weights.keys() == tiny_checkpoint().weights.keys()
    assert (checkpoint.args, checkpoint.epoch, checkpoint.unknown) == ({"lr": 1.0}, 4, ())


def test_unknown_weights_are_named(tmp_path: Path) -> None:
    torch.save({"model": _upstream_model() | {"extra.weight": torch.ones(1)}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").unknown == ("extra.weight",)


def test_lora_and_keypoint_files_are_refused(tmp_path: Path) -> None:
    adapter = "backbone.0.encoder.base_model.model.encoder.embeddings.cls_token"
    torch.save({"model": _upstream_model() | {adapter: torch.ones(1)}}, tmp_path / "lora.pth")
    torch.save({"model": _upstream_model() | {"_kp_active_mask": torch.ones(1, 17).bool()}}, tmp_path / "keypoint.pth")
    with pytest.raises(UserError, match="LoRA"):
        read_checkpoint(tmp_path / "lora.pth")
    with pytest.raises(UserError, match="keypoint model"):
        read_checkpoint(tmp_path / "keypoint.pth")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    write_checkpoint(path, tiny_checkpoint())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_checkpoint(path, replace(tiny_checkpoint(), args={"x": object()}))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path, content = tmp_path / "a.pth", {"w": torch.zeros(100_000)}
    write_plain(path, {"w": torch.ones(3)})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*a\.pth: File too large"):
            write_plain(path, content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_writing_copies_no_tensor_that_has_memory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(torch, "save", lambda content, file: saved.append(content))
    original, shared = torch.zeros(3, 4), torch.zeros(5)
    write_plain(tmp_path / "a.pth", {"own": original, "part": original[1:], "one": shared, "two": shared})
    pointers = {name: tensor.data_ptr() for name, tensor in saved[0].items()}
    assert pointers["own"] == original.data_ptr()
    assert len(set(pointers.values())) == 4


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        write_checkpoint(tmp_path / "file" / "a.pth", tiny_checkpoint())
