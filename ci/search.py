"""Search what leaves the runner as artifacts for all secrets of the job: after a failed step too, before any upload.

A step searches for the secrets that it sees; this one sees those of all steps. It needs neither data nor torch.
"""

from __future__ import annotations

import shutil

from ci.secrets import SecretFoundError, refuse_in_files
from ci.steps import REPORTS, STATE, step


def main() -> None:
    """Search all of the reports and of the folder of the steps, where a file with a secret is removed.

    Raises:
        SecretFoundError: there was one. `step` removes the reports then.
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
    print("no value of a secret variable is in what is kept")


if __name__ == "__main__":
    step(main)
