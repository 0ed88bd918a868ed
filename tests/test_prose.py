"""Texts of the project: links, the index of docs/, the length of the README, words that the glossary replaced."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT

LISTED = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
FILES = [ROOT / name for name in LISTED if (ROOT / name).is_file()]
PAGES = [path for path in FILES if path.suffix == ".md"]
# Documents about a model link into the project that made it.
LINKED = [path for path in PAGES if path.parent != ROOT / "docs" / "examples"]
SOURCES = [path for path in FILES if path.suffix in (".py", ".pyi")]
# Of these the whole text is read, without what is between backticks.
PLAIN = [
    path
    for path in FILES
    if path.suffix in (".yaml", ".yml", ".sh", ".toml", ".in", ".html", ".ipynb")
    or path.name in ("Makefile", "run", ".gitignore", ".dvcignore", ".gitattributes")
]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
GLOSSARY, REPLACED, MEANINGLESS = "## Glossary", "do not write", "A name says what it holds"
# What is between backticks, and git commands of scripts, is code.
CODE = re.compile(r"`+[^`]+`+|\bgit (?:remote|push|fetch|ls-remote)\b.*")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
# Matches `is no Y` for "is not a Y", but not "there is no Y" or "is no longer".
RIDDLE = re.compile(r"(?<!there )\b(?:is|are) no (?!longer\b|more\b|less\b|fewer\b)", re.I)


def section(text: str, heading: str) -> str:
    """A section of a Markdown text, its heading included."""
    start = text.index(f"{heading}\n")
    following = re.compile(rf"^#{{1,{heading.count('#')}}} ", re.M).search(text, start + len(heading))
    return text[start : following.start() if following else len(text)]


def glossary() -> list[list[str]]:
    """The rows of the glossary: word, meaning, words that it replaces. The second table has no meanings."""
    lines = section(CONTRIBUTING.read_text(), GLOSSARY).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[-1] for row in rows].count(REPLACED) == 2
    return [row for row in rows if row[-1] != REPLACED and set(row[0]) != {"-"}]


@cache
def replaced() -> re.Pattern[str]:
    """Matches each word of the glossary's last column."""
    words = [word.strip() for row in glossary() for word in row[-1].split(",") if word.strip()]
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, words))})(?![\w-])", re.I)


@cache
def meaningless() -> set[str]:
    """The names that no variable, parameter or function may have."""
    line = next(line for line in CONTRIBUTING.read_text().split("\n\n") if MEANINGLESS in line)
    return set(re.findall(r"`(\w+)`", line.partition(MEANINGLESS)[2]))


def lines_of_page(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a page: no code, and not the glossary itself."""
    text = path.read_text()
    if path == CONTRIBUTING:
        text = text.replace(section(text, GLOSSARY), "\n" * section(text, GLOSSARY).count("\n"))
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(CODE.sub("", text).splitlines(), 1):
        if not line.startswith("    "):
            yield number, line


def lines_of_source(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, docstrings, the texts of messages, and the words that names of tests are made of."""
    text = path.read_text()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], CODE.sub("", token.string)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield from enumerate(CODE.sub("", node.value).splitlines(), node.lineno)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """The names that a file binds. Fields of classes are left out: some are keys of files."""
    tree = ast.parse(path.read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fields = {id(node.target) for outer in classes for node in outer.body if isinstance(node, ast.AnnAssign)}
    for node in ast.walk(tree):
        if id(node) in fields:
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def occurrences(pattern: re.Pattern[str]) -> list[str]:
    """Each place where a text of the project matches, with the text."""
    places = []
    for path in [*PAGES, *SOURCES, *PLAIN]:
        if path in SOURCES:
            lines = lines_of_source(path)
        elif path in PAGES:
            lines = lines_of_page(path)
        else:
            lines = enumerate(CODE.sub("", path.read_text()).splitlines(), 1)
        for number, line in lines:
            if match := pattern.search(line):
                places.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}: {line.strip()[:120]}")
    return places


def test_words_that_the_glossary_replaced_stay_away() -> None:
    assert occurrences(replaced()) == []


def test_a_thing_is_said_not_to_be_another_in_plain_order() -> None:
    assert occurrences(RIDDLE) == []


def test_names_say_what_they_hold() -> None:
    assert len(meaningless()) > 5
    vague = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in SOURCES
        for line, name in names_in(path)
        if name.lstrip("_") in meaningless()
    ]
    assert vague == []


def test_every_word_of_the_glossary_is_used_in_the_documentation() -> None:
    text = " ".join(page.read_text() for page in PAGES if page != CONTRIBUTING).lower()
    words = [row[0].lower() for row in glossary() if len(row) == 3]
    assert len(words) >= 25
    assert [word for word in words if word not in text] == []


def test_the_readme_is_read_in_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in PAGES if path.parent == ROOT / "docs"} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and GitLab make them."""
    names: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text()), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", name) is not None for name in names)
        names.add(f"{anchor}-{number}" if number else anchor)
    return names


@pytest.mark.parametrize("page", LINKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", FENCE.sub("", page.read_text()))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []
