"""Source code as an input of a stage: which modules a stage runs, and a digest of each that ignores comments."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import PARAMS_FILE, load_params

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rfdetr_core", "stages")
STAGE = "code"  # the stage that writes the digests of every other stage
FOLDER = Path("digests")
# Module -> the module that it loads by name, that is with importlib.import_module() and a string. The loaded modules
# cannot change a result. So a stage may load them with their imports, and the digests of the stage leave them out.
BY_NAME = {
    "stages": "rfdetr_core.lineage.journal",  # records what a stage has read and written
    "rfdetr_core.training.run": "rfdetr_core.observers",  # tests prove that observers change no result
    "stages.evaluate": "rfdetr_core.observers.publishing",  # reads the files that the stage has written
    "stages.report": "rfdetr_core.observers.publishing",  # reads the files that the stage has written
    "stages.validate": "rfdetr_core.config.preflight",  # checks params.yaml: stops the stage or changes nothing
}
# The keys of params.yaml that may name a class as package.module.Class, by section. The stage that loads the class has
# the section's name.
CLASSES = {"train": ("optimizer", "lr_scheduler")}
# Names through which a module reads its own source, line numbers or docstrings. They are in one pattern, not in a list
# of strings: the check also reads this file, and would find the strings.
_READS_SOURCE = re.compile(
    r"__doc__|__loader__|__spec__|__firstlineno__|co_(firstlineno|lines|positions)|(f|tb)_lineno"
    r"|get_?source(lines|file)?|model_json_schema|use_attribute_docstrings"
)
# Modules that read source files.
_READERS = ("inspect", "linecache", "pkgutil", "pydoc")
_IMPORTERS = ("import_module", "__import__")
_SPACE = " \t\f"
# Files in a package that are neither modules nor data. .dvcignore hides compiled modules and hidden files from DVC,
# too. Only type checkers read py.typed and stubs. Editors, patch and git leave copies of a file next to it.
_NO_DATA = ("__pycache__", "Thumbs.db", "py.typed")
_NO_DATA_SUFFIXES = (".py", ".pyc", ".pyi", ".orig", ".rej", ".bak", ".swp", ".swo")

When = Literal["always", "lazily", "never"]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Source:
    """A module's source, parsed.

    digest: SHA-256 of the source without comments, docstrings, blank lines and trailing white space.
    imports: the names in import statements that run, each with its number of leading dots.
    by_name: names of modules given to import_module, with their lines.
    source_reads: names in the code that read its own source or docstrings, with their lines. With them, a comment or
        docstring could change a result.
    """

    digest: str
    imports: tuple[tuple[int, str], ...]
    by_name: tuple[tuple[int, str], ...]
    source_reads: tuple[tuple[int, str], ...]


class Code:
    """The modules of a project, read from its files when this object is made."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.modules: dict[str, Path] = {}
        for path in (path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))):
            parts = path.relative_to(root).with_suffix("").parts
            if not all(part.isidentifier() for part in parts):  # an editor's copy, which no import can name
                continue
            self.modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    @property
    def stages(self) -> list[str]:
        """The stages that have digests: each module of stages/ except `code`."""
        names = [name.removeprefix("stages.") for name in self.modules if name.startswith("stages.")]
        return [name for name in names if name != STAGE and "." not in name]

    def starts(self, stage: str) -> list[str]:
        """The modules that a stage starts from: stages/<stage>.py, and the project's modules of classes in params.yaml.

        Raises:
            UserError: params.yaml cannot be read.
        """
        path = self.root / PARAMS_FILE
        section = load_params(path).get(stage) if stage in CLASSES and path.exists() else None
        return [f"stages.{stage}", *self.class_modules(section if isinstance(section, dict) else {}, stage)]

    def class_modules(self, values: Mapping[str, Any], section: str = "train") -> list[str]:
        """The project's modules that contain a class named in `values`, a section of params.yaml."""
        names = (str(values.get(key)).rpartition(".")[0] for key in CLASSES.get(section, ()))
        return [name for name in names if name in self.modules]

    def closure(self, *starts: str) -> set[str]:
        """The modules in `starts` and all that they import, directly or not.

        A name without a module is skipped. Modules that are loaded by name are not followed (see BY_NAME).

        Raises:
            UserError: a module does not parse.
        """
        reached: set[str] = set()
        waiting = [name for name in starts if name in self.modules]
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += [*self.imports(name), *(parent for parent in _parents(name) if parent in self.modules)]
        return reached

    def imports(self, module: str) -> list[str]:
        """The project's modules that a module imports directly, also within functions.

        Imports under `if TYPE_CHECKING` do not count.

        Raises:
            UserError: the module does not parse.
        """
        parts = module.split(".")
        package = parts if self.modules[module].name == "__init__.py" else parts[:-1]
        names = (
            ".".join([*package[: len(package) - dots + 1], name]).rstrip(".") if dots else name
            for dots, name in self._read(module).imports
        )
        return [name for name in dict.fromkeys(names) if name in self.modules]

    def digests(self, *starts: str) -> dict[str, str]:
        """Path -> digest of each module of a closure, and of the data files of its packages, sorted by path.

        Raises:
            UserError: a module does not parse, reads its own source, or loads a module by name that BY_NAME does not
                list.
        """
        closure = self.closure(*starts)
        for name in sorted(closure):
            self._check(name, closure)
        digests = {self.modules[name]: self._read(name).digest for name in closure}
        for path in [path for path in digests if path.name == "__init__.py"]:
            digests |= {data: files.sha256_file(data) for data in _data_files(path.parent)}
        return {path.relative_to(self.root).as_posix(): digests[path] for path in sorted(digests)}

    def digests_of(self, stage: str) -> dict[str, str]:
        """The `digests` of the code that a stage runs: the content of digests/<stage>.json."""
        return self.digests(*self.starts(stage))

    def forbidden(self, stage: str) -> set[str]:
        """The modules that a stage may not load: all except its closure and the modules that BY_NAME allows."""
        closure = self.closure(*self.starts(stage))
        return self.modules.keys() - closure - self.closure(*(BY_NAME[name] for name in closure & BY_NAME.keys()))

    def changed(self, stage: str, recorded: object) -> list[str]:
        """The paths whose digest differs from `recorded`, the content of digests/<stage>.json.

        All paths, if `recorded` is not a mapping.
        """
        recorded_digests = recorded if isinstance(recorded, dict) else {}
        return [path for path, _, _ in files.changed_digests(recorded_digests, self.digests_of(stage))]

    def compiled_from_other_source(self, sources: Mapping[Path, bytes], digests: object) -> list[str]:
        """The loaded modules that Python compiled from another source than the one in digests/<stage>.json.

        Args:
            sources: The compiled source by file, see `sources.compiled`.
            digests: The content of digests/<stage>.json.
        """
        recorded_digests = digests if isinstance(digests, dict) else {}
        contents = {
            path.relative_to(self.root).as_posix(): data
            for path, data in sources.items()
            if path.is_relative_to(self.root)
        }
        return [
            path
            for path, data in contents.items()
            if path in recorded_digests and _parsed(data).digest != recorded_digests[path]
        ]

    def _check(self, name: str, closure: set[str]) -> None:
        source, path = self._read(name), self.modules[name].relative_to(self.root)
        for line, word in source.source_reads:
            raise UserError(
                f"{path}:{line} uses {word}. With it, a comment or docstring could change a result, and no digest of "
                "code would show the change. Write the text as a value instead."
            )
        for line, target in source.by_name:
            if target in self.modules.keys() - closure and BY_NAME.get(name) != target:
                raise not_in_by_name(f"{path}:{line}", target)

    def _read(self, module: str) -> Source:
        return read_source(self.modules[module], self.root)


