"""What a training that a script starts needs beside the stage's: its keywords, and the process as it was before."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rfdetr_core.training.config import RuntimeConfig, TrainConfig


class TrainSettings(TrainConfig, RuntimeConfig):
    """Every keyword of `RFDETR.train` but the folders."""

    mlflow: bool = False  # the pipeline tracks its runs; a script asks for it
    run_test: bool = False  # the pipeline always evaluates; a script asks for it


@contextmanager
def process_restored() -> Iterator[None]:
    """Restore what a training sets in the whole process: a script goes on after it, also after its failure."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    debug_mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    filling = vars(torch.utils)["deterministic"]  # a module whose attribute is a property
    fill = filling.fill_uninitialized_memory
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "alembic")]
    levels = [logger.level for logger in loggers]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(debug_mode)
        torch.backends.cudnn.benchmark = benchmark
        filling.fill_uninitialized_memory = fill
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
