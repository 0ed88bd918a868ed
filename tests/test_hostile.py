"""Crafted model files: for any value, a command succeeds or prints one message that names the file."""

from __future__ import annotations

import copy
import io
import random
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.archive import load
from rfdetr_core.checkpoint.files import file_content, read_checkpoint
from rfdetr_core.cli import main
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.record import named_state
from tests.checkpoint.tiny import tiny_checkpoint
from tests.hostile import ODD, RUN, Target, bad_ending, bounded_memory, laughs, nested

Content = dict[str, Any]
_SAMPLES = 60


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return Target(tmp_path_factory.mktemp("hostile"))


@pytest.mark.slow
def test_no_value_of_a_file_ends_a_command_in_a_traceback_or_fills_the_memory(target: Target) -> None:
    draw = random.Random(0)
    cases = draw.sample(list(product(target.places(), ODD)), _SAMPLES)
    with bounded_memory():
        for place, name in cases:
            target.write(place, ODD[name])
            for command in draw.sample(sorted(target.commands()), 3):
                assert bad_ending(target.commands()[command]) is None, f"{command} with {place} = {name}"


def at(path: str, value: Any) -> Callable[[Content], Content]:
    """A function that puts a value at a dotted path of a file's content."""
    return lambda content: put(content, path.split("."), value)


def put(content: Content, keys: list[str], value: Any) -> Content:
    inner = value if len(keys) == 1 else put(content[keys[0]], keys[1:], value)
    return content | {keys[0]: inner}


def weight(name: str, tensor: torch.Tensor) -> Callable[[Content], Content]:
    return lambda content: content | {"model": content["model"] | {name: tensor}}


def spoilt(name: str, value: float, dtype: torch.dtype = torch.float32) -> Callable[[Content], Content]:
    """A function that changes one value of a weight."""

    def change(content: Content) -> Content:
        tensor = content["model"][name].to(dtype, copy=True)
        tensor.view(-1)[-1] = value
        return weight(name, tensor)(content)

    return change


def shadowed(content: Content) -> Content:
    """Attributes that hide the methods of an ordered mapping."""
    model: Any = OrderedDict(content["model"])
    model.__dict__["values"] = model.__dict__["keys"] = 5
    return content | {"model": model}


def aliased(content: Content) -> Content:
    """Many weights that share one memory as large as the file."""
    weights = torch.ones(100_000)
    return content | {"model": content["model"] | {f"extra.{number}": weights for number in range(1000)}}


def blocks(content: Content) -> Content:
    """An encoder whose name says that it has a million blocks."""
    return put(content, ["model_config", "encoder"], "windowed_vit_16x1000000x2")


