from __future__ import annotations

import ast
import io
import keyword
import os
import py_compile
import random
import shutil
import tokenize
from pathlib import Path

import pytest

from rfdetr_core.base.code import BY_NAME, ROOT, Code, read_source
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import sha256_bytes
from rfdetr_core.base.imports import Guard
from tests.architecture import CODE

LIBRARY = sorted(Path(os.__file__).parent.glob("*.py"))  # installed packages as sample sources: code of every style
SOURCE = '''# -*- coding: utf-8 -*-
"""A module.

Two lines.
"""

from a import b  # c


class Empty:
    """Nothing else."""


def one(x: int) -> str:  # type: ignore
    "short"; y = "# no comment"   \t

    text = """ kept \x20\x20

    # kept
    """ 'it is'   # gone
    both = ("äö"  # gone
            "#")
    z = x + \\
        1

    return f"{x!r:#>{10}} # {y}" + text

'''
MEANING = '''from a import b
class Empty:
def one(x: int) -> str:
    ; y = "# no comment"
    text = """ kept \x20\x20

    # kept
    """ 'it is'
    both = ("äö"
            "#")
    z = x + \\
        1
    return f"{x!r:#>{10}} # {y}" + text'''


def digest(folder: Path, source: str | bytes) -> str:
    path = folder / "module.py"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return read_source(path).digest


def test_the_digest_is_of_the_source_without_comments_docstrings_and_blank_lines(tmp_path: Path) -> None:
    assert digest(tmp_path, SOURCE) == sha256_bytes(MEANING.encode())


def test_the_digest_depends_on_the_text_and_not_on_how_it_is_encoded(tmp_path: Path) -> None:
    same = [SOURCE.encode("utf-8-sig"), SOURCE.replace("\n", "\r\n").encode()]
    same += [SOURCE.replace("utf-8", "latin-1", 1).encode("latin-1")]
    assert {digest(tmp_path, source) for source in same} == {digest(tmp_path, SOURCE)}


class Undocumented(ast.NodeTransformer):
    """Removes docstrings; an empty body becomes `pass`."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            if not isinstance(node, ast.Module):
                node.body = node.body or [ast.Pass()]
        return node


@pytest.fixture
def digested_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were digested."""
    texts: list[str] = []
    monkeypatch.setattr("rfdetr_core.base.files.sha256_bytes", lambda data: texts.append(data.decode()) or "digest")
    return texts


@pytest.mark.parametrize("modules", [[*CODE.modules.values()], pytest.param(LIBRARY, marks=pytest.mark.slow)])
def test_the_digested_text_parses_to_the_same_tree_without_docstrings(
    tmp_path: Path, digested_texts: list[str], modules: list[Path]
) -> None:
    for path in modules:
        with tokenize.open(path) as file:
            text = with_pass(file.read())
        digest(tmp_path, text + f"\n# {path}\n")  # a digest is computed once for equal bytes
        before = Undocumented().visit(ast.parse(text))
        assert ast.dump(ast.parse(digested_texts.pop())) == ast.dump(before), path


def with_pass(text: str) -> str:
    """A source with `pass` after each docstring that is the complete body. Without it the body would be empty."""
    lines = text.split("\n")
    ends = [
        (first.end_lineno or 0, first.col_offset)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and len(node.body) == 1
        if isinstance(first := node.body[0], ast.Expr) and ast.get_docstring(node, clean=False) is not None
    ]
    for line, column in sorted(ends, reverse=True):
        lines.insert(line, " " * column + "pass")
    return "\n".join(lines)


