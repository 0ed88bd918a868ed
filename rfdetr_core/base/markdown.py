"""Escapes texts from data for Markdown on GitHub and GitLab.

A class name may come from a label file that anyone may have written. Escaped, it cannot add a table row, mention a user
or become a link.
"""

from __future__ import annotations

import re

from rfdetr_core.base.printing import printable

MOST = 300  # characters of a name
# These characters are not safe in a code span: they end it, split a table row or begin HTML. GitHub and GitLab read a
# backslash before a bar differently. All other text in a code span is plain, also mentions and addresses.
_BREAKS_SPAN = re.compile(r"[`|\\<>&]")


def code(text: object) -> str:
    """A name or value as code on one line; "" for an empty one."""
    line = printable(" ".join(str(text).split()))
    line = line if len(line) <= MOST else f"{line[:MOST]} ..."
    if not line:
        return ""
    if not _BREAKS_SPAN.search(line):
        return f"`{line}`"
    # An entity is never syntax, and mentions and addresses in <code> are not linked.
    entities = "".join(char if char.isalnum() or char in " .,-/" else f"&#{ord(char)};" for char in line)
    return f"<code>{entities}</code>"


def block(text: str) -> str:
    """Unchanged lines of output in a code fence. The fence is long enough that no line closes it."""
    text = printable(text).replace("\t", "    ")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"
