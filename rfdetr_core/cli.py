"""The command line. What a command needs is imported when it runs, so that --help costs milliseconds."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.memory import explaining_shortage
from rfdetr_core.base.printing import message_of, one_line, printable_output, say

if TYPE_CHECKING:
    from rfdetr_core.audit.trace import Archive

N = TypeVar("N", int, float)
_COMMITTED = ("dvc.lock", "params.yaml", "digests", "manifest", "metadata", "records", "reports", "output")
_PAGE = Path("reports/evaluate/index.html")
_IMAGE_COLUMNS = ("split", "path", "sha256", "width", "height", "labels", "through")  # of `audit --images`


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what the user can mend ends in one message and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        with printable_output(), explaining_shortage("Free some, or run on a machine with more."):
            options.run(options)
    except UserError as error:
        sys.exit(message_of(error))
    except BrokenPipeError:  # as of `| head`; else Python tells of it once more when it flushes at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m rfdetr_core", description="RF-DETR, trained reproducibly.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about)
        command.set_defaults(run=run)
        return command

    predict = add("predict", _predict, "find objects in images: a drawn picture and a JSON file for each")
    predict.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="such as output/checkpoint_best_total.pth")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="a file, or a folder of them")
    score = predict.add_mutually_exclusive_group()
    score.add_argument("--threshold", type=_number(float, 0, 1), help="score to exceed (default: CHECKPOINT's, or 0.5)")
    of_class = "a thresholds.json, with a score for each class; recommended: the one that belongs to CHECKPOINT"
    score.add_argument("--thresholds", dest="threshold", metavar="FILE", help=of_class)
    predict.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR", help="results folder")
    predict.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    check = add("check", _check, "check the whole of params.yaml, and what it names, before DVC starts")
    check.add_argument("--params", action="store_true", help="the parameters alone: where data is not pulled yet")
    preview = add("preview", _preview, "draw batches as a training will see them, and find too small boxes")
    preview.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE")
    preview.add_argument("--split", choices=("train", "valid"), default="train")
    preview.add_argument("--count", type=_number(int, 1), default=16, help="images (default 16)")
    preview.add_argument("--epoch", type=_number(int, 1), default=1, help="whose augmentation is drawn (default 1)")
    preview.add_argument("--out", type=Path, default=Path("reports/preview"), metavar="DIR")
    export = add("export", _export, "write a dataset in another format: YOLO from COCO, COCO from YOLO")
    export.add_argument("source", type=Path, metavar="SOURCE", help="a dataset folder in any layout that is known")
    export.add_argument("destination", type=Path, metavar="DESTINATION", help="a new or empty folder")
    export.add_argument("--format", choices=("yolo", "coco"), required=True)
    ways = "copy (default), hardlink, none, or symlink, which other tools follow and validate refuses"
    export.add_argument("--images", choices=("copy", "hardlink", "symlink", "none"), default="copy", help=ways)
    labels = add("suspects", _suspects, "list labels that are likely to be wrong, the most certain first")
    labels.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="best one that did not see the images")
    labels.add_argument("--split", default="train", help="train (default), valid or test, of the project here")
    labels.add_argument("--output", type=Path, metavar="FILE.csv", help="default: reports/suspects/SPLIT.csv")
    labels.add_argument("--limit", type=_number(int, 0), default=20, metavar="N", help="printed (default 20)")
    labels.add_argument("--page", action="store_true", help="write a page with crops, too: FILE.html")
    compare = add("compare", _compare, "score two models on the same images, and write a page of their differences")
    compare.add_argument("old", type=Path, metavar="A", help="a model file, such as the one in use")
    compare.add_argument("new", type=Path, metavar="B", help="another one, such as a retrained one")
    compare.add_argument("--split", choices=("train", "valid", "test"), default="test", help="images (default test)")
    compare.add_argument("--out", type=Path, default=Path("reports/compare"), metavar="DIR", help="the page's folder")
    add("results", _results, "say what the pipeline found, and where its files are")
    promote = add("promote", _promote, "copy a model to weights/, for the next training to start or go on from")
    promote.add_argument("file", type=Path, nargs="?", default=Path("output/checkpoint_best_total.pth"), metavar="FILE")
    publish = add("publish", _publish, "bring MLflow up to what the pipeline made; twice changes nothing")
    publish.add_argument("--register", metavar="NAME", help="make it a version of this registered model, too")
    audit = add("audit", _audit, "say what made a file, which images, and what an image was used for")
    audit.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a model file, or another tracked result")
    audit.add_argument("--images", action="store_true", help="list every image behind FILE, as CSV")
    audit.add_argument("--image", metavar="PATH_OR_SHA256", help="list every model that this image went into")
    where = "of FILE's images those with this in metadata/; alone: every model that saw such images; may be repeated"
    audit.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=where)
    audit.add_argument("--diff", type=Path, nargs=2, metavar=("A", "B"), help="how the making of two models differs")
    verify = add("verify", _verify, "compute again what is at hand, and compare with lock, lineage, history")
    verify.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a model file (default: the project's)")
    only = verify.add_mutually_exclusive_group()
    only.add_argument("--lock", action="store_true", help="dvc.lock against code, params and git: seconds, for CI")
    only.add_argument("--reproduce", action="store_true", help="run all again in a clean clone and compare every byte")
    verify.add_argument("--key", type=Path, metavar="PUBLIC.pem", help="check the signature of FILE's attestation, too")
    for command, about in ((audit, "the clone to search"), (verify, "the project")):
        command.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help=f"{about} (default: here)")
        command.add_argument("--json", action="store_true", help="for programs")
    attest = add("attest", _attest, "write an in-toto statement of what made a model, and sign it")
    attest.add_argument("file", type=Path, metavar="FILE", help="a model file that carries its lineage")
    attest.add_argument("--sign-key", type=Path, metavar="KEY.pem", help="private key on an elliptic curve (P-256)")
    attest.add_argument("--output", type=Path, metavar="PATH", help="default: FILE.intoto.json")
    page = add("ui", _ui, "MLflow's page over the runs of this project")
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


def _predict(options: argparse.Namespace) -> None:
    from rfdetr_core.evaluation.predictions import predict_files

    for line in predict_files(options.checkpoint, options.images, options.output, options.threshold, options.device):
        print(line)


def _check(options: argparse.Namespace) -> None:
    if options.params:
        from rfdetr_core.config.settings import check_params

        check_params()
        return
    _check_code()  # first: what is imported next may not parse
    from rfdetr_core.config.dvc_files import check_dvc_files
    from rfdetr_core.config.preflight import check_project

    for mended in check_dvc_files():
        print(mended)
    if Path("dvc.lock").exists():
        from rfdetr_core.verification.lock import reached_by_code

        for line in reached_by_code(Path()):
            print(line)
    for warning in check_project():
        say(f"warning: {warning}", file=sys.stderr)


def _check_code() -> None:
    """Raise a UserError of code that has no digest."""
    from rfdetr_core.base.code import Code

    code = Code()
    for stage in code.stages:
        code.digests_of(stage)


def _preview(options: argparse.Namespace) -> None:
    from rfdetr_core.config.preview import preview

    _print_lines(preview(options.params, options.split, options.count, options.epoch, options.out))


def _export(options: argparse.Namespace) -> None:
    from rfdetr_core.export.dataset import export_dataset

    _print_lines(export_dataset(options.source, options.destination, options.format, options.images))


def _suspects(options: argparse.Namespace) -> None:
    from rfdetr_core.report.suspects import FOLDER, list_suspects
    from rfdetr_core.verification.lock import refuse_outs

    refuse_outs(options.output or FOLDER, "--output reports/suspects/train.csv")
    lines = list_suspects(options.checkpoint, options.split, options.output, options.limit, page=options.page)
    print(*lines, sep="\n")


def _compare(options: argparse.Namespace) -> None:
    from rfdetr_core.report.comparison import compare
    from rfdetr_core.verification.lock import refuse_outs

    refuse_outs(options.out, "--out reports/compare")
    print(*compare(options.old, options.new, options.split, options.out), sep="\n")


def _results(options: argparse.Namespace) -> None:
    from rfdetr_core.observers.history import read_history, run_files
    from rfdetr_core.verification.lock import copy_linked_results

    copy_linked_results(Path())
    selection = files.read_json(Path("output/selection.json"))
    about, metrics = (files.read_json(Path("reports/evaluate") / name) for name in ("about.json", "metrics.json"))
    winner, epoch = selection["winner"], selection[selection["winner"]]["epoch"]
    row = read_history(Path("output/history.csv")).get(epoch, {})
    print(f"{'':12}{'AP':>6}{'AP50':>7}{'F1':>7}")
    prefix = "val/ema_" if winner == "ema" else "val/"
    for title, kind, scored in (("", "", metrics), (" masks", "segm_", metrics.get("masks"))):
        if scored is None:
            continue
        seen = [row.get(prefix + kind + name) for name in ("mAP_50_95", "mAP_50", "F1")]
        _print_scores(f"valid{title}", seen, f"{winner} weights of epoch {epoch}; picked by {selection['key']}")
        note = f"; {about['note']}" if "note" in about else ""
        size = f"{metrics['images']} images, {metrics['objects']} objects{note}"
        _print_scores(about["split"] + title, [scored[name] for name in ("map", "map_50", "f1")], size)
    _print_lines(run_files(Path("output")))
    here = _activated()
    print("scores    reports/evaluate/: metrics.json and tables")
    print("pictures  reports/evaluate/pictures/")
    print("dataset   reports/dataset/index.html")
    print(f"curves    {here}dvc plots show")
    print("runs      make ui")
    print(*(f"next      {command}" for command in _next_steps(here)), sep="\n")
    print(f"use       {here}python -m rfdetr_core predict output/checkpoint_best_total.pth IMAGE")
    if _PAGE.exists():
        print(f"report    {_PAGE}: open it first")


def _activated() -> str:
    """What a command of the environment begins with in the user's shell, whose path `make` does not change."""
    return ".venv/bin/" if "VIRTUAL_ENV" not in os.environ and Path(".venv/bin/dvc").exists() else ""


