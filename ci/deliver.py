"""Verify the result, push its files to the DVC remote, commit it, publish it, and write the bundle for `ci.push`.

The files are in the DVC remote before a commit names them. So a commit never names a file that the remote lacks. If the
step is killed, the remote may have files that no commit names; the next retraining reuses them.

Everything that leaves the machine is first searched for the values of secret variables.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from ci.comment import comment, title
from ci.push import prepend_reason
from ci.remote import remote_error
from ci.secrets import SecretFoundError, redacted, refuse, refuse_in_files
from ci.steps import (
    ATTACHMENTS,
    BUNDLE,
    COMMENT,
    COMMITTED,
    COMPARED,
    MODEL,
    PLAN_COMMENT,
    RUN_TRAILER,
    STATEMENT,
    TITLE,
    TRAILER,
    attachment,
    branch,
    call,
    core,
    nothing_to_do,
    show,
    step,
    write_comment,
)
from rfdetr_core.audit.history import cache_path
from rfdetr_core.base import files
from rfdetr_core.base.dvc_config import cache_folder
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.markdown import block
from rfdetr_core.base.printing import say
from rfdetr_core.lineage.lock import Lock
from rfdetr_core.lineage.records import FOLDER, RECORD, record_names

DOCUMENTS = ATTACHMENTS / "documents"


def stage_results() -> list[str]:
    """Stage dvc.lock, the results that git keeps, and the run records of this result.

    Returns the files that the commit will change, relative to the folder of the project.
    """
    paths = [name for name in COMMITTED if Path(name).exists()]
    names = record_names(files.read_json(RECORD)) if RECORD.exists() else ()
    paths += [str(FOLDER / name) for name in names if (FOLDER / name).is_file()]
    call("git", "add", "-A", "--", *paths)
    return call("git", "diff", "--cached", "--name-only", "--relative", "-z").stdout.split("\0")[:-1]


def outgoing_files(staged: list[str]) -> list[str]:
    """All files that leave this machine.

    These are the files of the commit, the outputs in dvc.lock, the run cache, the page of both models, the plan and the
    pictures. The run cache also has entries of earlier results, for example if an earlier delivery was stopped.
    """
    root = Path()
    entries = [path for path in sorted((cache_folder(root) / "runs").rglob("*")) if path.is_file()]
    digests = {md5 for path in entries for md5 in _output_digests(path)}
    folders = [path for md5 in digests if md5.endswith(".dir") and (path := cache_path(root, md5)).exists()]
    digests |= {row["md5"] for path in folders for row in files.read_json(path)}
    cached_files = [path for md5 in sorted(digests) if (path := cache_path(root, md5)).exists()]
    outs = [path for _, path, _ in Lock.read(root).outs()]
    pages = [path for path in (COMPARED, PLAN_COMMENT, ATTACHMENTS) if path.exists()]
    return [*staged, *outs, *map(str, [*entries, *cached_files, *pages])]


def _output_digests(entry: Path) -> list[str]:
    """The MD5s of the files that a stage wrote, from its entry in the run cache. Empty if the entry is damaged."""
    try:
        content = yaml.load(entry.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return [str(out["md5"]) for out in content["outs"]]
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return []


def push_small_results() -> None:
    """Push the results that git keeps, such as metrics, to the DVC remote too.

    `dvc push --run-cache` leaves them out: it pushes the run cache and the files of `dvc.lock` that are not in git. But
    the run cache restores a stage only if all its files are in the remote.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    digests = {md5 for _, _, md5 in Lock.read(Path()).outs() if not md5.endswith(".dir")}
    with Repo() as repo:
        local_files = {HashInfo("md5", digest) for digest in digests if repo.cache.local.exists(digest)}
        if repo.cloud.push(local_files).failed:
            raise UserError("metrics cannot be pushed to the DVC remote. No commit was made.")


