"""Recognise in the output of DVC why a remote cannot be used, and say what to do."""

from __future__ import annotations

import re

_ERRORS = {
    r"Unable to locate credentials|NoCredentialsError": (
        "there are no credentials for the remote. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on GitLab, a "
        "protected variable reaches only protected branches)"
    ),
    r"Partial credentials found in \w+, missing: ([\w ,]+)": (
        "credentials for the remote are incomplete. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ),
    # The answer to an HTTP HEAD request has no body, so a wrong key and a missing permission cannot be distinguished.
    r"\(403\)|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|Unauthorized|\(401\)|ExpiredToken": (
        "the remote refuses these credentials (403). Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and let them "
        "read, list and write the bucket"
    ),
    r"NoSuchBucket|specified bucket does not exist": (
        "the remote has no such bucket. Create it, or correct the url in .dvc/config"
    ),
    r"Could not connect to the endpoint|Connect timeout|Cannot connect to host|EndpointConnectionError": (
        "the remote cannot be reached. Correct the endpointurl in .dvc/config, or try again later"
    ),
    r"no remote (specified|provided)|config file error: no remote": (
        "there is no default remote. Add one: dvc remote add -d NAME URL"
    ),
}
_MISSING = re.compile("missing-files|[Mm]issing cache files|do not exist neither locally nor on remote")


def remote_error(output: str) -> str | None:
    """Why a remote cannot be used and what to do, in a sentence. None if the output names no such reason."""
    return next((reason for pattern, reason in _ERRORS.items() if re.search(pattern, output)), None)


def repro_error(output: str) -> str | None:
    """As `remote_error`, from the output of `dvc repro`. Only errors of DVC count, not those of a stage."""
    return remote_error("\n".join(line for line in output.splitlines() if line.startswith("ERROR: ")))


def pull_error(output: str) -> str:
    """As `remote_error`, from the output of a failed `dvc pull`. The files may also be missing in the remote."""
    # S3 answers 404 both to a missing file and to a missing bucket.
    pushed = "the remote lacks files. Run: dvc push. If the bucket does not exist, correct the url in .dvc/config"
    missing = pushed if _MISSING.search(output) else ""
    return remote_error(output) or missing or "See the message above"
