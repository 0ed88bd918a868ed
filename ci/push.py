"""Push the commit that `ci.deliver` made, and its attachments. Only this step has the token with write permission.

The job that trained runs foreign packages and code, so this job does not trust its files. It takes the names of the
branches from its own variables. It accepts only a commit that is the retraining of the commit that is checked out.

A result replaces only an older result of the same branch, never a newer result and never a commit of a person. The step
needs the bundle of `ci.deliver`, git and the complete history. It needs neither data nor torch.
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

# A credential helper is a shell function here. It reads the token from the environment, so that neither a file nor the
# list of processes contains it. The empty first entry turns off helpers of the machine, which would store the token.
HELPERS = ("", """!f() { printf 'username=x-access-token\\npassword=%s\\n' "$RETRAIN_TOKEN"; }; f""")
TRIES = 3  # others may push at the same time
# A comment that begins with these words already has a reason from `prepend_reason`.
HEADED = "## Retrained, but"
_REST = "\n\nThe rest of this comment describes that result.\n\n#"
_ATTACHMENTS_REF = "refs/retrain/attachments"


@dataclass(frozen=True)
class Destination:
    """The branch that a result is pushed to."""

    branch: str | None  # None: the result is not pushed to a branch, because a newer result exists
    tip: str = ""  # the commit that the branch must have at the push; empty: the branch must not exist
    reason: str = ""  # in Markdown: why the result does not go to the usual branch
    mergeable: bool = True  # whether a pull request of this branch is opened


def fetch_result() -> tuple[str, str]:
    """Fetch the commit of the bundle into this clone. Returns this commit, and the commit that was retrained.

    Raises:
        UserError: this clone lacks the commit that was retrained, another commit is checked out, or the commit of the
            bundle is not a retraining of it.
    """
    # Git resolves a relative path from the root of the repository.
    done = call("git", "fetch", "-q", "--no-tags", str(BUNDLE.resolve()), "HEAD", check=False)
    if done.returncode:
        raise UserError(
            f"{BUNDLE} cannot be read here ({done.stderr.strip()}). It needs the commit that was retrained. Clone the "
            "complete history"
        )
    result = call("git", "rev-parse", "FETCH_HEAD").stdout.strip()
    source, head = claimed_source(result), call("git", "rev-parse", "HEAD").stdout.strip()
    if head not in (source, result):  # when a person calls this step, the result itself may be checked out
        raise UserError(f"{BUNDLE} is not a retraining of the commit that is checked out, {head[:10]}")
    if reason := commit_error(result, source):
        raise UserError(f"the commit in {BUNDLE} is not a retraining: {reason}")
    return result, source


def choose_destination(
    source: str, run: int | None, target: str, usual_branch: str, tips: dict[str, str]
) -> Destination:
    """Choose the branch for a result.

    Args:
        source: the commit that was retrained.
        run: the number of the run that made the result; a later run has a larger number. None: made by hand.
        target: the branch that was retrained.
        usual_branch: the branch for results of `target`.
        tips: the commit of each branch that the remote `origin` has.

    Raises:
        UserError: neither the usual branch nor the side branch may be replaced.
    """
    side_branch = f"{usual_branch}-{source[:10]}"
    exclusions = [f"^{tips[target]}"] if target in tips else []
    if target not in tips:
        reason = f"The branch {code(target)} was deleted. "
    elif not is_before(source, tips[target]):
        reason = (
            f"{code(target)} of the remote `origin` does not have the retrained commit {source[:10]}: the branch was "
            "rewritten, or the commit was not pushed. "
        )
    else:
        reason = ""
    if reason:
        reason += f"The result is on the branch {code(side_branch)}. No request to merge it was opened."
        tip = _replaceable_tip(side_branch, source, exclusions, tips)
        return Destination(side_branch, tip, reason, mergeable=False)
    if newer := _newer_result(source, run, [tips[name] for name in (usual_branch, target) if name in tips]):
        reason = (
            f"This is the result of {source[:10]}. There is already {newer}. So this result was not pushed to a "
            "branch. Its files are in the DVC remote."
        )
        return Destination(None, reason=reason, mergeable=False)
    foreign = _foreign_commits(usual_branch, source, exclusions, tips)
    if not foreign:
        return Destination(usual_branch, tips.get(usual_branch, ""))
    reason = (
        f"{code(usual_branch)} has commits that were not made by a retraining "
        f"({listed(commit[:10] for commit in foreign)}). They were kept. "
        f"The result is on the branch {code(side_branch)}."
    )
    return Destination(side_branch, _replaceable_tip(side_branch, source, exclusions, tips), reason)


def _replaceable_tip(name: str, source: str, exclusions: list[str], tips: dict[str, str]) -> str:
    """The last commit of a branch that this push may replace. Empty if there is no such branch.

    Args:
        name: the branch.
        source: the commit that was retrained.
        exclusions: arguments of `git rev-list`; they leave out the commits of the retrained branch.
        tips: the last commit of each branch.

    Raises:
        UserError: the branch has commits that were not made by a retraining.
    """
    if foreign := _foreign_commits(name, source, exclusions, tips):
        commits = listed(commit[:10] for commit in foreign)
        raise UserError(
            f"the branch {name} has commits that were not made by a retraining ({commits}). Merge or rename it first."
        )
    return tips.get(name, "")


def _foreign_commits(name: str, source: str, exclusions: list[str], tips: dict[str, str]) -> list[str]:
    """The commits of a branch that were not made by a retraining. exclusions: arguments of `git rev-list`."""
    if name not in tips:
        return []
    commits = call("git", "rev-list", tips[name], f"^{source}", *exclusions).stdout.split()
    return [commit for commit in commits if not _is_retraining(commit)]


def _is_retraining(commit: str) -> bool:
    """Whether a commit was made by a retraining, with the name and email address of this job.

    An amended commit does not count: its committer or its dates differ from the author's, or it changes other files.
    """
    source = claimed_source(commit)
    author, committer = call("git", "log", "-1", "--format=%an <%ae> %at%n%cn <%ce> %ct", commit).stdout.splitlines()
    identity = call("git", "var", "GIT_COMMITTER_IDENT").stdout.rpartition(">")[0]
    by_this_job = author == committer and committer.rpartition(">")[0] == identity
    return bool(source) and by_this_job and commit_error(commit, source) is None


def _newer_result(source: str, run: int | None, tips: list[str]) -> str:
    """A phrase that names the newer result in the history of `tips`. Empty if there is none.

    Newer is the result of a later commit, or of a later run for the same commit.

    A commit of a person may have the same trailer. So a commit counts only if it changes dvc.lock and nothing but
    results. Its parent is not checked: a squashed merge has another parent.
    """
    options = ("--full-history", "--format=%H", "--min-parents=1", "--max-parents=1")
    for commit in call("git", "log", *options, *tips, f"^{source}", "--", LOCK).stdout.split():
        sources, other_run = claimed_source(commit).split(","), claimed_run(commit)
        later = [name for name in sources if name not in ("", source) and is_before(source, name)]
        in_later_run = source in sources and run is not None and other_run is not None and other_run > run
        if (later or in_later_run) and not foreign_files(commit, f"{commit}^"):
            by_commit = f"a result of the later commit {later[0][:10]}" if later else ""
            return by_commit or f"the result of the later run {other_run}"
    return ""


def is_before(old: str, new: str) -> bool:
    """Whether `new` is the same commit as `old`, or has it in its history."""
    return call("git", "merge-base", "--is-ancestor", "--end-of-options", old, new, check=False).returncode == 0


def run_git(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run git. If git asks for a password, it gets RETRAIN_TOKEN.

    If RETRAIN_TOKEN is not set, the credential helpers of this machine answer.
    """
    helpers = HELPERS if os.environ.get("RETRAIN_TOKEN") else ()
    git = ["git", *(word for helper in helpers for word in ("-c", f"credential.helper={helper}"))]
    return subprocess.run([*git, *words], input=stdin, capture_output=True, check=False)