HEAD, QUERIES, PATCH = (
    "class_embed.weight",
    "refpoint_embed.weight",
    "backbone.0.encoder.encoder.embeddings.patch_embeddings.projection.weight",
)
RECORD = "lineage.training"
# The change of a file and the message of the command `predict`, by a name of the change.
PREDICTED: dict[str, tuple[Callable[[Content], Content], str]] = {
    "no windows": (at("model_config.num_windows", 0), "model_config.num_windows: 0 is less than 1"),
    "negative windows": (at("model_config.num_windows", -2), "model_config.num_windows: -2 is less than 1"),
    "10^9 points": (at("model_config.dec_n_points", 10**9), "model_config.dec_n_points: 1000000000 is more than 256"),
    "8,000,000 pixels": (at("model_config.resolution", 8_000_000), "resolution: 8000000 is more than 4096"),
    "8,000,000 pixels in args": (at("args.resolution", 8_000_000), "args.resolution: 8000000 is more than 4096"),
    "10^6 blocks": (blocks, "encoder_blocks 1000000, but its weights have 2"),
    "10^9 classes": (at("model_config.num_classes", 10**9), "model_config.num_classes: 1000000000 is more than 100000"),
    "10^9 classes in args": (at("args.num_classes", 10**9), "args.num_classes: 1000000000 is more than 100000"),
    "10^9 queries": (at("model_config.num_queries", 10**9), "model_config.num_queries: 1000000000 is more than 10000"),
    "10^9 layers": (at("model_config.dec_layers", 10**9), "model_config.dec_layers: 1000000000 is more than 256"),
    "10^400 channels": (at("model_config.num_channels", 10**400), "model_config.num_channels: a number of 1329 bits"),
    "a feature of block 10^9": (at("model_config.out_feature_indexes", [10**9]), "model_config.out_feature_indexes.0"),
    "no features": (at("model_config.out_feature_indexes", []), "model_config.out_feature_indexes: Value should have"),
    "doubled features": (at("model_config.out_feature_indexes", [2, 2]), r"feature indexes \[2, 2\]"),
    "features as text": (at("model_config.out_feature_indexes", "12"), "it must be a list, found '12'"),
    "a scale of its own": (at("model_config.projector_scale", ["P9"]), "model_config.projector_scale.0"),
    "heads that do not divide": (at("model_config.sa_nheads", 5), "a width of 16 is not divisible by 5 heads"),
    "no heads in the encoder": (at("model_config.encoder", "windowed_vit_16x2x0"), "not divisible by 0 heads"),
    "points unlike the weights": (
        at("model_config.dec_n_points", 3),
        r"cross_attention\.weights\.bias has the shape \[4\]",
    ),
    "a size that does not divide": (at("model_config.resolution", 33), "33 is not divisible by 8 x 2"),
    "a resolution as a tensor": (at("model_config.resolution", torch.tensor(32)), "a Tensor does not belong there"),
    "a name as bytes": (at("model_name", b"x"), "model_name: a bytes does not belong there"),
    "arguments as a tensor without values": (at("args", torch.ones(0)), "args: a Tensor does not belong there"),
    "class names as a set": (at("args.class_names", {"a"}), "args.class_names: a set does not belong there"),
    "class names as one text": (at("args.class_names", "abc"), "args.class_names: it must be a list"),
    "a rate that is NaN": (at("args.lr", float("nan")), "args.lr: nan is not a finite number"),
    "a complex rate": (at("args.lr", 1j), "args.lr: a complex does not belong there"),
    "half a character": (at("args.note", "\ud800"), r"args.note: '\\ud800' is not valid Unicode"),
    "mixed keys": (at("args.note", {1: 1, "a": 2}), "args.note: its keys must be texts"),
    "nested arguments": (at("args.note", nested(250)), "args has more than 200 levels of nesting"),
    "repeated arguments": (at("args.note", laughs()), r"args has more than [\d,]+ bytes when expanded"),
    "100 GB by expansion": (
        weight(HEAD, torch.ones(1).expand(10**10)),
        r"need 40,000,000,000 bytes, but the file has only",
    ),
    "100 GB under a key that is not read": (
        at("more", torch.ones(1).expand(10**10)),
        "the tensors of more need 40,000",
    ),
    "one memory, many names": (aliased, r"the tensors of model need 400,\d+,\d+ bytes, but the file has only"),
    "no class rows": (weight(HEAD, torch.ones(0, 16)), "by its weights it has no classes"),
    "a scalar for a matrix": (weight(QUERIES, torch.tensor(1.0)), "is not a complete RF-DETR model"),
    "weights of another shape": (weight(QUERIES, torch.ones(18, 5)), r"query_boxes has the shape \[18, 5\], but"),
    "NaN in the class head": (spoilt(HEAD, float("nan")), "class_embed.weight has values that are not finite"),
    "one infinity": (spoilt(QUERIES, float("inf")), "refpoint_embed.weight has values that are not finite"),
    "one negative infinity": (spoilt(PATCH, float("-inf"), torch.float16), "projection.weight has values that"),
    "whole numbers": (weight(HEAD, torch.ones(4, 16, dtype=torch.int64)), "class_embed.weight is of type int64, not"),
    "bytes": (weight(HEAD, torch.ones(4, 16, dtype=torch.uint8)), "class_embed.weight is of type uint8, not float32"),
    "true and false": (weight(HEAD, torch.ones(4, 16, dtype=torch.bool)), "class_embed.weight is of type bool"),
    "complex numbers": (weight(HEAD, torch.ones(4, 16, dtype=torch.complex64)), "torch.ComplexFloatStorage"),
    "numbers of 8 bits": (weight(HEAD, torch.ones(4, 16).to(torch.float8_e4m3fn)), "torch.float8_e4m3fn"),
    "weights in place of text": (at("model", "x"), "it has no `model` or `state_dict`"),
    "methods that are hidden": (shadowed, ""),
}  # fmt: skip
AUDITED: dict[str, tuple[Callable[[Content], Content], str]] = {
    "a lineage that is a list": (at("lineage", [1]), "lineage: it must be a mapping, found a list"),
    "a lineage that is a tensor": (at("lineage", torch.ones(2)), "lineage: a Tensor does not belong there"),
    "a training that is None": (at(RECORD, None), f"{RECORD}: it must be a mapping, found None"),
    "params as a list": (at(f"{RECORD}.params", [1]), f"{RECORD}.params: it must be a mapping, found a list"),
    "digests as bytes": (at(f"{RECORD}.code", {"a.py": b"0"}), f"{RECORD}.code.a.py: a bytes does not belong there"),
    "a path out of the project": (at(f"{RECORD}.inputs", {"../x": "0" * 64}), "must be the path of a file below"),
    "two names of git in one": (
        at(f"{RECORD}.files", {"manifest/train.json": {"size": 1, "git": "0" * 40 + "\nHEAD"}}),
        r"manifest/train.json.git: String should match",
    ),
    "counts as text": (at(f"{RECORD}.counts", {"train": "all"}), f"{RECORD}.counts.train: it must be a mapping"),
    "negative counts": (
        at(f"{RECORD}.counts", {"train": {"images": -1, "objects": 1}}), r"images: -1 is less than 0"
    ),
    "a parent that is a text": (at(f"{RECORD}.parents", {"resume": "x"}), f"{RECORD}.parents.resume: it must be"),
    "a parent with a lineage of None in it": (
        at(f"{RECORD}.parents", {"resume": {"name": "x", "sha256": "0" * 64, "tensors": "0" * 64, "lineage": {}}}),
        f"{RECORD}.parents.resume.lineage.variant: it is missing",
    ),
    "a score that is NaN": (at("lineage.selection.ema.score", float("nan")), "ema.score: nan is not a finite number"),
    "a winner of its own": (at("lineage.selection.winner", "both"), "lineage.selection.winner: Input should be"),
    "a digest of another length": (at("lineage.tensors", "00"), "lineage.tensors: String should match"),
    "an epoch that is a text": (at("epoch", "1"), "epoch: it must be a whole number, found '1'"),
}  # fmt: skip


