"""Model files with odd values, and every command that reads a model file."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rfdetr_core.api.model import RFDETR
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import file_content, read_checkpoint
from rfdetr_core.checkpoint.loading import load_weights
from rfdetr_core.cli import main
from rfdetr_core.selection.strip import strip
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.record import named_state, parent_of, state_to_resume
from tests.audit.repository import Images, Repository
from tests.checkpoint.tiny import tiny_detector

Place = tuple[Any, ...]
RUN = {"fingerprint": {"params.train.lr": 1e-4}, "finished": True, "result": ["0" * 32]}


def nested(levels: int) -> list[Any]:
    """Nested lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def laughs(levels: int = 60) -> list[Any]:
    """A few lists that have 2 ** levels entries when they are written out (billion laughs)."""
    value: list[Any] = ["ha"]
    for _ in range(levels):
        value = [value, value]
    return value


ODD: dict[str, Any] = {
    "None": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "billion": 10**9,
    "2**63": 2**63,
    "10**400": 10**400,
    "half": 0.5,
    "nan": math.nan,
    "infinity": math.inf,
    "complex": 1j,
    "empty text": "",
    "text": "x",
    "escape": "\x1b[2J\x07\u202e",
    "surrogate": "\ud800",
    "path": "../../../etc/passwd",
    "two lines": "0\n1",
    "long text": "x" * 1_000_000,
    "bytes": b"x",
    "empty list": [],
    "list": [1, "a"],
    "empty mapping": {},
    "mapping": {"a": 1},
    "mixed keys": {1: 1, "a": 2, None: 3},
    "set": {1},
    "deep": nested(150),
    "too deep": nested(290),
    "laughs": laughs(),
    "tensor": torch.ones(1),
    "scalar": torch.tensor(1.0),
    "no tensor": torch.ones(0),
    "expanded": torch.ones(1).expand(10**10),
    "integers": torch.ones(4, dtype=torch.int64),
    "not finite": torch.full((4, 4), math.inf),
}


class Target:
    """A committed model, and a copy of it that gets odd values."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = Repository(folder / "clone")
        images: Images = {split: {f"{split}/a.jpg": split} for split in ("train", "valid", "test")}
        parents = {"pretrain_weights": parent_of(self.repository.train(0, images))}
        self.good = self.repository.train(1, images, parents=parents)
        self.repository.commit("Train")
        self.path, self.image = folder / "odd.pth", folder / "image.png"
        Image.new("RGB", (32, 32)).save(self.image)
        best = read_checkpoint(self.good.with_name("checkpoint_best_ema.pth"))
        stripped = file_content(read_checkpoint(self.good))
        self.content = stripped | {"training_record": best.training_record, "epoch": 1, "run": RUN}
        self.selection: dict[str, Any] = copy.deepcopy(stripped["lineage"]["selection"])
        self.detector = tiny_detector()

    def places(self) -> list[Place]:
        """The place of every value in the file, also of containers."""
        return list(_places(self.content))

    def write(self, place: Place, value: Any) -> None:
        """Write the file with one value replaced."""
        torch.save(replaced(self.content, place, value), self.path)

    def commands(self) -> dict[str, Callable[[], object]]:
        """Every command and function that reads a model file, by name."""
        path, repo = str(self.path), ["--repo", str(self.repository.folder)]
        architecture, detector = self.detector
        output = self.folder / "stripped" / "checkpoint_best_ema.pth"

        def strip_copy() -> None:
            output.parent.mkdir(exist_ok=True)
            output.write_bytes(self.path.read_bytes())
            strip(output.parent, self.selection, output.with_name("total.pth"), output.parent / "records")

        def resume() -> None:
            state = self.folder / "checkpoint.pth"
            state.write_bytes(self.path.read_bytes())
            state_to_resume(self.folder, {})

        return {
            "predict": lambda: main(
                ["predict", path, str(self.image), "--output", str(self.folder / "out"), "--threshold", "0"]
            ),
            "audit": lambda: main(["audit", path, *repo]),
            "audit --images": lambda: main(["audit", path, "--images", *repo]),
            "audit --diff": lambda: main(["audit", "--diff", path, str(self.good), *repo]),
            "verify": lambda: main(["verify", path, *repo]),
            "attest": lambda: main(["attest", path, "--output", str(self.folder / "statement.json"), *repo]),
            "from_checkpoint": lambda: RFDETR.from_checkpoint(self.path, device="cpu"),
            "pretrain_weights": lambda: load_weights(
                detector, architecture, read_checkpoint(self.path), ["class 1", "class 0", "x"]
            ),
            "parent": lambda: parent_of(self.path),
            "resume": resume,
            "train.resume": lambda: named_state(self.path, TrainConfig(epochs=5), RUN["fingerprint"]),  # type: ignore[arg-type]
            "strip": strip_copy,
        }


def replaced(value: Any, place: Place, new: Any) -> Any:
    """A copy of nested dicts and lists with a new value at the place."""
    if not place:
        return new
    copied = dict(value) if isinstance(value, Mapping) else list(value)
    copied[place[0]] = replaced(copied[place[0]], place[1:], new)
    return copied


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    yield place
    pairs = enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in value.items() if isinstance(value, Mapping) else pairs:
        yield from _places(item, (*place, key))


def bad_ending(command: Callable[[], object]) -> str | None:
    """A bad ending of a command: a traceback, too little memory, or a printed terminal escape; None for a good one."""
    out, ended = io.StringIO(), list[BaseException]()

    def end(_: Any, error: BaseException | None, __: Any) -> bool:
        ended.extend([error] if error else [])
        return True

    with contextlib.ExitStack() as stack:
        stack.push(end)
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        command()
    text = out.getvalue() + "".join(str(error) for error in ended if isinstance(error, SystemExit))
    if wrong := [
        error for error in ended if not isinstance(error, UserError | SystemExit) or "MemoryError" in str(error)
    ]:
        return "".join(traceback.format_exception(wrong[0])[-3:])
    return "a terminal's escape is printed" if "\x1b" in text else None


@contextlib.contextmanager
def bounded_memory(more: int = 2**30) -> Iterator[None]:
    """Limit this process to its current memory plus `more` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


sys.setrecursionlimit(max(sys.getrecursionlimit(), 3000))  # torch.save needs it for the nested lists
