"""What `check` looks at before DVC starts, which deletes a stage's results: the parameters, and what they name."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import PARAMS_FILE, read_section
from rfdetr_core.checkpoint.published import PUBLISHED, resolve_weights
from rfdetr_core.config.settings import check_params
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training.config import TrainConfig

_RESULTS = ("manifest", "annotations", "output", "reports", "records")


def check_project(root: Path = Path()) -> None:
    """Check params.yaml of a project, its dataset folder, weights, and classes given by their paths.

    Raises:
        UserError: the first thing that would stop a stage.
    """
    params = root / PARAMS_FILE
    check_params(params)
    model, train = read_section(ModelConfig, "model", params), read_section(TrainConfig, "train", params)
    try:
        _check_dataset(root, read_section(DataConfig, "data", params).dir)
        _check_weights(root, "model.pretrain_weights", model.pretrain_weights)
        _check_weights(root, "train.resume", train.resume)
        if train.num_nodes > 1:
            from rfdetr_core.training.trainer import check_launched

            check_launched(train)
        if train.optimizer_kwargs or "." in train.optimizer + train.lr_scheduler:
            _check_classes(model, train)
    except UserError as error:
        raise UserError(f"{params}: {error}") from error


def _check_dataset(root: Path, name: str) -> None:
    folder = root / name
    place = folder.resolve()
    for result in _RESULTS:
        results = (root / result).resolve()
        if place.is_relative_to(results) or results.is_relative_to(place):
            raise UserError(f"data.dir is {name!r}, which holds results or lies in {result}/: give the data a folder.")
    if not folder.is_dir():
        files = [path.with_name(f"{path.name}.dvc") for path in (folder, *folder.parents) if path.name]
        tracked = next((file for file in files if file.is_file()), None)
        what = f"Fetch it: dvc pull {tracked}" if tracked else "Put the dataset there, or name another folder."
        raise UserError(f"data.dir is {name!r}: {'no folder' if folder.exists() else 'it does not exist'}. {what}")


def _check_weights(root: Path, key: str, name: str | None) -> None:
    if name in PUBLISHED:
        return  # looking for it may download it
    try:
        resolve_weights(name, root / "weights")
    except UserError as error:
        tracked = root / "weights" / f"{name}.dvc"
        what = f"{name!r} is not here. Fetch it: dvc pull {tracked}" if tracked.is_file() else error
        raise UserError(f"{key}: {what}") from error


def _check_classes(model: ModelConfig, train: TrainConfig) -> None:
    """Make the optimiser and the schedule as training does, of a detector without memory. It imports torch."""
    import torch

    from rfdetr_core.model.detector import build_detector
    from rfdetr_core.training.optimization import build_optimizer, build_schedule

    with torch.device("meta"):
        detector = build_detector(model.architecture(classes=1), freeze_encoder=model.freeze_encoder)
    build_schedule(build_optimizer(detector, train), train, steps_per_epoch=1)