def _next_steps(here: str) -> Iterator[str]:
    """The commands that keep a result."""
    from rfdetr_core.base import git
    from rfdetr_core.base.dvc_config import dvc_config

    names = [name for name in _COMMITTED if Path(name).exists()]
    if git.answer(Path(), "status", "--porcelain", "--", *names):
        yield f'git add {" ".join(names)} && git commit -m "A new result"'
    if dvc_config(Path())["core"].get("remote"):
        yield f"{here}dvc push"
    else:
        yield f"{here}dvc remote add -d store URL && {here}dvc push   # a folder or bucket; now models are only here"
    yield f"{here}python -m rfdetr_core publish"


def _print_scores(title: str, values: Sequence[float | None], about: str) -> None:
    print(f"{title:12}" + " ".join("     -" if v is None else f"{v:6.3f}" for v in values) + f"   {about}")


def _promote(options: argparse.Namespace) -> None:
    from rfdetr_core.checkpoint.files import read_plain

    if "run" in read_plain(options.file):
        name, key = "resume.pth", "train.resume"
    else:
        name, key = "promoted.pth", "model.pretrain_weights"
    files.copy(options.file, Path("weights") / name)
    print(f"now: dvc add weights/{name}, and in params.yaml {key}: {name}")


def _publish(options: argparse.Namespace) -> None:
    from rfdetr_core.observers.publishing import publish

    print(*publish(options.register), sep="\n")


