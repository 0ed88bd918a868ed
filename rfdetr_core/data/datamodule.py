"""TrainingData: makes the loaders of a training for Lightning. Their batches do not depend on the number of workers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Subset

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.base.processes import end_with_parent, may_start_processes, without_script
from rfdetr_core.data.augmentation import AugmentConfig
from rfdetr_core.data.batching import Batch, EpochSampler, collate
from rfdetr_core.data.dataset import DetectionDataset, Item
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator


class TrainingData(pl.LightningDataModule):
    """Loaders for the training and validation images of a dataset.

    The trainer needs use_distributed_sampler=False, because the images are divided among the ranks here.

    Args:
        root: The dataset folder.
        train_samples: From `read_samples`.
        valid_samples: From `read_samples`.
        resolution: The side of validation images.
        batch_size: Images of a training batch on one rank.
        seed: The seed of the training.
        train_resolution: The side of training images, which is the largest multi-scale side; None: `resolution`.
        eval_batch_size: Images of a validation batch; None: `batch_size`.
        grad_accum_steps: Batches of an optimiser step.
        masks: Load masks.
        augmentation: None: the defaults.
        num_workers: Processes of a loader.
        pin_memory: See DataLoader.
        persistent_workers: See DataLoader; None: if there are workers.
        prefetch_factor: See DataLoader.

    Raises:
        UserError: there is no training image, or masks are loaded and an instance has none.
    """

    def __init__(
        self,
        root: Path,
        train_samples: list[Sample],
        valid_samples: list[Sample],
        *,
        resolution: int,
        batch_size: int,
        seed: int,
        train_resolution: int | None = None,
        eval_batch_size: int | None = None,
        grad_accum_steps: int = 1,
        masks: bool = False,
        augmentation: AugmentConfig | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool | None = None,
        prefetch_factor: int | None = None,
    ) -> None:
        super().__init__()
        if not train_samples:
            raise UserError("the train split has no image. Add images and annotations to it, then: dvc repro")
        side, augmentation = train_resolution or resolution, augmentation or AugmentConfig()
        self.train_set = DetectionDataset(train_samples, root, side, masks=masks, augmentation=augmentation, seed=seed)
        self.valid_set = DetectionDataset(valid_samples, root, resolution, masks=masks)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.grad_accum_steps, self.seed = grad_accum_steps, seed
        if not may_start_processes():
            # Without workers, the batches are the same.
            num_workers, persistent_workers, prefetch_factor = 0, None, None
        persistent = num_workers > 0 if persistent_workers is None else persistent_workers
        self._loader: dict[str, Any] = {"num_workers": num_workers, "prefetch_factor": prefetch_factor}
        self._loader |= {"persistent_workers": persistent, "pin_memory": pin_memory}
        self._loader |= {"collate_fn": collate, "worker_init_fn": _initialise_worker}

    def train_dataloader(self) -> DataLoader[Item]:
        """Augmented batches. The epoch of the sampler decides their order and augmentation."""
        size, batches = self.batch_size, self.grad_accum_steps
        sampler = EpochSampler(len(self.train_set), self.seed, size, batches, *self._rank_and_world())
        return _LateLoader(self.train_set, size, sampler=sampler, **self._options())

    def val_dataloader(self) -> DataLoader[Item]:
        """Each validation image once. Rank r has the images r, r + world, r + 2 world, ..."""
        return self.in_order(self.valid_set)

    def in_order(self, images: DetectionDataset) -> DataLoader[Item]:
        """Each image of a dataset once. Rank r has the images r, r + world, r + 2 world, ..."""
        rank, world = self._rank_and_world()
        if rank >= len(images) > 0:  # one empty batch: without a batch, Lightning would skip validation on this rank
            return _Loader(images, batch_sampler=[[]], **self._options())
        return _Loader(Subset(images, range(rank, len(images), world)), self.eval_batch_size, **self._options())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise on the device: bytes are moved there faster than floats. Lightning calls this."""
        return batch.normalised()

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _options(self) -> dict[str, Any]:
        # Without its own generator a loader draws from the global one, and dropout would depend on the loader.
        return self._loader | {"generator": generator("loader", self.seed)}


def _initialise_worker(worker: int) -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal: the trainer handles it. End when the trainer ends.

    If a batch cannot be sent, the worker ends. By default Python would print the error and drop the batch, and the
    trainer would wait for the batch forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, batch: object) -> None:
    say(f"a loader worker cannot send a batch: {error}", file=sys.stderr)
    os._exit(1)


class _Loader(DataLoader[Item]):
    """A loader whose workers do not run the script of the main process, which may have no main guard."""

    def __iter__(self) -> Any:
        with without_script():
            return super().__iter__()


class _LateLoader(_Loader):
    """A loader that asks its sampler only when the first batch is requested.

    When a training is resumed, Lightning makes the iterator before it sets the epoch. Workers would start to load at
    once, with the wrong epoch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()
