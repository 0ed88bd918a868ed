"""What RFDETR has for users of upstream alone: the files for Roboflow, and answers to names that are not here."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from rfdetr_core.api.training import AnyPath, as_path, refuse_results
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import make_checkpoint, model_config_of, write_checkpoint
from rfdetr_core.checkpoint.loading import COCO_CLASS_NAMES, COCO_NAMES
from rfdetr_core.config.upstream_answers import missing_member
from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_core.model.config import Architecture

if TYPE_CHECKING:
    from rfdetr_core.inference.predictor import Predictor

WEIGHTS_FILE, NAMES_FILE = "weights.pt", "class_names.txt"


class UpstreamMembers:
    """The part of class RFDETR that is there for users of upstream alone."""

    size: ClassVar[str | None]

    def _torch_predictor(self, caller: str) -> Predictor:
        raise NotImplementedError

    @property
    def architecture(self) -> Architecture:
        """The numbers that shape the model."""
        raise NotImplementedError

    @property
    def means(self) -> list[float]:
        """What is subtracted from each channel of an image in 0..1: ImageNet's means, repeated for more channels."""
        return list(islice(cycle(IMAGENET_MEAN), self.architecture.channels))

    @property
    def stds(self) -> list[float]:
        """By what each channel is divided then."""
        return list(islice(cycle(IMAGENET_STD), self.architecture.channels))

    @property
    def is_optimized_inplace(self) -> bool:
        """False: the optimised copy never takes the place of the model."""
        return False

    def export_for_roboflow(self, output_dir: AnyPath) -> None:
        """Write weights.pt and class_names.txt into a folder: the files that Roboflow's own package uploads.

        Raises:
            UserError: results of a pipeline are kept in the folder, the model was read from an exported file, Roboflow
                does not know the variant, or the name of a class is not one line.
        """
        write_bundle(self._torch_predictor("export_for_roboflow()"), as_path(output_dir, "output_dir"))

    def deploy_to_roboflow(self, *_: Any, **__: Any) -> NoReturn:
        """Raise a UserError that says how to upload the files of `export_for_roboflow`: it needs an account."""
        raise UserError(
            "deploy_to_roboflow() is not here: an upload needs an account and Roboflow's own package.\n"
            'Write the files: model.export_for_roboflow("bundle")\n'
            "Install the package: pip install roboflow\n"
            "Upload them: roboflow.Roboflow(api_key=..).workspace(..).project(..).version(..)"
            f'.deploy(model_type="{self.size}", model_path="bundle", filename="{WEIGHTS_FILE}")'
        )

    if not TYPE_CHECKING:  # or type checkers would let any name pass

        def __getattr__(self, name: str) -> Any:
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(missing_member(name) or message, name=name, obj=self)


def write_bundle(predictor: Predictor, folder: Path) -> None:
    """Write weights.pt and class_names.txt (upstream: export_for_roboflow of rfdetr/detr.py).

    weights.pt is a checkpoint whose `args` also have the fields of upstream's ModelConfig. They are a dict; Roboflow's
    package takes one as well as the namespace that upstream writes. No folder of this machine is named in it.
    """
    refuse_results(folder)
    architecture, names = predictor.architecture, predictor.class_names
    if architecture.weights_file is None:
        raise UserError(f"Roboflow does not know {architecture.name}: it takes the variants of rfdetr alone.")
    if names == tuple(name or str(label) for label, name in enumerate(COCO_NAMES)):
        names = tuple(COCO_CLASS_NAMES)  # as upstream has them: without the ids that COCO does not use
    if broken := [name for name in names if name.splitlines() != [name]]:
        raise UserError(f"{NAMES_FILE} has a line for each class; the name {broken[0]!r} is not one line.")
    config = {key: value for key, value in model_config_of(architecture).items() if key != "model_name"}
    args = config | {"dataset_dir": None, "output_dir": "output", "resume": ""}
    weights = predictor.detector.state_dict()
    write_checkpoint(folder / WEIGHTS_FILE, make_checkpoint(architecture, weights, class_names=names, args=args))
    files.write_text(folder / NAMES_FILE, "\n".join(names))