def _audit(options: argparse.Namespace) -> None:
    from rfdetr_core.audit.history import History
    from rfdetr_core.audit.trace import Archive, trace

    asked = [name for name in ("file", "image", "diff") if getattr(options, name) is not None]
    asked += ["where"] * bool(options.where and not (options.images and options.file))
    if len(asked) != 1:
        raise UserError(
            "audit takes one of FILE, --image PATH_OR_SHA256, --diff A B, --where; or FILE --images --where."
        )
    archive = Archive(History(options.repo, working_tree=True))
    if asked[0] in ("image", "where"):
        _audit_uses(options, archive)
    elif options.diff is not None:
        _audit_difference(options, archive)
    elif options.images:
        _list_images(options, archive)
    else:
        from rfdetr_core.audit.text import plain, told

        traced = trace(options.file, archive)
        _print_answer(plain(traced, archive) if options.json else told(options.file, traced, archive))
        if not traced.known:
            sys.exit(1)
    if archive.notes:  # what cannot be read is named, and may be what was asked for
        sys.exit(1)


def _print_answer(answer: dict[str, Any] | list[str]) -> None:
    """Lines for people, or JSON for programs."""
    if isinstance(answer, dict):
        _print_lines(json.dumps(answer, indent=2))
    else:
        print(*answer, sep="\n")