def fetch_tips(*names: str) -> dict[str, str]:
    """Fetch branches of the remote `origin`. Returns the tips of those that exist.

    Raises:
        UserError: the remote `origin` cannot be read.
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
        # A branch may have been deleted or rewritten after the list was read.
        if not done.returncode and all(_is_local(commit) for commit in tips.values()):
            return tips
    raise UserError(f"the remote `origin` cannot be read:\n{_output_text(done)}")


def _is_local(commit: str) -> bool:
    return call("git", "cat-file", "-e", f"{commit}^{{commit}}", check=False).returncode == 0


def _output_text(done: subprocess.CompletedProcess[bytes]) -> str:
    return redacted((done.stdout + done.stderr).decode(errors="replace").strip())


def push_branch(result: str, source: str, target: str, usual_branch: str) -> Destination:
    """Push the result to the branch that it may replace.

    Args:
        result: the commit of the result.
        source: the commit that was retrained.
        target: the branch that was retrained.
        usual_branch: the branch for results of `target`.

    Raises:
        UserError: the remote `origin` refuses the push.
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
                f"the branch {destination.branch} cannot be pushed:\n{_output_text(done)}\n"
                "The files of the result are in the DVC remote."
            )


def push_attachments(result: str) -> str | None:
    """Push pictures, documents and statement as a folder of ATTACHMENTS_BRANCH. Returns why it failed, or None.

    Each result has its own folder, so no later result changes the pictures of an earlier comment.
    """
    paths = {path.relative_to(ATTACHMENTS).as_posix(): path for path in ATTACHMENTS.rglob("*") if path.is_file()}
    paths |= {path.name: path for path in (STATEMENT, ATTESTATION) if path.exists()}
    if not paths:
        return None
    try:
        for _ in range(TRIES):
            tip = fetch_tips(ATTACHMENTS_BRANCH).get(ATTACHMENTS_BRANCH, "")
            imported = run_git(
                "fast-import", "--quiet", "--force", stdin=_attachments_commit(tip, attachments_folder(result), paths)
            )
            if imported.returncode:
                return _output_text(imported)
            ref = f"refs/heads/{ATTACHMENTS_BRANCH}"
            done = run_git("push", "--quiet", f"--force-with-lease={ref}:{tip}", "origin", f"{_ATTACHMENTS_REF}:{ref}")
            call("git", "update-ref", "-d", _ATTACHMENTS_REF)
            if not done.returncode:
                return None
    except UserError as error:
        return str(error)
    return _output_text(done)