@pytest.mark.parametrize("name", PREDICTED)
def test_a_crafted_model_is_named_by_its_field_before_it_is_built(
    target: Target, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    attack, message = PREDICTED[name]
    torch.save(attack(copy.copy(target.content)), target.path)
    with bounded_memory():
        assert bad_ending(target.commands()["predict"]) is None
        if message:
            with pytest.raises(SystemExit, match=message) as ended:
                main(["predict", str(target.path), str(target.image)])
            assert str(target.path) in str(ended.value)
            assert "\n" not in str(ended.value)


@pytest.mark.parametrize("command", ["from_checkpoint", "pretrain_weights", "parent", "strip", "predict"])
def test_weights_that_are_not_real_numbers_are_refused_by_every_command_that_computes_with_them(
    target: Target, command: str
) -> None:
    """The threshold is the default; with it, NaN would silently give no detection."""
    for attack in (spoilt(HEAD, float("nan")), weight(HEAD, torch.ones(4, 16, dtype=torch.int32))):
        torch.save(attack(copy.copy(target.content)), target.path)
        with pytest.raises((SystemExit, UserError), match=r"\.pth: the weight class_embed\.weight (has|is of type)"):
            target.commands()[command]()


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_precision_are_read(target: Target, precision: torch.dtype) -> None:
    model = {name: tensor.to(precision) for name, tensor in target.content["model"].items()}
    torch.save(target.content | {"model": model}, target.path)
    target.commands()["predict"]()


@pytest.mark.parametrize("name", AUDITED)
def test_a_crafted_lineage_is_named_by_its_field(target: Target, name: str) -> None:
    attack, message = AUDITED[name]
    torch.save(attack(copy.copy(target.content)), target.path)
    for command in (["audit", str(target.path), "--repo", str(target.repository.folder)], ["attest", str(target.path)]):
        with pytest.raises(SystemExit, match=message) as ended:
            main(command)
        assert str(target.path) in str(ended.value)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ([], "run: it must be a mapping"),
        ({}, "run.fingerprint: it is missing"),
        (RUN | {"fingerprint": [1]}, "run.fingerprint: it must be a mapping"),
        (RUN | {"finished": 3}, "run.finished: it must be true or false, found 3"),
        (RUN | {"result": {1}}, "run.result: a set does not belong there"),
    ],
)
def test_a_crafted_state_is_named_by_its_field(target: Target, run: Any, message: str) -> None:
    torch.save(target.content | {"run": run}, target.path)
    with pytest.raises(UserError, match=message):
        named_state(target.path, TrainConfig(epochs=5), {})


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """The members of the archive of a file with one tensor of three numbers."""
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(packed(members, zipfile.ZIP_DEFLATED))
    assert torch.load(path, weights_only=True)["a"].tolist() == [1, 1, 1]  # torch.load would unpack it
    with pytest.raises(UserError, match=r"x\.pth: its member x/data\.pkl is compressed"):
        load(path)


