"""Texts from files cannot command the terminal or forge a line, wherever they are printed."""

from __future__ import annotations

import ast
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.printing import message_of, printable_output, say

HOSTILE = "a\x1b[2Jb\x07c\x9b1md\u202ee\u2028f\rg\nerror: forged"
_PLAIN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def commands(text: str) -> list[str]:
    """The characters of a text that a terminal would obey, except line ends."""
    return [char for char in text if char != "\n" and unicodedata.category(char) in _PLAIN]


@given(st.lists(st.text()))
def test_say_prints_one_line_per_argument(lines: list[str]) -> None:
    out = io.StringIO()
    say(*lines, file=out)
    assert out.getvalue().count("\n") == max(1, len(lines))
    assert [char for char in commands(out.getvalue()) if char != "\t"] == []


def test_the_output_of_a_command_is_a_line_for_each_argument_of_print(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_output():
        print(HOSTILE, "x", sep="\n")
        print(f"{HOSTILE}\n", end="")
    out = capsys.readouterr().out
    line = r"a\x1b[2Jb\x07c\x9b1md\u202ee\u2028f\rg\nerror: forged"
    assert out == f"{line}\nx\n{line}\n"


def test_no_line_of_a_message_looks_like_another_message() -> None:
    text = message_of(UserError(f"{HOSTILE} is wrong"))
    assert commands(text) == []
    assert [line.startswith("error: ") for line in text.split("\n")] == [True, False]


def test_nothing_is_printed_but_through_functions_that_escape_it() -> None:
    """Other calls of `print` write constant texts, or to a file or process. The command line escapes `print` itself."""
    harmless = {"cli.py", "printing.py", "workers.py", "reference.py", "meanings.py"}
    folders = {"commands"}  # the folder of the command line
    paths = [path for folder in ("rfdetr_core", "stages", "ci") for path in (ROOT / folder).rglob("*.py")]
    unescaped = []
    for path in (path for path in paths if path.name not in harmless and path.parent.name not in folders):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "print":
                to = next(
                    (ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "file"), "sys.stdout"
                )
                plain = all(
                    isinstance(argument, ast.Constant) for argument in call.args
                ) or "message_of" in ast.unparse(call)
                is_exempt = ast.unparse(call).startswith(("print(f'\\ninterrupted", "print('$', *command"))
                if to.startswith("sys.") and not (plain or is_exempt):
                    unescaped.append(f"{path.name}:{call.lineno}")
    assert not unescaped
