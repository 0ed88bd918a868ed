"""The command line. What a command needs is imported when it runs, so that --help costs milliseconds."""

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
from rfdetr_core.base.memory import explaining_shortage
from rfdetr_core.base.printing import message_of, printable_output
from rfdetr_core.commands import audit, models, project

N = TypeVar("N", int, float)
_COMMAND = "rfdetr-dvc"  # of [project.scripts] in pyproject.toml


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the user can mend ends in one message and exit status 1.

    arguments: by default those of this process, which then may not be in the folder of another clone of the project.
    """
    program = _COMMAND if Path(sys.argv[0]).name == _COMMAND else "python -m rfdetr_core"
    options = _parser(program).parse_args(arguments)
    try:
        if arguments is None:
            _refuse_another_clone(program)
        with printable_output(), explaining_shortage("Free some, or run on a machine with more."):
            options.run(options)
    except UserError as error:
        sys.exit(message_of(error))
    except BrokenPipeError:  # as of `| head`; else Python tells of it once more when it flushes at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _refuse_another_clone(program: str) -> None:
    """Commands act on the current folder: one of another clone has code of its own, which may differ from this."""
    code, current = Path(__file__).resolve().parent, Path.cwd()
    clone = next(
        (folder for folder in (current, *current.parents) if (folder / "rfdetr_core" / "cli.py").is_file()), None
    )
    if clone is not None and (clone / "rfdetr_core").resolve() != code:
        raise UserError(
            f"{program} runs the code of {code.parent}, but the current folder belongs to another clone, {clone}. "
            f"Use the code of that clone: in {clone}, run python -m rfdetr_core."
        )


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(program, description="RF-DETR, trained reproducibly.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text)
        command.set_defaults(run=run)
        return command

    predict = add("predict", models.predict, "find objects in images: a drawn picture and a JSON file for each")
    predict.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="such as output/checkpoint_best_total.pth")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder of them, or an https address")
    score = predict.add_mutually_exclusive_group()
    score.add_argument("--threshold", type=_number(float, 0, 1), help="score to exceed (default: CHECKPOINT's, or 0.5)")
    of_class = "a thresholds.json, with a score for each class; recommended: the one that belongs to CHECKPOINT"
    score.add_argument("--thresholds", dest="threshold", metavar="FILE", help=of_class)
    predict.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR", help="results folder")
    predict.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    check = add("check", project.check, "check the whole of params.yaml, and what it names, before DVC starts")
    check.add_argument("--params", action="store_true", help="the parameters alone: where data is not pulled yet")
    plan = add("plan", project.plan, "say what dvc repro will run, why, and how long it took last time; run nothing")
    plan.add_argument("--json", action="store_true", help="for programs")
    plan.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the project (default: here)")
    preview = add("preview", project.preview, "draw batches as a training will see them, and find too small boxes")
    preview.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    preview.add_argument("--split", choices=("train", "valid"), default="train")
    preview.add_argument("--count", type=_number(int, 1), default=16, help="images (default 16)")
    preview.add_argument("--epoch", type=_number(int, 1), default=1, help="whose augmentation is drawn (default 1)")
    preview.add_argument("--out", type=Path, default=Path("reports/preview"), metavar="DIR")
    export = add("export", project.export, "write a dataset in another format: YOLO from COCO, COCO from YOLO")
    export.add_argument("source", type=Path, metavar="SOURCE", help="a dataset folder in any layout that is known")
    export.add_argument("destination", type=Path, metavar="DESTINATION", help="a new or empty folder")
    export.add_argument("--format", choices=("yolo", "coco"), required=True)
    ways = "copy (default), hardlink, none, or symlink, which other tools follow and validate refuses"
    export.add_argument("--images", choices=("copy", "hardlink", "symlink", "none"), default="copy", help=ways)
    labels = add("suspects", models.suspects, "list labels that are likely to be wrong, the most certain first")
    labels.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="best one that did not see the images")
    labels.add_argument("--split", default="train", help="train (default), valid or test, of the project here")
    labels.add_argument("--output", type=Path, metavar="FILE.csv", help="default: reports/suspects/SPLIT.csv")
    labels.add_argument("--limit", type=_number(int, 0), default=20, metavar="N", help="printed (default 20)")
    labels.add_argument("--page", action="store_true", help="write a page with crops, too: FILE.html")
    compare = add("compare", models.compare, "score two models on the same images; a page of their differences")
    compare.add_argument("old", type=Path, metavar="A", help="a model file, such as the one in use")
    compare.add_argument("new", type=Path, metavar="B", help="another one, such as a retrained one")
    compare.add_argument("--split", choices=("train", "valid", "test"), default="test", help="images (default test)")
    compare.add_argument("--out", type=Path, default=Path("reports/compare"), metavar="DIR", help="the page's folder")
    evaluate = add("evaluate", models.evaluate, "score a model file on the project's images, through its own runtime")
    evaluate.add_argument("--model", type=Path, required=True, metavar="FILE", help=".pth, .onnx, or OpenVINO's .xml")
    evaluate.add_argument("--split", choices=("valid", "test"), default="test", help="images (default test)")
    evaluate.add_argument("--out", type=Path, default=Path("reports/evaluate-files"), metavar="DIR")
    evaluate.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    speed = add("benchmark", models.benchmark, "measure latency and images a second of model files, side by side")
    speed.add_argument("files", type=Path, nargs="+", metavar="FILE", help=".pth, .onnx, or OpenVINO's .xml")
    speed.add_argument("--batch", type=_number(int, 1), nargs="+", default=[1], metavar="N", help="images at a time")
    speed.add_argument("--images", type=Path, metavar="DIR", help="default: noise of 640 x 480")
    speed.add_argument("--threads", type=_number(int, 1), metavar="N", help="default: the cores for this process")
    speed.add_argument("--seconds", type=_number(float, 0, 3600), default=5, help="for each figure (default 5)")
    precisions = ["fp32", "bf16"]
    speed.add_argument(
        "--precision", choices=precisions, nargs="+", default=precisions, help="of .pth files (default both)"
    )
    speed.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    speed.add_argument("--json", action="store_true", help="for programs")
    speed.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there, too")
    speed.add_argument("--mlflow", action="store_true", help="attach the figures to the MLflow run of the project")
    add("results", project.results, "say what the pipeline found, and where its files are")
    promote = add("promote", models.promote, "copy a model to weights/, for the next training to start or go on from")
    promote.add_argument("file", type=Path, nargs="?", default=Path("output/checkpoint_best_total.pth"), metavar="FILE")
    publish = add("publish", project.publish, "bring MLflow up to what the pipeline made; twice changes nothing")
    publish.add_argument("--register", metavar="NAME", help="make it a version of this registered model, too")
    trace = add("audit", audit.audit, "say what made a file, which images, and what an image was used for")
    trace.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a model file, or another tracked result")
    trace.add_argument("--images", action="store_true", help="list every image behind FILE, as CSV")
    trace.add_argument("--image", metavar="PATH_OR_SHA256", help="list every model that this image went into")
    where = "of FILE's images those with this in metadata/; alone: every model that saw such images; may be repeated"
    where += "; dates and numbers also by < <= > >=, such as 'date<2024-01-01'"
    trace.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=where)
    proof = "prove that an image was, or was not, in FILE's training; whoever has its attestation can check that"
    trace.add_argument("--prove", metavar="IMAGE", help=proof)
    trace.add_argument("--output", type=Path, metavar="PROOF.json", help="of --prove: where to write the proof")
    trace.add_argument("--diff", type=Path, nargs=2, metavar=("A", "B"), help="how the making of two models differs")
    trace.add_argument("--markdown", action="store_true", help="of --diff: for a pull request")
    verify = add("verify", audit.verify, "compute again what is at hand, and compare with lock, lineage, history")
    verify.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a model file (default: the project's)")
    only = verify.add_mutually_exclusive_group()
    only.add_argument("--lock", action="store_true", help="dvc.lock against code, params and git: seconds, for CI")
    only.add_argument("--reproduce", action="store_true", help="run all again in a clean clone and compare every byte")
    verify.add_argument(
        "--deep", action="store_true", help="also score the best weights on valid again, and hash packages"
    )
    again = "also run the models on valid and test, and compare scores and detections; trains nothing"
    verify.add_argument("--rescore", action="store_true", help=again)
    signed = "check the signatures of FILE and its statement, too"
    verify.add_argument("--key", type=Path, metavar="PUBLIC.pem", help=signed)
    only.add_argument("--proof", type=Path, metavar="PROOF.json", help="a proof, by the attestation of FILE alone")
    verify.add_argument("--image", type=Path, metavar="IMAGE", help="of --proof: the image that it is about")
    for command in (trace, verify):
        command.add_argument("--json", action="store_true", help="for programs")
    attest = add("attest", audit.attest, "write an in-toto statement of what made a model, and sign both")
    attest.add_argument("file", type=Path, metavar="FILE", help="a model file that carries its lineage")
    attest.add_argument("--sign-key", type=Path, metavar="KEY.pem", help="private key on an elliptic curve (P-256)")
    attest.add_argument("--output", type=Path, metavar="PATH", help="default: FILE.intoto.json")
    attest.add_argument(
        "--documents", type=Path, metavar="DIR", help="the digests of these files are in the statement, too"
    )
    attest.add_argument(
        "--own-word", action="store_true", help="attest what FILE says of itself, too, where no commit vouches for it"
    )
    for command, help_text in ((trace, "the clone to search"), (verify, "the project"), (attest, "the project")):
        command.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help=f"{help_text} (default: here)")
    document = add("document", audit.document, "write a model card, an ML-BOM, Croissant and Annex IV about a model")
    document.add_argument("file", type=Path, metavar="FILE", help="such as output/checkpoint_best_total.pth")
    document.add_argument("--out", type=Path, default=Path("documents"), metavar="DIR", help="default: documents/")
    document.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the project (default: here)")
    page = add("ui", project.ui, "MLflow's page over the runs of this project")
    page.add_argument("--port", type=int, default=5000)
    return parser


def _number(kind: type[N], least: int, most: float = math.inf) -> Callable[[str], N]:
    """A reader of a number of the command line from `least` to `most`."""

    def read(text: str) -> N:
        with suppress(ValueError):
            if least <= (value := kind(text)) <= most:
                return value
        bounds = f"{least} to {most}" if math.isfinite(most) else f"{least} on"
        raise argparse.ArgumentTypeError(f"{text} is no {'whole ' * (kind is int)}number from {bounds}")

    return read