def write_documents() -> str:
    """Write the documents and the statement of the result, which must be committed before.

    Returns a paragraph of Markdown for each failure; empty if everything was written.
    """
    if not MODEL.exists():
        call("dvc", "pull", str(MODEL))
    failed = []
    done = core("document", str(MODEL), "--out", str(DOCUMENTS), check=False)
    if done.returncode:
        failed.append(f"The documents cannot be written:\n\n{block(done.stderr)}")
    documents = ["--documents", str(DOCUMENTS)] if DOCUMENTS.exists() else []
    done = core("attest", str(MODEL), "--output", str(STATEMENT), *documents, check=False)
    if done.returncode:
        failed.append(f"The statement cannot be written:\n\n{block(done.stderr)}")
    return "\n\n".join(failed)


def list_documents(result: str) -> str:
    """The part of the comment that lists the documents and the statement. result: the commit of the result."""
    paths = {path.relative_to(ATTACHMENTS).as_posix(): path for path in sorted(DOCUMENTS.rglob("*")) if path.is_file()}
    paths |= {STATEMENT.name: STATEMENT} if STATEMENT.exists() else {}
    links = {path: attachment(name, result) for name, path in paths.items()}
    lines = [f"- [{path.name}]({link})" if link else f"- `{path}`" for path, link in links.items()]
    return "### Documents\n\n" + ("\n".join(lines) or "There are none.") + "\n"


def publish() -> str:
    """Publish to MLflow. Returns a sentence about it. A failure is not an error: publishing can be done later."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return "not published: MLFLOW_TRACKING_URI is not set"
    done = core("publish", check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return "; ".join(line for line in lines if done.returncode or line.startswith("published"))


def deliver(source: str) -> None:
    """Deliver the result of a commit. Writes the title, the comment and the bundle.

    Raises:
        UserError: `verify` finds a mismatch, a file contains the value of a secret, or the remote refuses the files.
    """
    target, _ = branch()
    verified = core("verify", check=False)
    say(*verified.stdout.splitlines())
    if verified.returncode:
        output = f"{verified.stdout}{verified.stderr}"
        raise UserError(f"verify found mismatches in the result. Nothing was pushed:\n{output}")
    staged, message = stage_results(), (f"Retrain {source[:10]}", "\n".join(trailers(source)))
    refuse_in_files(outgoing_files(staged))
    refuse("\n".join((target, *message)).encode(), "the name of the branch")
    status, output = show("dvc", "push", "--run-cache")
    if status:
        why = remote_error(output) or "See the message above"
        raise UserError(f"the results cannot be pushed to the DVC remote: {why}. No commit was made.")
    push_small_results()
    if not staged:
        write_comment("## Retrained, with the same results: there is nothing to merge\n")
        say(*COMMENT.read_text().split("\n"))
        return
    call("git", "commit", "-q", "-m", message[0], "-m", message[1])
    result = call("git", "rev-parse", "HEAD").stdout.strip()
    failed = write_documents()
    refuse_in_files([str(path) for path in (ATTACHMENTS, STATEMENT) if path.exists()])
    published = publish()
    output = "\n\n".join(part for part in (comment(published).rstrip("\n"), failed, list_documents(result)) if part)
    heading = f"{title()} ({source[:10]})\n"
    refuse(f"{heading}{output}".encode(), "the comment of the pull request")
    write_comment(output)
    TITLE.write_text(heading)
    call("git", "bundle", "create", "-q", str(BUNDLE), "HEAD", f"^{source}")
    say(f"the commit {result[:10]} is in {BUNDLE}, its comment in {COMMENT}", published)


def trailers(source: str) -> list[str]:
    """The lines in the commit message of a result: the commit that was retrained, and the number of the run."""
    run = os.environ.get("GITHUB_RUN_ID") or os.environ.get("CI_PIPELINE_ID") or ""
    return [f"{TRAILER}: {source}", *([f"{RUN_TRAILER}: {run}"] if run.isdecimal() else [])]


def main() -> None:
    """Deliver the result. If the delivery fails, write the reason into the comment."""
    if nothing_to_do():
        return
    try:
        deliver(call("git", "rev-parse", "HEAD").stdout.strip())
    except SecretFoundError:
        raise
    except UserError as error:
        prepend_reason("not delivered", block(redacted(str(error))))
        raise


if __name__ == "__main__":
    step(main)
