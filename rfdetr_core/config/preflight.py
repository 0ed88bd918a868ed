"""Finds what would stop a stage before DVC deletes its old results: dataset, weights, memory, packages."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.imports import refuse_bytecode
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import PARAMS_FILE, read_section
from rfdetr_core.base.provenance import PACKAGES
from rfdetr_core.checkpoint.published import PUBLISHED, cache_folder, resolve_weights
from rfdetr_core.config.settings import check_params
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.folder import check_folder, dvc_outs, owner
from rfdetr_core.model.config import VARIANTS, ModelConfig
from rfdetr_core.training.config import TrainConfig

if TYPE_CHECKING:
    from rfdetr_core.model.detector import Detector

__all__ = ["check_masks", "check_packages", "check_params", "check_project"]

# Folders that the stages write.
_RESULTS = ("manifest", "metadata", "annotations", "output", "reports", "records", "journal")
_LOCK = Path("requirements/numeric.lock")
_COMPUTE = ("nvidia-", "cuda-", "triton")  # name prefixes of torch's CUDA libraries, which a CPU build lacks
# The least memory that an encoder block keeps for the backward pass, in bytes for each token and unit of width. One
# number has 2 bytes. Queries, keys and values are 3 numbers, the output of the attention is 1 number. The hidden layer
# and its activation are 4 numbers each.
_BYTES_OF_BLOCK = 2 * (3 + 1 + 4 + 4)
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_project(root: Path = Path()) -> list[str]:
    """Check the project: params.yaml, packages, dataset folder, weights, and classes that params.yaml names by path.

    Returns:
        Warnings.

    Raises:
        UserError: the first problem that would stop a stage.
    """
    params = root / PARAMS_FILE
    check_params(params)
    git.answer(root, "rev-parse")  # raises if git refuses to read a repository of another user
    refuse_bytecode(root)
    warning_texts = check_packages(root / _LOCK)
    model, train = read_section(ModelConfig, "model", params), read_section(TrainConfig, "train", params)
    try:
        _check_memory(model, train)
        warning_texts += _check_dataset(root, read_section(DataConfig, "data", params).dir, model)
        _check_regular(root / "weights")
        _check_weights(root, "model.pretrain_weights", model.pretrain_weights, model)
        _check_weights(root, "train.resume", train.resume, model)
        if train.num_nodes > 1:
            from rfdetr_core.training.trainer import check_launched

            check_launched(train)
        if train.optimizer_kwargs or "." in train.optimizer + train.lr_scheduler:
            _check_classes(model, train)
    except UserError as error:
        raise UserError(f"{params}: {error}") from error
    return warning_texts


def check_packages(lock: Path) -> list[str]:
    """Compare installed packages with a lock file. Returns warnings.

    A difference in a package that affects numbers is an error; any other difference is a warning. Local builds count as
    their version: torch 2.15.0+cpu equals 2.15.0. A missing package is not compared, since its import fails anyway.

    Raises:
        UserError: a package that affects numbers has another version.
    """
    wrong, harmless, own_build = dict[str, str](), dict[str, str](), False
    for name, locked in locked_versions(lock).items():
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            own_build |= name == "torch" and Version(version).local is not None
            if not is_version(version, locked):
                decides = name in PACKAGES or name.startswith(_COMPUTE)
                (wrong if decides else harmless)[name] = f"{name} {version} (locked: {locked})"
    # A local build of torch comes with its own versions of these libraries.
    built = {name: difference for name, difference in wrong.items() if own_build and name.startswith(_COMPUTE)}
    if wrong := {name: difference for name, difference in wrong.items() if name not in built}:
        raise UserError(
            f"installed packages differ from {lock}: {', '.join(wrong.values())}. Training records name this "
            f"lock file. Install its versions: pip install --require-hashes --no-deps -r {lock}. To use other versions "
            "on purpose, update the lock: make lock"
        )
    versions = ", ".join((harmless | built).values())
    return [f"installed packages that do not affect numbers differ from {lock}: {versions}"] if versions else []


def locked_versions(lock: Path) -> dict[str, SpecifierSet]:
    """The locked versions for this system and Python, by package name; empty if the file does not exist."""
    lines = files.read_text(lock).splitlines() if lock.is_file() else []
    requirements = [Requirement(line.removesuffix("\\")) for line in lines if line and not line.startswith((" ", "#"))]
    return {
        requirement.name: requirement.specifier
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def is_version(version: str, locked: SpecifierSet) -> bool:
    """Whether a version is the locked one. The local part is ignored: 2.15.0+cpu equals 2.15.0."""
    try:
        return locked.contains(Version(version).public, prereleases=True)
    except InvalidVersion:
        return False


def _check_dataset(root: Path, name: str, model: ModelConfig) -> list[str]:
    folder = root / name
    resolved = folder.resolve()
    for result in _RESULTS:
        results = (root / result).resolve()
        if resolved.is_relative_to(results) or results.is_relative_to(resolved):
            raise UserError(
                f"data.dir is {name!r}, but stages write results to {result}/. Use a folder that is not in {result}/ "
                "and does not contain it."
            )
    if folder.is_dir():
        from rfdetr_core.ingest.formats import LABEL_SUFFIXES

        _check_regular(folder)
        warning_texts = check_folder(folder, LABEL_SUFFIXES, project=root)
        _check_labels(root, folder, model)
        return warning_texts
    pointers = [path.with_name(f"{path.name}.dvc") for path in (folder, *folder.parents) if path.name]
    tracked = next((file for file in pointers if file.is_file()), None)
    if tracked is None and not folder.exists():
        stage = owner(dvc_outs(root.absolute()), folder.absolute())
        if stage is not None:
            return [f"data.dir is {name!r}: the stage {stage} of dvc.yaml will create it"]
    remedy = f"Get it: dvc pull {tracked}" if tracked else "Put the dataset there, or name another folder."
    raise UserError(
        f"data.dir is {name!r}: {'it is not a folder' if folder.exists() else 'it does not exist'}. {remedy}"
    )


def _check_regular(folder: Path) -> None:
    """Refuse a pipe, socket or device in a folder that stages read, since DVC would wait for it forever."""
    left = [folder] if folder.is_dir() else []
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(Path(entry.path))
                elif not (entry.is_file() or entry.is_dir()) and Path(entry.path).exists():
                    reason = (
                        "is a pipe, a socket or a device, or a link to one. DVC would wait for it forever. Remove it."
                    )
                    raise UserError(f"{entry.path} {reason}")


def _check_labels(root: Path, folder: Path, model: ModelConfig) -> None:
    """Refuse a dataset without masks for a segmentation model. Only the labels are read, no image."""
    if not VARIANTS[model.variant].segmentation or find_spec("pycocotools") is None:
        return
    from rfdetr_core.ingest.findings import Findings
    from rfdetr_core.ingest.formats import read_dataset

    dataset = read_dataset(folder, Findings(read_section(ValidateConfig, "validate", root / PARAMS_FILE)))
    for name in (name for name in ("train", "valid") if name in dataset):
        objects = [
            annotation for image in dataset[name].images for annotation in image.annotations if not annotation.crowd
        ]
        if objects and not any(annotation.segmentation for annotation in objects):
            raise _without_masks(model, name, len(objects), len(objects))


def check_masks(statistics: Path, params: Path = PARAMS_FILE) -> None:
    """Refuse objects without masks for a segmentation model, by the counts of the validation.

    Raises:
        UserError: an object of train or valid has no mask.
    """
    model = read_section(ModelConfig, "model", params)
    if VARIANTS[model.variant].segmentation:
        for name, counts in files.read_json(statistics).items():
            bare = counts["objects"] - counts["masks"]
            if bare > counts["crowds"] and name != "test":
                raise _without_masks(model, name, bare, counts["objects"])


def _without_masks(model: ModelConfig, name: str, bare: int, objects: int) -> UserError:
    problem = f"model.variant {model.variant} segments, but {bare} of {objects} objects of {name} have no mask"
    return UserError(f"{problem}. Add polygons or RLEs, or choose a variant that only detects.")


def _check_weights(root: Path, key: str, name: str | None, model: ModelConfig) -> None:
    folder = root / "weights"
    if name in PUBLISHED and not any((place / name).is_file() for place in (folder, cache_folder())):
        owner = next(
            (variant for variant, architecture in VARIANTS.items() if architecture.weights_file == name), model.variant
        )
        if owner != model.variant:  # from the name alone: a check of the content would download it
            raise UserError(
                f"{key}: {name!r} has weights of model.variant {owner}, not of {model.variant}. Change one of the two."
            )
        return
    try:
        path = resolve_weights(name, folder)
    except UserError as error:
        tracked = folder / f"{name}.dvc"
        problem = f"{name!r} is not in this clone. Get it: dvc pull {tracked}" if tracked.is_file() else error
        raise UserError(f"{key}: {problem}") from error
    if path is not None and find_spec("torch") is not None:  # torch is missing in CI jobs that do not train
        try:
            _load(path, model, resumed=key == "train.resume")
        except UserError as error:
            raise UserError(f"{key}: {error}") from error


def _load(path: Path, model: ModelConfig, *, resumed: bool) -> None:
    """Load weights as a training does, but into a detector on the meta device, which needs no memory. Imports torch."""
    from rfdetr_core.checkpoint.files import read_checkpoint
    from rfdetr_core.checkpoint.loading import load_weights

    checkpoint = read_checkpoint(path)
    if resumed and "run" not in checkpoint.other_keys:
        problem = f"{path} has no state to resume. Name a checkpoint.pth, or use this file as model.pretrain_weights"
        raise UserError(f"{problem}.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter", category=UserWarning)
        load_weights(_detector(model), model.architecture(classes=1), checkpoint)


def _detector(model: ModelConfig) -> Detector:
    import torch

    from rfdetr_core.model.detector import build_detector

    with torch.device("meta"):
        return build_detector(model.architecture(classes=1), freeze_encoder=model.freeze_encoder)


def _check_classes(model: ModelConfig, train: TrainConfig) -> None:
    """Build the optimiser and the schedule as a training does. Imports torch."""
    from rfdetr_core.training.optimization import build_optimizer, build_schedule

    build_schedule(build_optimizer(_detector(model), train), train, steps_per_epoch=1)


def _check_memory(model: ModelConfig, train: TrainConfig) -> None:
    """Refuse a batch that cannot fit, because images and encoder activations already exceed the memory."""
    if train.batch_size == "auto":
        return
    architecture = model.architecture(classes=1)
    images = train.batch_size * 4 * architecture.channels * architecture.resolution**2
    keeps_activations = not (model.gradient_checkpointing or model.freeze_encoder)
    tokens = (architecture.resolution // architecture.patch_size) ** 2
    activations = (
        keeps_activations
        * train.batch_size
        * _BYTES_OF_BLOCK
        * tokens
        * architecture.encoder_width
        * architecture.encoder_blocks
    )
    available = memory()
    if images <= available and images + activations > available and train.accelerator != "cpu":
        import torch

        if torch.cuda.is_available():
            totals = (torch.cuda.get_device_properties(k).total_memory for k in range(torch.cuda.device_count()))
            available = max(totals)
    if images + activations > available:
        problem = (
            f"train.batch_size is {train.batch_size}: a batch needs at least {(images + activations) / 1e9:,.0f} GB"
        )
        raise UserError(
            f"{problem}, but only {available / 1e9:,.0f} GB exist. Lower train.batch_size and raise "
            "train.grad_accum_steps instead."
        )


def memory() -> int:
    """Bytes of memory that this process may use: the memory of the machine, or the limit of its control group."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(files.read_text(path)))
    return min(limits)
