"""Push the commit that `ci.deliver` made, and its attachments; with a token that only this step sees.

The job that trained runs packages and code of others, so its files decide nothing here: the branches are those of this
job, and its commit must be the retraining of what this job has checked out.

A result replaces an older result of the same branch, and nothing else: neither a newer one nor a commit that no
retraining made. It needs the bundle that `ci.deliver` left, git and the whole history; no data, and no torch.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ci.claim import claimed_run, claimed_source, commit_error, foreign_files
from ci.secrets import redacted
from ci.steps import (
    ATTACHMENTS,
    ATTACHMENTS_BRANCH,
    ATTESTATION,
    BRANCH,
    BUNDLE,
    COMMENT,
    STATEMENT,
    attachments_folder,
    branch,
    call,
    nothing_to_do,
    step,
    write_comment,
)
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.markdown import block, code
from rfdetr_core.base.printing import say
from rfdetr_core.lineage.lock import LOCK

# Git asks it for a password, and the shell takes that from the environment: no file, no list of processes has it. The
# empty helper before it is for those of the machine, which would keep what was accepted.
HELPERS = ("", """!f() { printf 'username=x-access-token\\npassword=%s\\n' "$RETRAIN_TOKEN"; }; f""")
TRIES = 3  # others push as well
HEADED = "## Retrained, but"  # how a comment begins before which `head` has put a reason
_REST = "\n\nThe rest of this comment is about that result.\n\n#"
_ATTACHMENTS_REF = "refs/retrain/attachments"


@dataclass(frozen=True)
class Destination:
    """Where a result goes."""

    branch: str | None  # None: nowhere, since a newer one is there
    tip: str = ""  # what the branch must still be when the result is pushed; empty: it must not exist
    why: str = ""  # in Markdown, if it is not the usual branch
    request: bool = True  # whether it can be merged


def fetch_result() -> tuple[str, str]:
    """The commit of the bundle, which is in this clone then, and the commit that was retrained.

    Raises:
        UserError: this clone does not have the commit that was retrained; or the one is not the retraining of the
            other, or not of what is checked out.
    """
    # Git looks for a relative one from the root of the repository.
    done = call("git", "fetch", "-q", "--no-tags", str(BUNDLE.resolve()), "HEAD", check=False)
    if done.returncode:
        raise UserError(
            f"{BUNDLE} cannot be read here ({done.stderr.strip()}). It needs the commit that was retrained: clone with "
            "the whole history"
        )
    result = call("git", "rev-parse", "FETCH_HEAD").stdout.strip()
    source, here = claimed_source(result), call("git", "rev-parse", "HEAD").stdout.strip()
    if here not in (source, result):  # by hand the result itself may be checked out
        raise UserError(f"{BUNDLE} has no retraining of {here[:10]}, which is checked out")
    if reason := commit_error(result, source):
        raise UserError(f"{BUNDLE} has no commit that a retraining makes: {reason}")
    return result, source


def choose_destination(
    source: str, run: int | None, target: str, usual_branch: str, tips: dict[str, str]
) -> Destination:
    """Where the result of `source` goes. own: the usual branch. tips: of the branches that origin has.

    run: the number of the run that made it, which grows from run to run; None by hand.

    Raises:
        UserError: another's commits are on the branch of this result as well.
    """
    aside = f"{usual_branch}-{source[:10]}"
    known = [f"^{tips[target]}"] if target in tips else []
    if target not in tips:
        why = f"The branch {code(target)} was deleted meanwhile. The result is on {code(aside)}, without a request."
        return Destination(aside, _replaceable(aside, source, known, tips), why, request=False)
    if not is_before(source, tips[target]):
        why = (
            f"{code(target)} of origin does not have the retrained commit {source[:10]}: it was rewritten, or "
            "that commit was not pushed. "
            f"The result is on {code(aside)}, without a request."
        )
        return Destination(aside, _replaceable(aside, source, known, tips), why, request=False)
    if newer := _newer_result(source, run, [tips[name] for name in (usual_branch, target) if name in tips]):
        why = (
            f"This is the result of {source[:10]}. {newer} is there already, so that this one was pushed to no branch. "
            "What was trained is in the DVC remote."
        )
        return Destination(None, why=why, request=False)
    others = _foreign_commits(usual_branch, source, known, tips)
    if not others:
        return Destination(usual_branch, tips.get(usual_branch, ""))
    why = (
        f"{code(usual_branch)} has commits that no retraining made ({listed(commit[:10] for commit in others)}), and they stay there. "
        f"The result is on {code(aside)}."
    )
    return Destination(aside, _replaceable(aside, source, known, tips), why)


def _replaceable(name: str, source: str, known: list[str], tips: dict[str, str]) -> str:
    """The tip of a branch that may be replaced; empty if there is none."""
    if others := _foreign_commits(name, source, known, tips):
        commits = listed(commit[:10] for commit in others)
        raise UserError(f"{name} has commits that no retraining made ({commits}). Merge or rename that branch first.")
    return tips.get(name, "")


def _foreign_commits(name: str, source: str, known: list[str], tips: dict[str, str]) -> list[str]:
    """The commits of a branch that neither a retraining made nor `known` has."""
    if name not in tips:
        return []
    commits = call("git", "rev-list", tips[name], f"^{source}", *known).stdout.split()
    return [commit for commit in commits if not _is_retraining(commit)]


def _is_retraining(commit: str) -> bool:
    """Whether a commit is as a retraining makes it, by this job's name and address.

    An amended one has another author, committer, date of one of both, or other files.
    """
    source = claimed_source(commit)
    author, committer = call("git", "log", "-1", "--format=%an <%ae> %at%n%cn <%ce> %ct", commit).stdout.splitlines()
    usual_branch = call("git", "var", "GIT_COMMITTER_IDENT").stdout.rpartition(">")[0]
    ours = author == committer and committer.rpartition(">")[0] == usual_branch
    return bool(source) and ours and commit_error(commit, source) is None


def _newer_result(source: str, run: int | None, tips: list[str]) -> str:
    """The result, in words, of a later commit or of a later run that the history of `tips` has; empty if none.

    What a retraining did not make may have its trailer, too. Only a commit that changes dvc.lock, and nothing but
    results, counts; where a request was squashed, its parent is another one.
    """
    options = ("--full-history", "--format=%H", "--min-parents=1", "--max-parents=1")
    for commit in call("git", "log", *options, *tips, f"^{source}", "--", LOCK).stdout.split():
        claimed, other = claimed_source(commit).split(","), claimed_run(commit)
        later = next(
            (
                later_source
                for later_source in claimed
                if later_source not in ("", source) and is_before(source, later_source)
            ),
            "",
        )
        in_later_run = source in claimed and run is not None and other is not None and other > run
        if (later or in_later_run) and not foreign_files(commit, f"{commit}^"):
            return f"A result of the later commit {later[:10]}" if later else f"The result of the later run {other}"
    return ""


def is_before(old: str, new: str) -> bool:
    """Whether `new` is `old` or comes after it."""
    return call("git", "merge-base", "--is-ancestor", "--end-of-options", old, new, check=False).returncode == 0


def run_git(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """A command of git that may ask for a password: RETRAIN_TOKEN if there is one, else as git is set up here."""
    helpers = HELPERS if os.environ.get("RETRAIN_TOKEN") else ()
    git = ["git", *(word for helper in helpers for word in ("-c", f"credential.helper={helper}"))]
    return subprocess.run([*git, *words], input=stdin, capture_output=True, check=False)


def fetch_tips(*names: str) -> dict[str, str]:
    """The tips of those of the branches that origin has; their commits are in this clone then.

    Raises:
        UserError: origin cannot be read.
    """
    refs = {f"refs/heads/{name}": name for name in names}
    for _ in range(TRIES):
        done = run_git("ls-remote", "origin", *refs)
        if done.returncode:
            break
        rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
        tips = {refs[ref]: commit for commit, ref in rows if ref in refs}
        if not tips:
            return {}
        done = run_git("fetch", "-q", "--no-tags", "origin", *(f"refs/heads/{name}" for name in tips))
        # Since the list was read a branch may have been deleted, or rewritten to other commits.
        if not done.returncode and all(_is_local(commit) for commit in tips.values()):
            return tips
    raise UserError(f"origin cannot be read:\n{_output_text(done)}")


def _is_local(commit: str) -> bool:
    return call("git", "cat-file", "-e", f"{commit}^{{commit}}", check=False).returncode == 0


def _output_text(done: subprocess.CompletedProcess[bytes]) -> str:
    return redacted((done.stdout + done.stderr).decode(errors="replace").strip())


def push_branch(result: str, source: str, target: str, usual_branch: str) -> Destination:
    """Push the result to where it may go.

    Raises:
        UserError: origin does not take it.
    """
    tries, run = TRIES, claimed_run(result)
    while True:
        tips = fetch_tips(target, usual_branch, f"{usual_branch}-{source[:10]}")
        destination = choose_destination(source, run, target, usual_branch, tips)
        if destination.branch is None:
            return destination
        ref = f"refs/heads/{destination.branch}"
        lease = f"--force-with-lease={ref}:{destination.tip}"
        done = run_git("push", "--quiet", lease, "origin", f"{result}:{ref}")
        say(*_output_text(done).splitlines())
        if not done.returncode:
            return destination
        tries -= 1
        if not tries or fetch_tips(destination.branch).get(destination.branch, "") == destination.tip:
            raise UserError(
                f"{destination.branch} cannot be pushed:\n{_output_text(done)}\nWhat was trained is in the DVC remote."
            )


def push_attachments(result: str) -> str | None:
    """Push pictures, documents and statement as a folder of ATTACHMENTS_BRANCH; None, or why that cannot be done.

    The folder is that of this result alone, so no later result changes what its comment shows.
    """
    paths = {path.relative_to(ATTACHMENTS).as_posix(): path for path in ATTACHMENTS.rglob("*") if path.is_file()}
    paths |= {path.name: path for path in (STATEMENT, ATTESTATION) if path.exists()}
    if not paths:
        return None
    try:
        for _ in range(TRIES):
            tip = fetch_tips(ATTACHMENTS_BRANCH).get(ATTACHMENTS_BRANCH, "")
            made = run_git(
                "fast-import", "--quiet", "--force", stdin=_attachments_commit(tip, attachments_folder(result), paths)
            )
            if made.returncode:
                return _output_text(made)
            ref = f"refs/heads/{ATTACHMENTS_BRANCH}"
            done = run_git("push", "--quiet", f"--force-with-lease={ref}:{tip}", "origin", f"{_ATTACHMENTS_REF}:{ref}")
            call("git", "update-ref", "-d", _ATTACHMENTS_REF)
            if not done.returncode:
                return None
    except UserError as error:
        return str(error)
    return _output_text(done)


def _attachments_commit(tip: str, folder: str, paths: dict[str, Path]) -> bytes:
    """A commit with these files as the only ones of its folder, for git fast-import."""
    committer, message = call("git", "var", "GIT_COMMITTER_IDENT").stdout.strip(), f"Attachments of {folder}\n"
    parent = f"from {tip}\n" if tip else ""
    lines = [
        f"reset {_ATTACHMENTS_REF}\ncommit {_ATTACHMENTS_REF}\ncommitter {committer}\ndata {len(message.encode())}\n{message}"
        f"{parent}D {folder}\n".encode()
    ]
    for name, path in sorted(paths.items()):
        content = path.read_bytes()
        lines += [f"M 100644 inline {folder}/{name}\ndata {len(content)}\n".encode(), content, b"\n"]
    return b"".join(lines)


def prepend_reason(heading: str, reason: str) -> None:
    """Put a heading and a reason before the comment of the result, in place of those of an earlier push."""
    text = COMMENT.read_text() if COMMENT.exists() else ""
    rest = text.partition(_REST)[2] if text.startswith(HEADED) and _REST in text else text
    text = f"{HEADED} {heading}\n\n{reason}" if heading else ""
    if text and rest:
        text += _REST
    write_comment(f"{text}{rest}".rstrip() + "\n")


def main() -> None:
    """Push; leave the branch of the request, if there is to be one, and a comment that says what became of the result.

    Raises:
        UserError: origin does not take the result.
    """
    BRANCH.unlink(missing_ok=True)
    if not BUNDLE.exists():
        if not nothing_to_do():
            say("no commit was made: nothing to push")
        return
    target, usual_branch = branch()
    try:
        result, source = fetch_result()
        attachments_error = push_attachments(result)
        destination = push_branch(result, source, target, usual_branch)
    except UserError as error:
        prepend_reason("not delivered", block(redacted(str(error))))
        raise
    notes = [destination.why] if destination.why else []
    if attachments_error:
        notes.append(
            f"Pictures and documents are in the artifacts alone, since they cannot be pushed:\n\n{block(attachments_error)}"
        )
    heading = "a newer result is there" if destination.branch is None else "on a branch of its own"
    prepend_reason((heading if destination.why else "without its pictures") if notes else "", "\n\n".join(notes))
    if destination.branch and destination.request:
        BRANCH.write_text(f"{destination.branch}\n{target}\n")
    say(*(notes or [f"{destination.branch} carries the result for {target}"]))


if __name__ == "__main__":
    step(main)