def _attachments_commit(tip: str, folder: str, paths: dict[str, Path]) -> bytes:
    """The input of `git fast-import` for a commit that replaces a folder.

    Args:
        tip: the parent; empty for a new branch.
        folder: the folder of the result.
        paths: the files, by their names in the folder.
    """
    committer, message = call("git", "var", "GIT_COMMITTER_IDENT").stdout.strip(), f"Attachments of {folder}\n"
    parent = f"from {tip}\n" if tip else ""
    lines = [
        f"reset {_ATTACHMENTS_REF}\ncommit {_ATTACHMENTS_REF}\ncommitter {committer}\n"
        f"data {len(message.encode())}\n{message}{parent}D {folder}\n".encode()
    ]
    for name, path in sorted(paths.items()):
        content = path.read_bytes()
        lines += [f"M 100644 inline {folder}/{name}\ndata {len(content)}\n".encode(), content, b"\n"]
    return b"".join(lines)


def prepend_reason(heading: str, reason: str) -> None:
    """Put a heading and a reason before the comment of the result. Those of an earlier push are replaced."""
    text = COMMENT.read_text() if COMMENT.exists() else ""
    comment = text.partition(_REST)[2] if text.startswith(HEADED) and _REST in text else text
    text = f"{HEADED} {heading}\n\n{reason}" if heading else ""
    if text and comment:
        text += _REST
    write_comment(f"{text}{comment}".rstrip() + "\n")


def main() -> None:
    """Push the result. Writes the branches of the pull request, if one shall be opened, and updates the comment.

    Raises:
        UserError: the remote `origin` refuses the result.
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
    notes = [destination.reason] if destination.reason else []
    if attachments_error:
        notes.append(
            "Pictures and documents are only in the artifacts of the run. They cannot be pushed:\n\n"
            f"{block(attachments_error)}"
        )
    heading = "there is a newer result" if destination.branch is None else "on a separate branch"
    prepend_reason((heading if destination.reason else "without pictures") if notes else "", "\n\n".join(notes))
    if destination.branch and destination.mergeable:
        BRANCH.write_text(f"{destination.branch}\n{target}\n")
    say(*(notes or [f"pushed the result for {target} to the branch {destination.branch}"]))


if __name__ == "__main__":
    step(main)
