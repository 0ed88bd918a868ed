"""Members of RFDETR only for users of upstream: files for Roboflow, and messages about missing names of upstream."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from rfdetr_core.api.training import AnyPath, as_path, find_weights, refuse_results, train_config_of
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import make_checkpoint, model_config_of, write_checkpoint
from rfdetr_core.checkpoint.loading import COCO_CLASS_NAMES, COCO_NAMES
from rfdetr_core.config.upstream_answers import missing_member
from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_core.inference.predictor import BasePredictor, Predictor
from rfdetr_core.model.config import Architecture

if TYPE_CHECKING:
    from typing import Unpack

    from rfdetr_core.api.configs import TrainSettings
    from rfdetr_core.api.keywords import TrainKeywords

WEIGHTS_FILE, NAMES_FILE = "weights.pt", "class_names.txt"


class UpstreamMembers:
    """The part of class RFDETR that exists only for users of upstream, and the attributes that it uses."""

    variant: ClassVar[str]
    size: ClassVar[str | None]
    weights: Path | None
    _predictor: BasePredictor

    def _torch_predictor(self, caller: str) -> Predictor:
        """The predictor with the torch module. Raises a UserError if the model is an exported file.

        caller: the name of the method, at the start of the message.
        """
        if isinstance(self._predictor, Predictor):
            return self._predictor
        raise UserError(
            f"{caller} needs a checkpoint, but {self.weights} is an exported file, which can only predict and be "
            "evaluated. Load the checkpoint (.pth) instead."
        )

    @property
    def architecture(self) -> Architecture:
        """The numbers that shape the model."""
        raise NotImplementedError

    @property
    def means(self) -> list[float]:
        """The mean of each channel, for images in 0..1: ImageNet's means, repeated for more channels."""
        return list(islice(cycle(IMAGENET_MEAN), self.architecture.channels))

    @property
    def stds(self) -> list[float]:
        """The standard deviation of each channel, as `means`."""
        return list(islice(cycle(IMAGENET_STD), self.architecture.channels))

    @property
    def is_optimized_inplace(self) -> bool:
        """Always False: the optimised copy never replaces the model."""
        return False

    def maybe_download_pretrain_weights(self) -> None:
        """Check that the file of `pretrain_weights` still exists; download it again if it is a published file.

        Raises:
            UserError: see `find_weights`.
        """
        find_weights(self.weights)

    def get_train_config(self, **settings: Unpack[TrainKeywords]) -> TrainSettings:
        """The config that `train` builds from its keywords, without those of the model. Raises as `train`."""
        return train_config_of(dict(settings), self.variant)

    def export_for_roboflow(self, output_dir: AnyPath) -> None:
        """Write weights.pt and class_names.txt into a folder: the files that Roboflow's package uploads.

        Raises:
            UserError: the folder holds results of a pipeline; the model comes from an exported file; Roboflow does not
                know the variant; or a class name is not one line.
        """
        write_bundle(self._torch_predictor("export_for_roboflow()"), as_path(output_dir, "output_dir"))

    def deploy_to_roboflow(self, *_: Any, **__: Any) -> NoReturn:
        """Raise a UserError that explains how to upload the files of `export_for_roboflow` with an account."""
        raise UserError(
            "deploy_to_roboflow() is not here: an upload needs an account and Roboflow's package.\n"
            'Write the files: model.export_for_roboflow("bundle")\n'
            "Install the package: pip install roboflow\n"
            "Upload them: roboflow.Roboflow(api_key=..).workspace(..).project(..).version(..)"
            f'.deploy(model_type="{self.size}", model_path="bundle", filename="{WEIGHTS_FILE}")'
        )

    if not TYPE_CHECKING:  # else type checkers would accept any name

        def __getattr__(self, name: str) -> Any:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(missing_member(name) or message, name=name, obj=self)


def write_bundle(predictor: Predictor, folder: Path) -> None:
    """Write weights.pt and class_names.txt (upstream: export_for_roboflow of rfdetr/detr.py).

    weights.pt is a checkpoint whose `args` also have the fields of upstream's ModelConfig. `args` is a dict, while
    upstream writes a namespace; Roboflow's package takes both. The file contains no path of this machine.
    """
    refuse_results(folder)
    architecture, names = predictor.architecture, predictor.class_names
    if architecture.weights_file is None:
        raise UserError(f"Roboflow does not know {architecture.name}. It takes only the variants of rfdetr.")
    if names == tuple(name or str(label) for label, name in enumerate(COCO_NAMES)):
        names = tuple(COCO_CLASS_NAMES)  # as in upstream, without the ids that COCO does not use
    if broken := [name for name in names if name.splitlines() != [name]]:
        raise UserError(f"{NAMES_FILE} has one line for each class, but the name {broken[0]!r} is not one line.")
    config = {key: value for key, value in model_config_of(architecture).items() if key != "model_name"}
    args = config | {"dataset_dir": None, "output_dir": "output", "resume": ""}
    weights = predictor.detector.state_dict()
    write_checkpoint(folder / WEIGHTS_FILE, make_checkpoint(architecture, weights, class_names=names, args=args))
    files.write_text(folder / NAMES_FILE, "\n".join(names))
