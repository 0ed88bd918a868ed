"""The one exception whose message is meant for the user."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: the message names the file, line or key at fault and what to do.

    Stages and the command line print it without a traceback and exit non-zero.
    """
