"""The command line: the arguments of every command. A command is imported when it runs; --help takes milliseconds."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.memory import explaining_shortage, silence_shortages
from rfdetr_core.base.printing import message_of, printable_output
from rfdetr_core.commands import audit, models, project

N = TypeVar("N", int, float)
_COMMAND = "rfdetr-dvc"  # the name in [project.scripts] of pyproject.toml


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. An error that the user can correct is printed as one message; the exit status is 1.

    arguments: None takes those of this process, and refuses to run in another clone of the project.
    """
    program = _COMMAND if Path(sys.argv[0]).name == _COMMAND else "python -m rfdetr_core"
    options = _parser(program).parse_args(arguments)
    try:
        if arguments is None:
            _refuse_another_clone(program)
        with printable_output(), explaining_shortage("Free some, or run on a machine with more."):
            options.run(options)
    except UserError as error:
        silence_shortages()
        sys.exit(message_of(error))
    except BrokenPipeError:  # `| head` closes the pipe; without dup2, Python reports it again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _refuse_another_clone(program: str) -> None:
    """Refuse to act on another clone of the project, since its code may differ from the code that runs here."""
    code, current = Path(__file__).resolve().parent, Path.cwd()
    clone = next(
        (folder for folder in (current, *current.parents) if (folder / "rfdetr_core" / "cli.py").is_file()), None
    )
    if clone is not None and (clone / "rfdetr_core").resolve() != code:
        raise UserError(
            f"{program} runs the code of {code.parent}, but the current folder belongs to another clone, {clone}. "
            f"Run the command with the code of that clone: cd {clone}, then python -m rfdetr_core."
        )


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description="Train RF-DETR reproducibly. `dvc repro` trains the model. These commands check the project, use "
        "the trained model and show its lineage.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text)
        command.set_defaults(run=run)
        return command

    predict = add(
        "predict", models.predict, "find objects in images; for each image write a picture with boxes and a JSON file"
    )
    predict.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="such as output/checkpoint_best_total.pth")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, a folder, or an https address")
    score = predict.add_mutually_exclusive_group()
    score.add_argument(
        "--threshold",
        type=_number(float, 0, 1),
        help="keep objects with a score above this number (default: the threshold in CHECKPOINT; if it has none, 0.5)",
    )
    of_class = (
        "a thresholds.json with a threshold for each class. `recommended` takes the file that belongs to CHECKPOINT"
    )
    score.add_argument("--thresholds", dest="threshold", metavar="FILE", help=of_class)
    predict.add_argument(
        "--output",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder for the results (default: predictions)",
    )
    predict.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    check = add(
        "check",
        project.check,
        "check params.yaml, packages, memory, weights and the dataset folder; `dvc repro validate` checks the labels",
    )
    check.add_argument("--params", action="store_true", help="check only params.yaml; useful before dvc pull")
    plan = add(
        "plan", project.plan, "show which stages dvc repro will run, why, and how long they took last time; run nothing"
    )
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the project (default: this folder)")
    preview = add(
        "preview", project.preview, "draw training batches after augmentation; list boxes that are smaller than a patch"
    )
    preview.add_argument(
        "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="the parameters (default: params.yaml)"
    )
    preview.add_argument("--split", choices=("train", "valid"), default="train", help="default: train")
    preview.add_argument("--count", type=_number(int, 1), default=16, help="number of images (default 16)")
    preview.add_argument("--epoch", type=_number(int, 1), default=1, help="the epoch, counted from 1 (default 1)")
    preview.add_argument(
        "--out",
        type=Path,
        default=Path("reports/preview"),
        metavar="DIR",
        help="folder for the pictures (default: reports/preview)",
    )
    export = add("export", project.export, "convert a dataset (not a model): COCO to YOLO, YOLO to COCO")
    export.add_argument("source", type=Path, metavar="SOURCE", help="a dataset folder in any supported layout")
    export.add_argument("destination", type=Path, metavar="DESTINATION", help="a new or empty folder")
    export.add_argument("--format", choices=("yolo", "coco"), required=True)
    ways = "copy (default), hardlink or symlink the images (`validate` refuses symbolic links); none: write only labels"
    export.add_argument("--images", choices=("copy", "hardlink", "symlink", "none"), default="copy", help=ways)
    labels = add("suspects", models.suspects, "list suspected label errors, the most suspicious first")
    labels.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="recommended: a model that was not trained on these images"
    )
    labels.add_argument("--split", default="train", help="train (default), valid or test")
    labels.add_argument("--output", type=Path, metavar="FILE.csv", help="default: reports/suspects/SPLIT.csv")
    labels.add_argument(
        "--limit", type=_number(int, 0), default=20, metavar="N", help="number of printed rows (default 20)"
    )
    labels.add_argument("--page", action="store_true", help="also write FILE.html, a page with image crops")
    compare = add(
        "compare", models.compare, "score two models on the same images; write a page that shows the differences"
    )
    compare.add_argument("old", type=Path, metavar="A", help="a model file, such as the one in production")
    compare.add_argument("new", type=Path, metavar="B", help="another model file, such as a retrained one")
    compare.add_argument("--split", choices=("train", "valid", "test"), default="test", help="default: test")
    compare.add_argument("--out", type=Path, default=Path("reports/compare"), metavar="DIR", help="folder for the page")
    evaluate = add(
        "evaluate",
        models.evaluate,
        "score a model file on the project's images; exported files run in ONNX Runtime or OpenVINO",
    )
    evaluate.add_argument(
        "--model", type=Path, required=True, metavar="FILE", help="a .pth, .onnx or OpenVINO .xml file"
    )
    evaluate.add_argument("--split", choices=("valid", "test"), default="test", help="default: test")
    evaluate.add_argument(
        "--out", type=Path, default=Path("reports/evaluate-files"), metavar="DIR", help="folder for the report"
    )
    evaluate.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    speed = add("benchmark", models.benchmark, "measure latency and images per second of model files")
    speed.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a .pth, .onnx or OpenVINO .xml file")
    speed.add_argument(
        "--batch", type=_number(int, 1), nargs="+", default=[1], metavar="N", help="images per batch (default 1)"
    )
    speed.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of images (default: random noise of 640 x 480)"
    )
    speed.add_argument(
        "--threads",
        type=_number(int, 1),
        metavar="N",
        help="CPU threads (default: the number of cores of this process)",
    )
    speed.add_argument(
        "--seconds", type=_number(float, 0, 3600), default=5, help="seconds for each measurement (default 5)"
    )
    precisions = ["fp32", "bf16"]
    speed.add_argument(
        "--precision", choices=precisions, nargs="+", default=precisions, help="precision of .pth files (default: both)"
    )
    speed.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    speed.add_argument("--json", action="store_true", help="print JSON")
    speed.add_argument("--output", type=Path, metavar="FILE.json", help="also write the results to this file")
    speed.add_argument("--mlflow", action="store_true", help="attach the results to the MLflow run of the project")
    add("results", project.results, "show the scores of the pipeline's result, and the paths of its files")
    promote = add("promote", models.promote, "copy a model to weights/, to start the next training from it")
    promote.add_argument(
        "file",
        type=Path,
        nargs="?",
        default=Path("output/checkpoint_best_total.pth"),
        metavar="FILE",
        help="default: output/checkpoint_best_total.pth",
    )
    publish = add("publish", project.publish, "send the pipeline's result to MLflow; a second call changes nothing")
    publish.add_argument(
        "--register", metavar="NAME", help="also register the result as a version of the MLflow model NAME"
    )
    trace = add("audit", audit.audit, "trace a file to its training and images, or find the models that used an image")
    trace.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="a model file, or another file that DVC tracks"
    )
    trace.add_argument(
        "--images", action="store_true", help="list every image that FILE was trained, validated or tested on, as CSV"
    )
    trace.add_argument("--image", metavar="PATH_OR_SHA256", help="list every model that used this image")
    where = "a condition on a column of metadata/. With FILE --images: list only images that meet it. Without FILE: "
    where += "list every model that used such images. Repeat --where for more conditions. Dates and numbers are also "
    where += "compared with < <= > >=, such as 'date<2024-01-01'"
    trace.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=where)
    proof = "prove that an image was, or was not, used to train FILE. Whoever has FILE.intoto.json can check the proof"
    trace.add_argument("--prove", metavar="IMAGE", help=proof)
    trace.add_argument("--output", type=Path, metavar="PROOF.json", help="with --prove: write the proof to this file")
    trace.add_argument(
        "--diff", type=Path, nargs=2, metavar=("A", "B"), help="show how the trainings of two models differ"
    )
    trace.add_argument("--markdown", action="store_true", help="with --diff: Markdown for a pull request")
    verify = add("verify", audit.verify, "check that data, code and results equal those that the training recorded")
    verify.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="check only this model file (default: check the project)"
    )
    only = verify.add_mutually_exclusive_group()
    only.add_argument(
        "--lock", action="store_true", help="compare dvc.lock with code, params and git; takes seconds, for CI"
    )
    only.add_argument(
        "--reproduce", action="store_true", help="run every stage again in a clean clone and compare every byte"
    )
    verify.add_argument(
        "--deep",
        action="store_true",
        help="also score the best weights on valid again, and compare all files of the packages",
    )
    again = "also score the best weights on valid again, and compare the detections of the final model"
    verify.add_argument("--rescore", action="store_true", help=again)
    signed = "public key of the signer: also check the signatures of FILE and of its statement"
    verify.add_argument("--key", type=Path, metavar="PUBLIC.pem", help=signed)
    only.add_argument(
        "--proof",
        type=Path,
        metavar="PROOF.json",
        help="check a proof. FILE: the model, with its statement FILE.intoto.json in the same folder; or the statement",
    )
    verify.add_argument("--image", type=Path, metavar="IMAGE", help="with --proof: the image that the proof is about")
    for command in (trace, verify):
        command.add_argument("--json", action="store_true", help="print JSON")
    attest = add(
        "attest",
        audit.attest,
        "write a statement (in-toto) about a model's training; with --sign-key, sign it and the model",
    )
    attest.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a model file with its lineage, such as output/checkpoint_best_total.pth",
    )
    attest.add_argument(
        "--sign-key", type=Path, metavar="KEY.pem", help="sign with this private key (elliptic curve P-256)"
    )
    attest.add_argument(
        "--output", type=Path, metavar="PATH", help="the file for the statement (default: FILE.intoto.json)"
    )
    attest.add_argument(
        "--documents", type=Path, metavar="DIR", help="also put the digests of the documents in DIR into the statement"
    )
    attest.add_argument(
        "--own-word",
        action="store_true",
        help="also attest a file whose lineage is in no commit. The statement says that no commit confirms the file",
    )
    for command, help_text in ((trace, "the clone to search"), (verify, "the project"), (attest, "the project")):
        command.add_argument(
            "--repo", type=Path, default=Path(), metavar="DIR", help=f"{help_text} (default: this folder)"
        )
    documents = (
        "write documents about a model: model card, bill of materials, metadata of the dataset, EU AI Act Annex IV"
    )
    document = add("document", audit.document, documents)
    document.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="a model file with its lineage, such as output/checkpoint_best_total.pth",
    )
    document.add_argument(
        "--out",
        type=Path,
        default=Path("documents"),
        metavar="DIR",
        help="the folder for the documents (default: documents/)",
    )
    document.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the project (default: this folder)")
    page = add("ui", project.ui, "start MLflow's web page with the runs of this project")
    page.add_argument("--port", type=int, default=5000, help="default: 5000")
    return parser


def _number(kind: type[N], least: int, most: float = math.inf) -> Callable[[str], N]:
    """The function that reads a number from `least` to `most` from the command line."""

    def read(text: str) -> N:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        bounds = f"from {least} to {most}" if math.isfinite(most) else f"of at least {least}"
        raise argparse.ArgumentTypeError(f"{text} is not a {'whole ' * (kind is int)}number {bounds}")

    return read
