"""Look for secrets in the files that will be uploaded as artifacts: for the secrets of all steps of the job.

This step runs before any upload, also after a failed step. Every other step gets only its own secrets. This step needs
neither data nor torch.
"""

from __future__ import annotations

import shutil

from ci.secrets import SecretFoundError, refuse_in_files
from ci.steps import REPORTS, STATE, step


def main() -> None:
    """Search the reports and `.retrain/`. A file in `.retrain/` that contains a secret is removed.

    Raises:
        SecretFoundError: a secret was found. `step` then removes the reports.
    """
    first_error = None
    for path in (*sorted(STATE.iterdir()), REPORTS):
        try:
            refuse_in_files([str(path)])
        except SecretFoundError as error:
            first_error = first_error or error
            if path != REPORTS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if first_error:
        raise first_error
    print("no secret was found in the files that are kept")


if __name__ == "__main__":
    step(main)