def test_no_comment_blank_line_or_docstring_changes_a_digest_and_any_other_word_does(tmp_path: Path) -> None:
    draw = random.Random(0)
    for path in draw.sample([*CODE.modules.values()], 40):
        text = path.read_text()
        before = digest(tmp_path, text)
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        ends = {token.start[0] for token in tokens if token.type in (tokenize.NEWLINE, tokenize.NL)}
        within = {
            line for token in tokens if token.type == tokenize.STRING for line in range(token.start[0], token.end[0])
        }
        lines = text.split("\n")
        for line in sorted(ends - within, reverse=True):
            lines[line - 1] += draw.choice(["", "  ", "\t", "  # a comment", "\n", "\n  \n# another"])
        changed = "\n".join(lines).replace('"""', '"""More. ', 1)
        assert changed != text
        assert digest(tmp_path, changed) == before
        words = [token for token in tokens if token.type == tokenize.NAME and not keyword.iskeyword(token.string)]
        words = [token for token in words if token.string not in ("annotations", "__future__", "_")]
        if words:
            row, column = draw.choice(words).end
            lines = text.split("\n")
            lines[row - 1] = f"{lines[row - 1][:column]}_{lines[row - 1][column:]}"
            assert digest(tmp_path, "\n".join(lines)) != before, (path, row, column)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ('x = """\n\n"""', 'x = """\n"""'),
        ('x = """a  \n"""', 'x = """a\n"""'),
        ('x = f"""{1}\n\n"""', 'x = f"""{1}\n"""'),
        ("x = 'a\\\n  # b'", "x = 'a\\\n'"),
        ("x = 1 \\\n\n-y", "x = 1 \\\n-y"),
        ("x = 1 \\\n# a comment\n-y", "x = 1 \\\n-y"),
        ("if a:\n    b\nc", "if a:\n    b\n    c"),
        ("def f():\n    x = 1\n    'no docstring'", "def f():\n    x = 1"),
        ("def f():\n    b'no docstring'", "def f():\n    b'another'"),
    ],
)
def test_sources_that_python_reads_differently_have_different_digests(tmp_path: Path, first: str, other: str) -> None:
    assert digest(tmp_path, first) != digest(tmp_path, other)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose stage `train` imports one module."""
    texts = {
        "stages/__init__.py": "",
        "stages/code.py": "from rfdetr_core import b\n",
        "stages/train.py": "from rfdetr_core import a\n",
        "rfdetr_core/__init__.py": "",
        "rfdetr_core/a.py": "",
        "rfdetr_core/b.py": "",
        "rfdetr_core/page/__init__.py": "",
        "rfdetr_core/page/page.css": "",
        "rfdetr_core/page/parts/part.html": "",
        "rfdetr_core/page/inner/__init__.py": "",
        "rfdetr_core/page/inner/data.txt": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def closure(project: Path, source: str, module: str = "rfdetr_core/a.py") -> set[str]:
    (project / module).write_text(source)
    always = {"rfdetr_core/__init__.py", "rfdetr_core/a.py", "stages/__init__.py", "stages/train.py"}
    return Code(project).digests("stages.train").keys() - always


PAGE = {"rfdetr_core/page/__init__.py", "rfdetr_core/page/page.css", "rfdetr_core/page/parts/part.html"}
INNER = {"rfdetr_core/page/inner/__init__.py", "rfdetr_core/page/inner/data.txt"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os", set()),
        ("import rfdetr_core.b", {"rfdetr_core/b.py"}),
        ("from rfdetr_core.b import name", {"rfdetr_core/b.py"}),
        ("from .b import name", {"rfdetr_core/b.py"}),
        ("from . import b", {"rfdetr_core/b.py"}),
        ("def f():\n    from rfdetr_core import b", {"rfdetr_core/b.py"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rfdetr_core import b", set()),
        ("import typing\nif typing.TYPE_CHECKING:\n    import os\nelse:\n    from rfdetr_core import b",
         {"rfdetr_core/b.py"}),
        ("if not TYPE_CHECKING:\n    from rfdetr_core import b", {"rfdetr_core/b.py"}),
        ("import rfdetr_core.page", PAGE),
        ("import rfdetr_core.page.inner", PAGE | INNER),
    ],
)  # fmt: skip
def test_a_closure_has_the_modules_imported_at_run_time_and_the_data_of_packages(
    project: Path, source: str, expected: set[str]
) -> None:
    assert closure(project, source) == expected


def test_files_that_editors_and_python_leave_are_not_data(project: Path) -> None:
    for name in (".page.css.swp", "page.css~", "module.pyc", "__pycache__/module.pyc", ".hidden/page.css", "Thumbs.db",
                 "matcher.py.orig", "matcher.py.rej", "matcher.py.bak", "#matcher.py#"):  # fmt: skip
        (project / "rfdetr_core/page" / name).parent.mkdir(exist_ok=True)
        (project / "rfdetr_core/page" / name).touch()
    assert closure(project, "import rfdetr_core.page") == PAGE


def test_files_for_type_checkers_are_not_data(project: Path) -> None:
    for name in ("__init__.pyi", "parts.pyi", "py.typed"):
        (project / "rfdetr_core/page" / name).touch()
    assert closure(project, "import rfdetr_core.page") == PAGE


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("print(__doc__)", "__doc__"),
        ("def f():\n    pass\nprint(f.__doc__)", "__doc__"),
        ("getattr(print, '__doc__')", "__doc__"),
        ("import inspect", "inspect"),
        ("from inspect import getsource as it", "inspect"),
        ("import linecache as l", "linecache"),
        ("open(__file__)", "__file__"),
        ("from pathlib import Path\nPath(__file__).read_text()", "__file__"),
        ("from rfdetr_core import b\nopen(b.__file__)", "__file__"),
        ("print(__loader__)", "__loader__"),
        ("import sys\nprint(sys._getframe().f_lineno)", "f_lineno"),
        ("dict(use_attribute_docstrings=True)", "use_attribute_docstrings"),
    ],
)
def test_a_module_that_reads_its_own_source_is_refused(project: Path, source: str, word: str) -> None:
    with pytest.raises(UserError, match=rf"^rfdetr_core/a\.py:\d+ uses {word}"):
        closure(project, source)
    (project / "rfdetr_core/a.py").write_text("")
    assert closure(project, source, "rfdetr_core/b.py") == set()  # no stage imports it


@pytest.mark.parametrize(
    "source",
    [
        "from pathlib import Path\nFOLDER = Path(__file__).resolve().parent",
        "from pathlib import Path\nTEXT = (Path(__file__).parents[1] / 'page.css').read_text()",
    ],
)
def test_a_module_may_use_its_folder(project: Path, source: str) -> None:
    assert closure(project, source) == set()


@pytest.mark.parametrize("call", ["importlib.import_module", "import_module", "__import__"])
def test_a_module_that_is_loaded_by_name_is_imported_or_in_the_table(
    project: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    source = f"def f():\n    return {call}('rfdetr_core.b')"
    with pytest.raises(UserError, match=r"^rfdetr_core/a\.py:2 loads rfdetr_core\.b by name.*BY_NAME"):
        closure(project, source)
    assert closure(project, f"{source}\nimport rfdetr_core.b") == {"rfdetr_core/b.py"}
    assert closure(project, f"def __getattr__(name):\n    return {call}('rfdetr_core.b')") == set()
    monkeypatch.setitem(BY_NAME, "rfdetr_core.a", "rfdetr_core.b")
    assert closure(project, source) == set()
    assert closure(project, f"{call}('os')") == set()


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("x = (", ":1"),
        ("a\n  b", ":2"),
        ("x = '\0'", ""),
        ("# coding: x\n", ""),
        ("# coding: rot13\n", ""),
        (b"\xff", ""),
    ],
)
def test_a_module_that_does_not_parse_is_named_with_its_line(project: Path, source: str | bytes, line: str) -> None:
    (project / "rfdetr_core/a.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    with pytest.raises(UserError, match=rf"^rfdetr_core/a\.py{line} does not parse \(.+git restore rfdetr_core/a\.py$"):
        Code(project).digests("stages.train")


def test_a_stage_may_load_its_closure_and_modules_loaded_by_name_with_their_imports(project: Path) -> None:
    code, train = Code(project), Guard(Code(project), "train")
    assert code.forbidden("train") == {"rfdetr_core.b", "rfdetr_core.page", "rfdetr_core.page.inner", "stages.code"}
    with pytest.raises(UserError, match=r"^stage train loads rfdetr_core\.b by name"):
        train.find_spec("rfdetr_core.b", None)
    for name in ("rfdetr_core.a", "os", "rfdetr_core.nothing"):
        assert train.find_spec(name, None) is None
    (project / "rfdetr_core/a.py").write_text("# a comment\n")
    assert train.find_spec("rfdetr_core.a", None) is None
    (project / "rfdetr_core/a.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"^rfdetr_core\.a was edited while train ran"):
        train.find_spec("rfdetr_core.a", None)
    project_code = Code()
    assert not project_code.forbidden("train") & project_code.closure("rfdetr_core.observers")


def test_a_class_that_params_name_is_code_of_its_stage(project: Path) -> None:
    before = Code(project).digests(*Code(project).starts("train"))
    (project / "params.yaml").write_text("train:\n  optimizer: rfdetr_core.b.Plain\n  lr_scheduler: torch.optim.X\n")
    code = Code(project)
    (project / "rfdetr_core" / "b.py").write_text("import rfdetr_core.page.inner\n")
    digests = code.digests(*code.starts("train"))
    assert digests.keys() - before.keys() == {"rfdetr_core/b.py"} | PAGE | INNER
    assert "rfdetr_core.b" not in code.forbidden("train")
    assert Guard(code, "train").find_spec("rfdetr_core.b", None) is None
    assert code.starts("convert") == ["stages.convert"]
    (project / "params.yaml").write_text("train:\n  optimizer: adamw\n")
    assert Code(project).digests(*Code(project).starts("train")) == before
    (project / "params.yaml").write_text("train: {")
    with pytest.raises(UserError, match=r"params\.yaml is not readable"):
        Code(project).starts("train")


def test_a_copy_elsewhere_has_the_same_digests(tmp_path: Path) -> None:
    for package in ("rfdetr_core", "stages"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for stage in CODE.stages:
        assert Code(tmp_path).digests(f"stages.{stage}") == CODE.digests(f"stages.{stage}")


def test_without_the_stages_a_result_names_what_the_core_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "rfdetr_core", tmp_path / "rfdetr_core", ignore=shutil.ignore_patterns("__pycache__"))
    digests = Code(tmp_path).digests("stages.train", "rfdetr_core.training.run")
    assert digests.items() <= CODE.digests("stages.train").items()
    assert "rfdetr_core/loss/matcher.py" in digests


def test_a_stage_may_not_import_code_of_the_project_that_has_no_digest(project: Path) -> None:
    (project / "helpers.py").write_text("")
    (project / "tests").mkdir()
    (project / "tests" / "__init__.py").write_text("")
    compiled = project / "rfdetr_core" / "native.py"
    compiled.write_text("")
    py_compile.compile(str(compiled), str(compiled.with_suffix(".pyc")))
    compiled.unlink()
    (project / "data").mkdir()
    train = Guard(Code(project), "train")
    for name, path in (("helpers", "helpers.py"), ("tests", "tests/__init__.py")):
        with pytest.raises(UserError, match=f"^stage train imports {path}, but no code digest covers"):
            train.find_spec(name, None)
    with pytest.raises(UserError, match=r"^stage train imports rfdetr_core/native\.pyc"):
        train.find_spec("rfdetr_core.native", [str(project / "rfdetr_core")])
    for name in ("torch", "data", "nothing", "json"):
        assert train.find_spec(name, None) is None