def test_bytes_before_or_behind_an_archive_are_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    for name, content in {"before": b"x" + packed(members), "behind": packed(members)[:-2] + b"\1\0x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} is not (an archive|a checkpoint)"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x00K\x03\x85", b"K\x00J" + struct.pack("<i", 2**30) + b"\x85"),  # the shape of the tensor
        (b"K\x00K\x03\x85", b"J" + struct.pack("<i", 2**30) + b"K\x03\x85"),  # the offset in its memory
        (b"K\x03tq", b"J" + struct.pack("<i", 2**30) + b"tq"),  # the size of its memory
        (b"K\x03tq", b"J" + struct.pack("<i", -5) + b"tq"),
    ],
)
def test_a_tensor_beyond_its_memory_allocates_nothing(
    tmp_path: Path, members: dict[str, bytes], old: bytes, new: bytes
) -> None:
    pickled = members["x/data.pkl"].replace(old, new, 1)
    assert pickled != members["x/data.pkl"]
    (tmp_path / "x.pth").write_bytes(packed(members | {"x/data.pkl": pickled}))
    with (
        bounded_memory(),
        pytest.raises(UserError, match=r"x\.pth(: the tensors of a need [\d,]+ bytes| is not a checkpoint)"),
    ):
        load(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "reduction", [b"cbuiltins\nbytearray\n", b"ctorch\nFloatTensor\n", b"ctorch.storage\nUntypedStorage\n"]
)
def test_a_class_that_allocates_a_given_size_is_not_called(
    tmp_path: Path, members: dict[str, bytes], reduction: bytes
) -> None:
    pickled = b"\x80\x02}X\x01\x00\x00\x00a" + reduction + b"\x8a\x05" + (2**35).to_bytes(5, "little") + b"\x85Rs."
    (tmp_path / "x.pth").write_bytes(packed(members | {"x/data.pkl": pickled}))
    with bounded_memory(), pytest.raises(UserError, match="is refused: it asks for"):
        load(tmp_path / "x.pth")


@pytest.mark.slow
def test_control_characters_reach_no_terminal(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    escape = "\x1b[2J\x07\u202e"
    crafted = [
        at(f"{RECORD}.packages", {escape: escape}),
        at(escape, 1),
        at("model_name", escape),
        at(f"{RECORD}.counts", {escape: 5}),
        lambda content: content | {"model": content["model"] | {escape: torch.ones(1)}},
    ]
    shown = ""
    for attack in crafted:
        torch.save(attack(copy.copy(target.content)), target.path)
        for command in ("audit", "verify", "predict"):
            try:
                target.commands()[command]()
            except SystemExit as ended:
                shown += str(ended.code)
        shown += capsys.readouterr().out
    assert r"\x1b[2J\x07\u202e" in shown
    assert not re.search("[\x1b\x07\u202e]", shown)


def honest() -> Iterator[Content]:
    """Files of other tools with keys and types that this project does not read."""
    content = file_content(tiny_checkpoint())
    yield content | {"more": {1, 2}, "device": torch.device("cpu"), "size": torch.Size([3]), "raw": b"x", 5: 1j}
    yield content | {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}}
    yield content | {"copy": content["model"], "epoch": None, "model_name": None, "args": None}
    yield content | {"history": [{"loss": float("nan")}], "part": torch.ones(1000)[:2], "one": torch.ones(1).expand(50)}


@pytest.mark.parametrize("number", range(4))
def test_values_that_are_not_read_may_be_anything(tmp_path: Path, number: int) -> None:
    torch.save(list(honest())[number], tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").weights.keys() == tiny_checkpoint().weights.keys()
