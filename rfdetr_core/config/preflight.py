"""What would stop a stage, looked for before DVC deletes results: the dataset, weights, memory and packages."""

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

# The folders that stages write.
_RESULTS = ("manifest", "metadata", "annotations", "output", "reports", "records", "journal")
_LOCK = Path("requirements/numeric.lock")
_COMPUTE = ("nvidia-", "cuda-", "triton")  # beginnings of names: torch's libraries, which a build for CPUs lacks
# What a block of the encoder keeps of each token for the backward pass, in units of its width, at the very least:
# queries, keys, values, the attention's result, the hidden layer before and after its activation. Of two bytes each.
_BYTES_OF_BLOCK = 2 * (3 + 1 + 4 + 4)
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_project(root: Path = Path()) -> list[str]:
    """Check params.yaml of a project, its packages, dataset folder and weights, and classes given by their paths.

    Gives warnings.

    Raises:
        UserError: the first thing that would stop a stage.
    """
    params = root / PARAMS_FILE
    check_params(params)
    git.answer(root, "rev-parse")  # raises where git refuses to read a repository of another user
    refuse_bytecode(root)
    told = check_packages(root / _LOCK)
    model, train = read_section(ModelConfig, "model", params), read_section(TrainConfig, "train", params)
    try:
        _check_memory(model, train)
        told += _check_dataset(root, read_section(DataConfig, "data", params).dir, model)
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
    return told


def check_packages(lock: Path) -> list[str]:
    """Compare what is installed with a lock, as far as it decides numbers; warnings about the rest.

    A build of its own, such as torch 2.15.0+cpu, counts as the version that it is a build of. What is not installed is
    not compared: importing it will tell.

    Raises:
        UserError: packages that decide numbers have other versions.
    """
    wrong, other, own_build = dict[str, str](), dict[str, str](), False
    for name, wanted in locked_versions(lock).items():
        with suppress(metadata.PackageNotFoundError):
            found = metadata.version(name)
            own_build |= name == "torch" and Version(found).local is not None
            if not is_version(found, wanted):
                decides = name in PACKAGES or name.startswith(_COMPUTE)
                (wrong if decides else other)[name] = f"{name} {found} (locked: {wanted})"
    # The libraries of such a build are those that it was built with.
    built = {name: told for name, told in wrong.items() if own_build and name.startswith(_COMPUTE)}
    if wrong := {name: told for name, told in wrong.items() if name not in built}:
        raise UserError(
            f"installed packages are not those of {lock}, by which results are recorded: {', '.join(wrong.values())}. "
            f"Install the locked ones: pip install --require-hashes --no-deps -r {lock}. To use others on purpose, "
            "write the lock anew: make lock"
        )
    rest = ", ".join((other | built).values())
    return [f"installed packages that decide no number are not those of {lock}: {rest}"] if rest else []


def locked_versions(lock: Path) -> dict[str, SpecifierSet]:
    """The packages of a lock that apply to this system and Python, by name; none where there is no such file."""
    lines = files.read_text(lock).splitlines() if lock.is_file() else []
    wanted = [Requirement(line.removesuffix("\\")) for line in lines if line and not line.startswith((" ", "#"))]
    return {one.name: one.specifier for one in wanted if one.marker is None or one.marker.evaluate()}


def is_version(found: str, wanted: SpecifierSet) -> bool:
    """Whether a version is the locked one, by whomever it was built: 2.15.0+cpu is 2.15.0."""
    try:
        return wanted.contains(Version(found).public, prereleases=True)
    except InvalidVersion:
        return False


def _check_dataset(root: Path, name: str, model: ModelConfig) -> list[str]:
    folder = root / name
    place = folder.resolve()
    for result in _RESULTS:
        results = (root / result).resolve()
        if place.is_relative_to(results) or results.is_relative_to(place):
            raise UserError(f"data.dir is {name!r}, which holds results or lies in {result}/: give the data a folder.")
    if folder.is_dir():
        from rfdetr_core.ingest.formats import LABEL_SUFFIXES

        _check_regular(folder)
        told = check_folder(folder, LABEL_SUFFIXES, project=root)
        _check_labels(root, folder, model)
        return told
    pointers = [path.with_name(f"{path.name}.dvc") for path in (folder, *folder.parents) if path.name]
    tracked = next((file for file in pointers if file.is_file()), None)
    if tracked is None and not folder.exists():
        stage = owner(dvc_outs(root.absolute()), folder.absolute())
        if stage is not None:
            return [f"data.dir is {name!r}: the stage {stage} of dvc.yaml will make it"]
    what = f"Fetch it: dvc pull {tracked}" if tracked else "Put the dataset there, or name another folder."
    raise UserError(f"data.dir is {name!r}: {'no folder' if folder.exists() else 'it does not exist'}. {what}")