def _print_lines(text: str) -> None:
    """The lines of a text, each as a line: in an argument of `print` a line end would be an escape."""
    print(*text.split("\n"), sep="\n")


def _list_images(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.audit.images import images_of
    from rfdetr_core.audit.trace import trace

    traced = trace(options.file, archive)
    images = images_of(traced, archive, where=options.where)
    rows = [{key: one_line(value) if isinstance(value, str) else value for key, value in row.items()}
            for row in images.rows]  # fmt: skip
    print(*[json.dumps(images.rows)] if options.json else files.csv_text(rows, _IMAGE_COLUMNS).splitlines(), sep="\n")
    lines = [f"unknown: {one}" for one in images.unknown]
    lines += [f"note: {one}" for one in (*images.notes, *(() if traced.known else traced.notes))]
    if lines:
        say(*lines, file=sys.stderr)
    if traced.contradicted or images.unknown:
        sys.exit(1)


def _audit_uses(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.audit.text import answer_uses

    plain, lines = answer_uses(options.image, options.where, archive)
    _print_answer(plain if options.json else lines)
    if plain["unknown"]:
        sys.exit(1)


def _audit_difference(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.audit.images import images_of
    from rfdetr_core.audit.text import compare_images, compare_lineages, told_difference
    from rfdetr_core.audit.trace import trace

    traces = [trace(path, archive) for path in options.diff]
    for path, traced in zip(options.diff, traces, strict=True):
        if traced.runs and traced.training is None:
            raise UserError(f"{path} cannot be compared, since {traced.notes[0]}")
        if traced.training is None:
            raise UserError(f"{path} carries no lineage, and no record of it was found: there is nothing to compare.")
    changes = compare_lineages(*(one.lineage or {"training": one.training} for one in traces))
    before, after = (images_of(one, archive, own=True) for one in traces)
    unknown = before.unknown + after.unknown
    images = {} if unknown else compare_images(before.rows, after.rows)
    content = {"making": changes, "images": images, "unknown": unknown}
    _print_answer(content if options.json else told_difference(changes, images, unknown))
    if unknown:
        sys.exit(1)


def _verify(options: argparse.Namespace) -> None:
    only = "--lock" if options.lock else "--reproduce" if options.reproduce else None
    if only and (options.file or options.key):
        given = "FILE" if options.file else "--key"
        raise UserError(f"{only} checks the project, not a model file: give {given} without it.")
    if options.reproduce:
        from rfdetr_core.verification.reproduce import reproduce

        report = reproduce(options.repo)
    elif options.lock:
        from rfdetr_core.verification.verify import verify_lock

        report = verify_lock(options.repo)
    else:
        from rfdetr_core.audit.history import MODEL
        from rfdetr_core.verification.attest import check_attestation
        from rfdetr_core.verification.verify import verify

        report = verify(options.repo, options.file)
        check_attestation(report, options.file or options.repo / MODEL, options.key)
    _print_answer(report.plain() if options.json else report.lines())
    if report.mismatches:
        sys.exit(1)


def _attest(options: argparse.Namespace) -> None:
    from rfdetr_core.verification.attest import attest

    print(*attest(options.file, options.output, options.sign_key), sep="\n")


def _ui(options: argparse.Namespace) -> None:
    from rfdetr_core.observers.history import main_repository
    from rfdetr_core.observers.runs import local_server, newest_page, store

    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        raise UserError(f"runs are tracked at {server} (MLFLOW_TRACKING_URI); unset it to see the local ones.")
    database = main_repository() / "mlflow.db"
    if not database.exists():
        raise UserError(f"{database} does not exist: no run was tracked here yet. Run: make repro")
    page = ["-m", "mlflow", "ui", "--port", str(options.port), "--backend-store-uri", store()]
    page += ["--workers", "1"]  # four, each of which imports MLflow, take half a minute to start
    print(f"the newest run: {newest_page(local_server(options.port))}", flush=True)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execv(sys.executable, [sys.executable, *page])
