"""The commands about the lineage of a file, and about its proof: audit, verify, attest, document."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import one_line, say
from rfdetr_core.commands.output import print_versioned

if TYPE_CHECKING:
    from rfdetr_core.audit.trace import Archive
    from rfdetr_core.verification.report import Report

_IMAGE_COLUMNS = ("split", "path", "sha256", "width", "height", "labels", "pixels", "through")  # in `audit --images`


def audit(options: argparse.Namespace) -> None:
    """Print how a file was made, from which images, or what an image was used for; exit status 1 if it is unknown."""
    from rfdetr_core.audit.history import History, NoHistory
    from rfdetr_core.audit.trace import Archive, trace

    if (options.prove is not None or options.output is not None) and (options.prove is None or options.file is None):
        raise UserError("A proof needs a model file and an image: audit FILE --prove IMAGE --output PROOF.json")
    questions = [name for name in ("file", "image", "diff") if getattr(options, name) is not None]
    questions += ["where"] * bool(options.where and not (options.images and options.file))
    if len(questions) != 1:
        raise UserError(
            "audit answers one question at a time. Give one of FILE, --image PATH_OR_SHA256, --diff A B or --where "
            "KEY=VALUE. Only FILE --images can have --where, too."
        )
    # Without --repo, files are traced outside of a repository, too. A --repo that is not a repository is an error.
    outside_git = options.repo == Path() and git.answer(options.repo, "rev-parse", "--git-dir") is None
    of_files = questions[0] in ("file", "diff") and not options.where and options.prove is None
    if options.markdown and (options.diff is None or options.json):
        raise UserError("--markdown needs --diff A B, and cannot be combined with --json.")
    archive = Archive(NoHistory(options.repo) if outside_git and of_files else History(options.repo, working_tree=True))
    if questions[0] in ("image", "where"):
        _audit_uses(options, archive)
    elif options.diff is not None:
        _audit_difference(options, archive)
    elif options.prove is not None:
        _prove(options, archive)
    elif options.images:
        _list_images(options, archive)
    else:
        from rfdetr_core.audit.text import format_trace, trace_to_dict

        traced = trace(options.file, archive)
        print_versioned(trace_to_dict(traced, archive) if options.json else format_trace(options.file, traced, archive))
        if not traced.confirmed:
            sys.exit(1)
    if archive.notes:  # unreadable history may have the answer
        sys.exit(1)


def _list_images(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.audit.images import images_of
    from rfdetr_core.audit.trace import trace

    traced = trace(options.file, archive)
    images = images_of(traced, archive, where=options.where)
    notes = [*images.notes, *(() if traced.confirmed else traced.notes)]
    if options.json:
        print_versioned({"images": images.rows, "unknown": images.unknown, "notes": notes})
    else:
        rows = [{key: one_line(value) if isinstance(value, str) else value for key, value in row.items()}
                for row in images.rows]  # fmt: skip
        print(*files.csv_text(rows, _IMAGE_COLUMNS).splitlines(), sep="\n")
    lines = [f"unknown: {part}" for part in images.unknown]
    lines += [f"note: {note}" for note in notes]
    if lines:
        say(*lines, file=sys.stderr)
    if traced.contradicted or images.unknown:
        sys.exit(1)


def _prove(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.audit.images import digest_of, pixels_of
    from rfdetr_core.audit.proofs import prove
    from rfdetr_core.audit.trace import trace
    from rfdetr_core.audit.uses import Image

    sha256 = digest_of(options.prove, archive)
    image = Image(sha256, pixels_of(options.prove, sha256, archive))
    traced = trace(options.file, archive)
    proof = prove(image, traced, archive)
    if options.output is not None:
        files.write_bytes(options.output, files.canonical_json(proof.content) + b"\n")
    print_versioned(proof.content if options.json else proof.lines)
    notes = (*proof.notes, *(() if traced.confirmed else traced.notes))
    lines = [f"unknown: {part}" for part in proof.unknown] + [f"note: {note}" for note in notes]
    if lines:
        say(*lines, file=sys.stderr)
    if proof.unknown or traced.contradicted:
        sys.exit(1)


def _audit_uses(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.audit.text import answer_uses

    plain, lines = answer_uses(options.image, options.where, archive)
    print_versioned(plain if options.json else lines)
    # The path also had other bytes, whose uses are not part of the answer. So the answer is incomplete.
    if plain["unknown"] or plain.get("other_bytes"):
        sys.exit(1)


def _audit_difference(options: argparse.Namespace, archive: Archive) -> None:
    from rfdetr_core.audit.difference import compare_images, compare_lineages, format_difference
    from rfdetr_core.audit.images import images_of
    from rfdetr_core.audit.trace import trace

    traces = [trace(path, archive) for path in options.diff]
    for path, traced in zip(options.diff, traces, strict=True):
        if traced.runs and traced.training is None:
            raise UserError(f"{path} cannot be compared: {traced.notes[0]}")
        if traced.training is None:
            raise UserError(
                f"{path} cannot be compared: it has no lineage, and this history has no run record of it. Name a clone "
                "that has one: --repo DIR"
            )
    changes = compare_lineages(*(traced.lineage or {"training": traced.training} for traced in traces))
    before, after = (images_of(traced, archive, own=True) for traced in traces)
    unknown = before.unknown + after.unknown
    images = {} if unknown else compare_images(before.rows, after.rows)
    notes = [f"{traced.file}: {note}" for traced in traces if not traced.confirmed for note in traced.notes]
    content: dict[str, Any] = {"making": changes, "images": images, "unknown": unknown}
    if options.json or options.markdown:
        from rfdetr_core.audit.context import context_of

        context = context_of(traces, images, archive)
        content |= context | {"notes": notes + context["notes"]}
    if options.markdown:
        from rfdetr_core.audit.review import markdown

        print_versioned(markdown(content, archive.history.root))
    else:
        lines = [*format_difference(changes, images, unknown), *(f"note: {note}" for note in notes)]
        print_versioned(content if options.json else lines)
    if unknown or not all(traced.confirmed for traced in traces):
        sys.exit(1)


def verify(options: argparse.Namespace) -> None:
    """Print what was compared; exit status 1 if something differs."""
    if options.image is not None and options.proof is None:
        raise UserError("--image needs --proof: verify --proof PROOF.json --image IMAGE FILE.")
    only = "--lock" if options.lock else "--reproduce" if options.reproduce else None
    more = "--rescore" if options.rescore else "--deep" if options.deep else None
    if only and more:
        raise UserError(f"{more} and {only} cannot be combined. Give one of them.")
    if ((only or more) and options.file) or (only and options.key):
        argument = "FILE" if options.file else "--key"
        raise UserError(f"{only or more} checks the project, not a model file. Leave out {argument} or {only or more}.")
    if options.proof is not None:
        report = _check_proof(options)
    elif options.reproduce:
        from rfdetr_core.verification.reproduce import reproduce

        report = reproduce(options.repo)
    elif options.lock:
        from rfdetr_core.verification.verify import verify_lock

        report = verify_lock(options.repo)
    else:
        from rfdetr_core.audit.history import MODEL
        from rfdetr_core.verification.attest import check_attestation
        from rfdetr_core.verification.verify import verify

        report = verify(options.repo, options.file, deep=options.deep, rescore=options.rescore)
        check_attestation(report, options.file or options.repo / MODEL, options.key, options.repo)
    print_versioned(report.to_dict() if options.json else report.lines())
    if report.mismatches:
        sys.exit(1)


def _check_proof(options: argparse.Namespace) -> Report:
    from rfdetr_core.verification.attest import SUFFIX, check_envelope
    from rfdetr_core.verification.proofs import check_proof
    from rfdetr_core.verification.report import Report

    if options.file is None:
        raise UserError(
            "--proof needs the model file, or its attestation FILE.intoto.json: verify --proof PROOF.json FILE."
        )
    report, attestation = Report(), options.file
    if attestation.suffix not in (".json", ".dsse"):
        attestation = attestation.with_name(f"{attestation.name}{SUFFIX}")
    check_proof(report, options.proof, attestation, options.image)
    if options.key is None:
        report.skip(f"signature of {attestation}", "no key given, so anyone may have written it. Give --key PUBLIC.pem")
    else:
        check_envelope(report, attestation, options.key)
    return report


def attest(options: argparse.Namespace) -> None:
    """Write the statement and the signatures of a model file; print their paths."""
    from rfdetr_core.verification.attest import attest

    paths = attest(
        options.file,
        options.output,
        options.sign_key,
        root=options.repo,
        own_word=options.own_word,
        documents=options.documents,
    )
    print(*paths, sep="\n")


def document(options: argparse.Namespace) -> None:
    """Write the documents about a model file; print their paths."""
    from rfdetr_core.documents import write_documents

    print(*write_documents(options.file, options.out, options.repo), sep="\n")