def _check_regular(folder: Path) -> None:
    """Refuse a pipe, socket or device below a folder that stages read: DVC, which reads all of it, waits for ever."""
    left = [folder] if folder.is_dir() else []
    while left:
        with os.scandir(left.pop()) as entries:
            for one in entries:
                if one.is_dir(follow_symlinks=False):
                    left.append(Path(one.path))
                elif not (one.is_file() or one.is_dir()) and Path(one.path).exists():
                    what = "is a pipe, a socket or a device, or leads to one, for which DVC would wait. Remove it."
                    raise UserError(f"{one.path} {what}")


def _check_labels(root: Path, folder: Path, model: ModelConfig) -> None:
    """Refuse a dataset without masks for a model that segments. Reads the labels; no image is opened."""
    if not VARIANTS[model.variant].segmentation or find_spec("pycocotools") is None:
        return
    from rfdetr_core.ingest.findings import Findings
    from rfdetr_core.ingest.formats import read_dataset

    dataset = read_dataset(folder, Findings(read_section(ValidateConfig, "validate", root / PARAMS_FILE)))
    for name in (name for name in ("train", "valid") if name in dataset):
        objects = [one for image in dataset[name].images for one in image.annotations if not one.crowd]
        if objects and not any(one.segmentation for one in objects):
            raise _without_masks(model, name, len(objects), len(objects))


def check_masks(statistics: Path, params: Path = PARAMS_FILE) -> None:
    """Refuse objects without masks for a model that segments, by what validation counted.

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
    what = f"model.variant is {model.variant}, which segments, but {bare} of {objects} objects of {name} have no mask"
    return UserError(f"{what}. Add polygons or RLEs to them, or choose a variant that only detects.")


def _check_weights(root: Path, key: str, name: str | None, model: ModelConfig) -> None:
    folder = root / "weights"
    if name in PUBLISHED and not any((place / name).is_file() for place in (folder, cache_folder())):
        owner = next((variant for variant, one in VARIANTS.items() if one.weights_file == name), model.variant)
        if owner != model.variant:  # to look into it would be to download it
            raise UserError(f"{key}: {name!r} holds weights of model.variant {owner}, not of {model.variant}.")
        return
    try:
        path = resolve_weights(name, folder)
    except UserError as error:
        tracked = folder / f"{name}.dvc"
        what = f"{name!r} is not here. Fetch it: dvc pull {tracked}" if tracked.is_file() else error
        raise UserError(f"{key}: {what}") from error
    if path is not None and find_spec("torch") is not None:  # a job of CI that trains nothing lacks it
        try:
            _load(path, model, resumed=key == "train.resume")
        except UserError as error:
            raise UserError(f"{key}: {error}") from error


def _load(path: Path, model: ModelConfig, *, resumed: bool) -> None:
    """Load weights as training does, into a detector without memory. It imports torch."""
    from rfdetr_core.checkpoint.files import read_checkpoint
    from rfdetr_core.checkpoint.loading import load_weights

    checkpoint = read_checkpoint(path)
    if resumed and "run" not in checkpoint.other_keys:
        what = f"{path} has no state of a training. Name a checkpoint.pth, or name this file as model.pretrain_weights"
        raise UserError(f"{what}.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter", category=UserWarning)
        load_weights(_detector(model), model.architecture(classes=1), checkpoint)


def _detector(model: ModelConfig) -> Detector:
    import torch

    from rfdetr_core.model.detector import build_detector

    with torch.device("meta"):
        return build_detector(model.architecture(classes=1), freeze_encoder=model.freeze_encoder)


def _check_classes(model: ModelConfig, train: TrainConfig) -> None:
    """Make the optimiser and the schedule as training does. It imports torch."""
    from rfdetr_core.training.optimization import build_optimizer, build_schedule

    build_schedule(build_optimizer(_detector(model), train), train, steps_per_epoch=1)


def _check_memory(model: ModelConfig, train: TrainConfig) -> None:
    """Refuse a batch whose images and whose activations of the encoder alone are larger than memory."""
    if train.batch_size == "auto":
        return
    one = model.architecture(classes=1)
    images = train.batch_size * 4 * one.channels * one.resolution**2
    kept = not (model.gradient_checkpointing or model.freeze_encoder)
    tokens = (one.resolution // one.patch_size) ** 2
    activations = kept * train.batch_size * _BYTES_OF_BLOCK * tokens * one.encoder_width * one.encoder_blocks
    have = memory()
    if images <= have and images + activations > have and train.accelerator != "cpu":
        import torch

        if torch.cuda.is_available():
            totals = (torch.cuda.get_device_properties(k).total_memory for k in range(torch.cuda.device_count()))
            have = max(totals)
    if images + activations > have:
        what = f"train.batch_size is {train.batch_size}: a batch takes at least {(images + activations) / 1e9:,.0f} GB"
        raise UserError(f"{what}, and there are {have / 1e9:,.0f}. Lower it and raise train.grad_accum_steps instead.")


def memory() -> int:
    """Bytes of memory that this process may use: of the machine, or of its control group."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(files.read_text(path)))
    return min(limits)