def not_in_by_name(loader: str, target: str) -> UserError:
    """The error for a module that is loaded by name, although BY_NAME does not list it.

    loader: the stage or line that loads the module. target: the loaded module.
    """
    return UserError(
        f"{loader} loads {target} by name. So its digests leave {target} out, and an edit there would rerun nothing. "
        "Import it with a statement. Or, if it cannot change a result, add it to BY_NAME in rfdetr_core/base/code.py."
    )


def exact_digests(paths: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Path -> SHA-256 of the bytes of source files that exist. paths: below the root."""
    return {path: files.sha256_file(root / path) for path in paths if (root / path).exists()}


def semantic_digest(path: Path) -> str:
    """The digest of a file as in `Code.digests`. Raises a UserError if it is a module that does not parse."""
    return read_source(path).digest if path.suffix == ".py" else files.sha256_file(path)


def read_source(path: Path, root: Path = Path()) -> Source:
    """Read and parse a module.

    Raises:
        UserError: the module does not parse. The message names file and line.
    """
    try:
        return _parsed(files.read_bytes(path))
    except (SyntaxError, ValueError, LookupError, tokenize.TokenError, RecursionError, MemoryError, OSError) as error:
        name = path.relative_to(root) if path.is_relative_to(root) else path
        line = getattr(error, "lineno", None)
        reason = getattr(error, "msg", None) or str(error)
        raise UserError(
            f"{name}{f':{line}' if line else ''} does not parse ({reason}). Correct it, or run: git restore {name}"
        ) from None


def _parents(module: str) -> Iterator[str]:
    while module := module.rpartition(".")[0]:
        yield module


def _data_files(folder: Path) -> Iterator[Path]:
    """The files of a package that are not modules. Hidden files, backups, compiled modules and stubs are not data."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in _NO_DATA or path.name.endswith(("~", "#")):
            continue
        if path.is_dir():
            yield from () if (path / "__init__.py").exists() else _data_files(path)
        elif path.suffix not in _NO_DATA_SUFFIXES:
            yield path


@functools.cache
def _parsed(source: bytes) -> Source:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = io.TextIOWrapper(io.BytesIO(source), encoding).read()
    tree = ast.parse(text)
    imports: dict[tuple[int, str], None] = {}
    by_name: list[tuple[int, str]] = []
    reads: list[tuple[int, str]] = []
    docstrings: list[ast.Expr] = []
    folders = _folder_names(tree) if "__file__" in text else set()
    for node, when in _nodes(tree):
        if isinstance(node, _DOCUMENTED) and (docstring := _docstring(node)):
            docstrings.append(docstring)
        if when == "never":
            continue
        if isinstance(node, ast.Import):
            imports |= {(0, alias.name): None for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            within = [f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names]
            imports |= {(node.level, name): None for name in (node.module or "", *within)}
        elif isinstance(node, ast.Call) and when == "always" and node.args and _name_of(node.func) in _IMPORTERS:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                reads += [(node.lineno, target.value)] if target.value in _READERS else []
                by_name.append((node.lineno, target.value))
        if (word := _source_reading_name(node)) and id(node) not in folders:
            reads.append((getattr(node, "lineno", 1), word))
    digest = files.sha256_bytes(_without_prose(text, docstrings).encode())
    return Source(digest, tuple(imports), tuple(by_name), tuple(sorted(reads)))


def _nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, When]]:
    """Yield each node of a module and when it runs.

    "lazily": in the module's `__getattr__`, which runs when a missing attribute is asked for. "never": under
    `if TYPE_CHECKING`. "always": everywhere else.
    """
    waiting: list[tuple[ast.AST, When]] = [(tree, "always")]
    while waiting:
        node, when = waiting.pop()
        yield node, when
        if isinstance(node, ast.If) and _name_of(node.test) == "TYPE_CHECKING":
            waiting += [(child, "never") for child in node.body]
            waiting += [(child, when) for child in node.orelse]
            continue
        for child in ast.iter_child_nodes(node):
            is_lazy = isinstance(child, ast.FunctionDef) and child.name == "__getattr__" and node is tree
            waiting.append((child, "lazily" if is_lazy else when))


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.Expr | None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())) as first, *_]:
            return first
    return None


