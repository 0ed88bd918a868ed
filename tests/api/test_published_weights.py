"""Tests of the download of published weights, the default weights of a class. A local server sends them."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from rfdetr_core import RFDETRNano, RFDETRPico
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint import download, published
from rfdetr_core.checkpoint.published import PUBLISHED, Published
from tests.checkpoint.store import DOG, Store, dog_everywhere, serving
from tests.pipeline.project import make_dataset

NAME = "rf-detr-nano.pth"
TRAIN = {"epochs": 1, "batch_size": 2, "num_workers": 0, "threads": 1}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of Nano with random weights that detect a dog everywhere."""
    return dog_everywhere(tmp_path_factory.mktemp("published"))


@pytest.fixture
def store(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A server with this file, an empty cache, and a current folder without weights/."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("RF_HOME", str(tmp_path / "cache"))
    with serving(Store(content)) as server:
        entry = Published(server.address, hashlib.md5(content).hexdigest())
        monkeypatch.setattr(published, "PUBLISHED", PUBLISHED | {NAME: entry})
        yield server


def fill(cache: Path, content: bytes) -> Path:
    """Put the file where a download would store it."""
    cache.mkdir(exist_ok=True)
    (cache / NAME).write_bytes(content)
    return cache / NAME


def test_the_default_weights_are_downloaded_once_and_name_the_classes_of_coco_by_id(
    store: Store, tmp_path: Path
) -> None:
    model = RFDETRNano(device="cpu")
    assert model.weights == tmp_path / "cache" / NAME
    assert model.class_names[DOG] == "dog"
    detections = model.predict(np.zeros((64, 64, 3), np.uint8), threshold=0.9)
    assert len(detections) > 0
    assert {*detections.class_id} == {DOG}
    assert {*detections.data["class_name"]} == {"dog"}
    assert RFDETRNano(device="cpu").weights == model.weights
    assert store.requests == [None]


def test_the_network_is_not_used_if_the_file_is_in_weights_or_in_the_cache(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    cached = fill(tmp_path / "cache", store.content)
    assert RFDETRNano(device="cpu").weights == cached
    Path("weights").mkdir()
    shutil.copy(cached, "weights")
    assert RFDETRNano(device="cpu").weights == Path("weights").absolute() / NAME
    assert store.requests == []


def test_the_class_head_of_published_weights_is_fitted_to_num_classes(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "cache", store.content)
    model = RFDETRNano(num_classes=3, device="cpu")
    assert model.class_names == ["0", "1", "2"]
    assert model.model.class_head.weight.shape[0] == 4
    published_weights = RFDETRNano(device="cpu").model.state_dict()
    weights = model.model.state_dict()
    assert all(torch.equal(weights[name], published_weights[name]) for name in weights if "class_head" not in name)


@pytest.mark.parametrize("reason", ["Connection refused", "Name or service not known", "timed out"])
def test_without_the_file_and_a_network_there_is_one_message(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    requests = []
    if reason == "Connection refused":
        monkeypatch.setitem(published.PUBLISHED, NAME, Published("http://127.0.0.1:9/nano.pth", "0" * 32))
    else:
        error = socket.gaierror(-2, reason) if reason.startswith("Name") else TimeoutError(reason)

        def fail(*_: Any, **__: Any) -> NoReturn:
            requests.append(reason)
            raise error

        monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(UserError) as raised:
        RFDETRNano(device="cpu")
    message = str(raised.value)
    for part in (NAME, published.PUBLISHED[NAME].address, reason, "RF_HOME", str(tmp_path / "cache"), "weights/"):
        assert part in message
    assert message.endswith("pretrain_weights=None gives a new, untrained model.")
    assert "urlopen" not in message
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__  # no traceback of urllib before the message
    assert [*(tmp_path / "cache").iterdir()] == []
    assert len(requests) <= 1  # an unreachable server is not tried again


def test_a_server_that_does_not_answer_is_not_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_ANSWER", 0.2)
    requests = []
    real = download._download_rest
    monkeypatch.setattr(download, "_download_rest", lambda *arguments: (requests.append(1), real(*arguments))[1])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/nano.pth"
        monkeypatch.setitem(published.PUBLISHED, NAME, Published(address, "0" * 32))
        with pytest.raises(UserError, match="no answer in"):
            RFDETRNano(device="cpu")
    assert requests == [1]


def test_a_cache_that_cannot_be_written_is_a_message_that_names_rf_home(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RF_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=rf"cannot write .*{NAME}.* RF_HOME .*pretrain_weights=None"):
        RFDETRNano(device="cpu")
    assert store.requests == []


def test_none_and_a_class_without_published_weights_give_a_new_model(store: Store) -> None:
    assert RFDETRNano(pretrain_weights=None, device="cpu").weights is None
    assert RFDETRPico(device="cpu").weights is None
    assert "no published weights" in (RFDETRPico.__doc__ or "")
    assert store.requests == []


@pytest.mark.slow
def test_train_says_which_weights_it_starts_from_in_a_thread_too(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "data", {"train": 2, "valid": 1})
    cached = fill(tmp_path / "cache", store.content)
    model = RFDETRPico(resolution=64, num_queries=10, device="cpu")
    arguments = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "new"} | TRAIN
    thread = threading.Thread(target=model.train, kwargs=arguments)  # Python handles signals only in the main thread
    thread.start()
    thread.join()
    assert (tmp_path / "new" / "checkpoint_best_total.pth").exists()
    assert "training from scratch: no pretrain_weights\n" in capsys.readouterr().out
    RFDETRNano(resolution=64, device="cpu").train(**arguments | {"output_dir": tmp_path / "tuned"})
    output = capsys.readouterr().out
    assert f"training from the weights of {cached}\n" in output
    assert "scratch" not in output
