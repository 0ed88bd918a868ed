from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.data.augmentation import AugmentConfig
from rfdetr_core.data.batching import Batch
from rfdetr_core.data.datamodule import TrainingData
from tests.data.canonical import samples_of


def module_of(folder: Path, **options: Any) -> TrainingData:
    root, samples = samples_of(folder, 9)
    numbers = {"resolution": 32, "batch_size": 2, "seed": 3, "augmentation": AugmentConfig(quarter_turn=0.5)}
    return TrainingData(root, samples[:6], samples[6:], **numbers | options)


def digest(batch: Batch) -> str:
    targets = [
        (target.labels.tolist(), target.boxes.tolist(), None if target.masks is None else target.masks.tolist())
        for target in batch.targets
    ]
    content = (batch.images.numpy().tobytes(), targets, [sample.path for sample in batch.samples])
    return hashlib.sha256(pickle.dumps(content)).hexdigest()


def epochs(module: TrainingData, count: int) -> list[list[str]]:
    loader = module.train_dataloader()
    digests = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        digests.append([digest(batch.normalised()) for batch in loader])
    return digests


@pytest.mark.parametrize("masks", [False, True])
def test_batches_are_equal_bit_for_bit_for_every_number_of_workers(tmp_path: Path, masks: bool) -> None:
    reference, *others = (module_of(tmp_path, num_workers=workers, masks=masks) for workers in (0, 1, 2, 4))
    trained, validated = epochs(reference, 2), [digest(batch) for batch in reference.val_dataloader()]
    assert trained[0] != trained[1]
    for other in others:
        assert epochs(other, 2) == trained
        assert [digest(batch) for batch in other.val_dataloader()] == validated


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_do_not_run_a_script_without_a_main_guard_again(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, pathlib\n"
        f"multiprocessing.set_start_method({method!r})\n"
        "print('started', flush=True)\n"
        "from tests.data.test_datamodule import digest, epochs, module_of\n"
        f"module = module_of(pathlib.Path({str(tmp_path)!r}), num_workers=2)\n"
        "print(epochs(module, 1), [digest(batch) for batch in module.val_dataloader()])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    reference = module_of(tmp_path)
    validated = [digest(batch) for batch in reference.val_dataloader()]
    assert done.stdout == f"started\n{epochs(reference, 1)} {validated}\n"


LIMITED = """
import resource, sys
from pathlib import Path
from rfdetr_core.data.datamodule import TrainingData
from tests.data.canonical import samples_of
root, samples = samples_of(Path(sys.argv[1]), 60)
module = TrainingData(root, samples, [], resolution=32, batch_size=60, seed=0, masks=True, num_workers=1)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
print([len(batch.targets) for batch in module.train_dataloader()])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "printed", "error"), [(100, "[60]\n", ""), (18, "", "a loader worker cannot send a batch")]
)
def test_a_batch_takes_few_file_descriptors_and_one_that_cannot_be_sent_ends_the_training(
    tmp_path: Path, limit: int, printed: str, error: str
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == printed, done.stderr
    assert error in done.stderr


def test_loading_does_not_use_the_global_generator(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    state = torch.get_rng_state()
    epochs(module, 1)
    list(module.val_dataloader())
    assert torch.equal(state, torch.get_rng_state())


def test_validation_has_each_image_once_in_order(tmp_path: Path) -> None:
    module = module_of(tmp_path)
    paths = [sample.path for batch in module.val_dataloader() for sample in batch.samples]
    assert paths == ["train/06.png", "train/07.png", "train/08.png"]


def test_a_missing_training_image_is_an_error_and_a_missing_validation_image_is_not(tmp_path: Path) -> None:
    root, samples = samples_of(tmp_path, 2)
    with pytest.raises(UserError, match="train split has no image"):
        TrainingData(root, [], samples, resolution=32, batch_size=2, seed=0)
    module = TrainingData(root, samples, [], resolution=32, batch_size=2, seed=0)
    assert list(module.val_dataloader()) == []


class Recorder(pl.LightningModule):
    """A module that only records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[tuple[int, str]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, digest(batch)))
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert isinstance(batch, Batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(module: TrainingData, folder: Path, epochs: int, resume: Path | None = None) -> list[tuple[int, str]]:
    recorder = Recorder()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        ],
    )
    trainer.fit(recorder, module, ckpt_path=None if resume is None else str(resume))
    return recorder.seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore")
def test_a_resumed_training_sees_what_an_uninterrupted_one_sees(tmp_path: Path, workers: int) -> None:
    module = module_of(tmp_path, num_workers=workers)
    uninterrupted = fit(module, tmp_path / "whole", 3)
    expected = [(epoch, digest) for epoch, batches in enumerate(epochs(module_of(tmp_path), 3)) for digest in batches]
    assert uninterrupted == expected
    resumed = fit(
        module_of(tmp_path, num_workers=workers), tmp_path / "resumed", 3, tmp_path / "whole" / "epoch=0.ckpt"
    )
    assert resumed == uninterrupted[3:]
