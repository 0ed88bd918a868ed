"""The commands verify and attest. What they need is imported when they run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rfdetr_core.errors import UserError


def add_commands(commands: Any) -> None:
    """Add verify and attest to the parsers of the command line."""
    verify = commands.add_parser(
        "verify", help="compute again what is at hand, and compare with lock, lineage, history"
    )
    verify.add_argument("file", type=Path, nargs="?", metavar="FILE", help="a model file (default: the project's)")
    only = verify.add_mutually_exclusive_group()
    only.add_argument(
        "--lock", action="store_true", help="dvc.lock against code, params and git alone: seconds, for CI"
    )
    only.add_argument("--reproduce", action="store_true", help="run all again in a clean clone and compare every byte")
    verify.add_argument("--key", type=Path, metavar="PUBLIC.pem", help="check the signature of FILE's attestation, too")
    verify.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the project (default: here)")
    verify.add_argument("--json", action="store_true", help="for programs")
    verify.set_defaults(run=_verify)
    attest = commands.add_parser("attest", help="write an in-toto statement of what made a model, and sign it")
    attest.add_argument("file", type=Path, metavar="FILE", help="a model file that carries its lineage")
    attest.add_argument("--sign-key", type=Path, metavar="KEY.pem", help="private key on an elliptic curve (P-256)")
    attest.add_argument("--output", type=Path, metavar="PATH", help="default: FILE.intoto.json")
    attest.set_defaults(run=_attest)


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
        from rfdetr_core.lineage.history import MODEL
        from rfdetr_core.verification.attest import check_attestation
        from rfdetr_core.verification.verify import verify

        report = verify(options.repo, options.file)
        check_attestation(report, options.file or options.repo / MODEL, options.key)
    print(json.dumps(report.plain(), indent=2) if options.json else "\n".join(report.lines()))
    if report.mismatches:
        sys.exit(1)


def _attest(options: argparse.Namespace) -> None:
    from rfdetr_core.verification.attest import attest

    for path in attest(options.file, options.output, options.sign_key):
        print(path)
