"""Words of data in Markdown, as GitHub and GitLab render it: what a comment shows of a name is the name, and no more.

A name may come from a label file, which anybody may have written: it forges no row, mentions nobody and links nowhere.
"""

from __future__ import annotations

import re

from rfdetr_core.base.printing import printable

MOST = 300  # characters of a name
# Inside a code span everything is text, mentions, references and addresses included. These end one, split a row of a
# table or may begin HTML; the two renderers read a backslash before a bar differently.
_BREAKS_SPAN = re.compile(r"[`|\\<>&]")


def code(text: object) -> str:
    """A name or value on one line, set as code; empty for an empty one."""
    line = printable(" ".join(str(text).split()))
    line = line if len(line) <= MOST else f"{line[:MOST]} ..."
    if not line:
        return ""
    if not _BREAKS_SPAN.search(line):
        return f"`{line}`"
    # Entities are never syntax, and <code> keeps mentions and addresses from being linked.
    entities = "".join(char if char.isalnum() or char in " .,-/" else f"&#{ord(char)};" for char in line)
    return f"<code>{entities}</code>"


def block(text: str) -> str:
    """Lines of output, as they are, in a fence that none of them closes."""
    text = printable(text).replace("\t", "    ")
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"