def _folder_names(tree: ast.AST) -> set[int]:
    """The id() of each node below a `.parent` or `.parents`: there `__file__` is used only to find a folder."""
    attributes = (node for node in ast.walk(tree) if _name_of(node) in ("parent", "parents"))
    return {id(inner) for node in attributes for inner in ast.walk(node)}


def _name_of(node: ast.AST) -> str | None:
    """The last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _source_reading_name(node: ast.AST) -> str | None:
    """The name with which a node reads its module's source, such as `getsource`; None if it does not.

    `__file__` counts, too. The caller allows it where it is used only to find a folder.
    """
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
        return next((name for name in _READERS if name in names), None)
    if isinstance(node, ast.Constant):  # such as the second argument of getattr()
        return node.value if isinstance(node.value, str) and _READS_SOURCE.fullmatch(node.value) else None
    name = node.arg if isinstance(node, ast.keyword) else _name_of(node)
    return name if name and (name == "__file__" or _READS_SOURCE.fullmatch(name)) else None


def _without_prose(text: str, docstrings: Iterable[ast.Expr]) -> str:
    """A source without comments, these docstrings, blank lines and trailing white space.

    Strings are never changed, nor the blank lines and spaces in them.
    """
    lines = text.split("\n")
    cuts: dict[int, list[tuple[int, int | None]]] = defaultdict(list)
    in_string: set[int] = set()  # lines that end inside a string
    starts: list[int] = []  # the first line of each open f-string
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            in_string |= set(range(token.start[0] - 1, token.end[0] - 1))
        elif kind.endswith("STRING_START"):
            starts.append(token.start[0] - 1)
        elif kind.endswith("STRING_END"):
            in_string |= set(range(starts.pop(), token.end[0] - 1))
        elif kind == "COMMENT" and not starts:
            cuts[token.start[0] - 1].append((token.start[1], None))
    for node in docstrings:
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        for number in range(first, last + 1):
            encoded = lines[number].encode()  # the columns of a node count bytes
            begin = len(encoded[: node.col_offset].decode()) if number == first else 0
            cuts[number].append((begin, len(encoded[: node.end_col_offset].decode()) if number == last else None))
        in_string -= set(range(first, last))
    kept_lines: list[str] = []
    continued = False
    for number, line in enumerate(lines):
        for begin, stop in sorted(cuts[number], key=itemgetter(0), reverse=True):
            line = line[:begin] + ("" if stop is None else line[stop:])
        if number in in_string:
            kept_lines.append(line)
            continued = False
            continue
        line = line.rstrip(_SPACE)
        if line or continued:  # an empty line ends a statement that a backslash continues
            kept_lines.append(line)
        continued = line.endswith("\\")
    return "\n".join(kept_lines)
