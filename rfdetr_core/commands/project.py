"""The commands of the project and its datasets: check, plan, preview, export, results, publish, ui."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import say
from rfdetr_core.commands.output import print_lines, print_versioned

_COMMITTED = ("dvc.lock", "params.yaml", "digests", "manifest", "metadata", "records", "journal", "reports", "output")
_PAGE = Path("reports/evaluate/index.html")


def check(options: argparse.Namespace) -> None:
    """Check params.yaml, the files that it names, and the code of the stages; print repairs and warnings."""
    if options.params:
        from rfdetr_core.config.settings import check_params

        check_params()
        return
    _check_code()  # first, since the next imports fail if the code does not parse
    from rfdetr_core.config.dvc_files import check_dvc_files
    from rfdetr_core.config.preflight import check_project

    for repair in check_dvc_files():
        print(repair)
    if Path("dvc.lock").exists():
        from rfdetr_core.verification.lock import changed_code_lines

        for line in changed_code_lines(Path()):
            print(line)
    for warning in check_project():
        say(f"warning: {warning}", file=sys.stderr)


def _check_code() -> None:
    """Raise a UserError if the code of a stage has no digest, for example because it does not parse."""
    from rfdetr_core.base.code import Code

    code = Code()
    for stage in code.stages:
        code.digests_of(stage)


def plan(options: argparse.Namespace) -> None:
    """Print which stages `dvc repro` will run, why, and how long they took last time."""
    from rfdetr_core.verification.plan import plan

    planned = plan(options.repo)
    print_versioned(planned.to_dict() if options.json else planned.lines())


def preview(options: argparse.Namespace) -> None:
    """Draw batches; print where the pictures are."""
    from rfdetr_core.config.preview import preview

    print_lines(preview(options.params, options.split, options.count, options.epoch, options.out))


def export(options: argparse.Namespace) -> None:
    """Convert a dataset; print what the new format cannot hold."""
    if options.source.suffix in (".pth", ".onnx", ".xml") and not options.source.is_dir():
        raise UserError(
            f"{options.source} is a model file, but this command converts datasets. To export a model, run "
            "`dvc repro export` (params.yaml: export.formats), or call RFDETR.export in Python."
        )
    from rfdetr_core.export.dataset import export_dataset

    print_lines(export_dataset(options.source, options.destination, options.format, options.images))


def results(options: argparse.Namespace) -> None:
    """Print the scores of the project's result, its files, and the commands that store and publish it."""
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
        valid_scores = [row.get(prefix + kind + name) for name in ("mAP_50_95", "mAP_50", "F1")]
        _print_scores(f"valid{title}", valid_scores, f"{winner} weights of epoch {epoch}; chosen by {selection['key']}")
        note = f"; {about['note']}" if "note" in about else ""
        size = f"{metrics['images']} images, {metrics['objects']} objects{note}"
        _print_scores(about["split"] + title, [scored[name] for name in ("map", "map_50", "f1")], size)
    print_lines(run_files(Path("output")))
    prefix = _environment_prefix()
    print("scores    reports/evaluate/: metrics.json and tables")
    print("pictures  reports/evaluate/pictures/")
    print("dataset   reports/dataset/index.html")
    print(f"curves    {prefix}dvc plots show")
    print("runs      make ui")
    print(*(f"next      {command}" for command in _next_steps(prefix)), sep="\n")
    print(f"use       {prefix}python -m rfdetr_core predict output/checkpoint_best_total.pth IMAGE")
    if _PAGE.exists():
        print(f"report    {_PAGE}: open it first")


def _environment_prefix() -> str:
    """The prefix of a command: `.venv/bin/` where the environment exists but is not active in the user's shell."""
    return ".venv/bin/" if "VIRTUAL_ENV" not in os.environ and Path(".venv/bin/dvc").exists() else ""


def _next_steps(prefix: str) -> Iterator[str]:
    """The commands that store and publish a result. prefix: see `_environment_prefix`."""
    from rfdetr_core.base import git
    from rfdetr_core.base.dvc_config import dvc_config

    names = [name for name in _COMMITTED if Path(name).exists()]
    if git.answer(Path(), "status", "--porcelain", "--", *names):
        yield f'git add {" ".join(names)} && git commit -m "A new result"'
    if dvc_config(Path())["core"].get("remote"):
        yield f"{prefix}dvc push"
    else:
        remote = f"{prefix}dvc remote add -d store URL"
        yield f"{remote} && {prefix}dvc push   # URL: a folder or bucket. Until you push, the models are only here"
    yield f"{prefix}python -m rfdetr_core publish"


def _print_scores(title: str, values: Sequence[float | None], description: str) -> None:
    print(f"{title:12}" + " ".join("     -" if v is None else f"{v:6.3f}" for v in values) + f"   {description}")


def publish(options: argparse.Namespace) -> None:
    """Send the project's result and the documents about it to MLflow; print the address of the run."""
    from rfdetr_core.observers.publishing import CHECKPOINT, publish

    def documents(folder: Path) -> list[Path]:
        try:
            from rfdetr_core.documents import write_documents
        except ImportError as error:
            raise UserError(f"{error}. Install the locked packages: make setup") from error
        return write_documents(CHECKPOINT, folder)

    print(*publish(options.register, documents), sep="\n")


def ui(options: argparse.Namespace) -> None:
    """Print the address of the newest run, and replace this process by MLflow's server."""
    from rfdetr_core.observers.history import main_repository
    from rfdetr_core.observers.runs import local_server, newest_run_address, store_address

    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server:
        raise UserError(
            f"Runs are tracked at {server}, since MLFLOW_TRACKING_URI is set. Unset it to see the local runs."
        )
    database = main_repository() / "mlflow.db"
    if not database.exists():
        raise UserError(f"{database} does not exist, since no run was tracked here yet. Run: make repro")
    page = ["-m", "mlflow", "ui", "--port", str(options.port), "--backend-store-uri", store_address()]
    page += ["--workers", "1"]  # MLflow's default, four, takes half a minute to start
    print(f"the newest run: {newest_run_address(local_server(options.port))}", flush=True)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execv(sys.executable, [sys.executable, *page])
