"""The parts of the environment that can change a result bit for bit, in addition to the versions of packages.

These are environment variables, the processor, the code that Python runs at its start, and installed files that were
edited.
"""

from __future__ import annotations

import base64
import hashlib
import marshal
import os
import platform
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import MAGIC_NUMBER, source_from_cache
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.provenance import PACKAGES

# Each of these variables can change results on the same machine. Not here: the number of threads, which the training
# record has as a field of its own, and CUBLAS_WORKSPACE_CONFIG, which Lightning sets.
_DECIDING = re.compile(
    r"MKL_(CBWR|ENABLE_INSTRUCTIONS|DEBUG_CPU_TYPE|VML_MODE|DYNAMIC)|NPY_(DISABLE|ENABLE)_CPU_FEATURES|OPENBLAS_CORETYPE"
    r"|(ONEDNN|DNNL)_(DEFAULT_FPMATH_MODE|MAX_CPU_ISA|CPU_ISA_HINTS)|ATEN_CPU_CAPABILITY|OMP_SCHEDULE"
    r"|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
)
# Variables that are recorded to explain a difference.
_RECORDED = re.compile(
    r"(MKL|NPY|ONEDNN|DNNL|OMP|KMP|GOMP|ATEN|OPENBLAS|PYTHON|CUBLAS|CUDNN|CUDA|NVIDIA|TORCH)_?[A-Z0-9_]*"
    r"|LD_(PRELOAD|LIBRARY_PATH|AUDIT)|GLIBC_TUNABLES"
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL")
_PROJECT = "rfdetr-dvc"  # this package is not checked: the Makefile edits its .pth file
_OWN = re.compile(r"__editable__\.rfdetr_dvc-[^/]*\.pth")
_MODULES = {"pillow": "PIL", "pytorch-lightning": "pytorch_lightning"}
_MODULE_SUFFIXES = (".py", ".so", ".pyd")
_CPUINFO = Path("/proc/cpuinfo")
# By how many nanoseconds an unedited file may be newer than the RECORD. An installer writes the RECORD among the last
# files of a package, so a few files are slightly newer.
_RECORD_TOLERANCE = 60 * 10**9


def settings() -> dict[str, str]:
    """The environment variables that are set and can change a result on the same machine."""
    return {name: value for name, value in sorted(os.environ.items()) if _DECIDING.fullmatch(name)}


def processor() -> str:
    """The processor as the system names it. Two CPU models with equal instruction sets may differ in results."""
    try:
        lines = files.read_text(_CPUINFO).splitlines()
    except (OSError, ValueError):
        return platform.processor() or platform.machine()
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    names = [
        fields.get("model name"),
        *(f"{key} {fields[key]}" for key in ("cpu family", "model", "stepping") if key in fields),
    ]
    return ", ".join(name for name in names if name) or platform.machine()


def observe_environment(*, packages: bool) -> dict[str, Any]:
    """The environment of a run, for its journal entry.

    The keys are `settings`, `variables`, `processor` and `startup`, and with packages also `edited`; see settings(),
    variables(), processor(), startup_code() and edited_files(). packages: whether packages can change the run's result.
    """
    return {
        "settings": settings(),
        "variables": variables(),
        "processor": processor(),
        "startup": startup_code(),
        **({"edited": edited_files()} if packages else {}),
    }


def variables() -> dict[str, str]:
    """The environment variables of numeric libraries, Python and the dynamic linker that are set.

    Variables whose name contains a word such as TOKEN or KEY are left out, since they may hold secrets.
    """
    listed = {
        name: value for name, value in os.environ.items() if _RECORDED.fullmatch(name) and not _SECRET.search(name)
    }
    return dict(sorted(listed.items()))


def startup_code() -> dict[str, dict[str, str | None]]:
    """The code that Python runs at its start: sitecustomize, usercustomize and the .pth files.

    Returns:
        path -> `sha256` and `of`. `of` names the package that installed the file: "this project" for the editable
        install of this project, None if no package lists the file.
    """
    names = ("sitecustomize", "usercustomize")
    specs = (PathFinder.find_spec(name) for name in names)
    paths = [Path(spec.origin) for spec in specs if spec is not None and spec.has_location and spec.origin]
    paths += [path for folder in _site_folders() for path in sorted(folder.glob("*.pth"))]
    return {str(path): {"sha256": files.sha256_file(path), "of": _installed_by(path)} for path in paths}


def unexpected_startup(started: dict[str, dict[str, str | None]]) -> list[str]:
    """The paths of `startup_code` that neither a package nor this project has installed."""
    return [path for path, entry in started.items() if entry.get("of") is None]


def edited_files(*, deep: bool = False) -> dict[str, list[str]]:
    """Package -> its installed files that differ from the package's list of files (RECORD).

    A package is also listed if `__version__` of its imported module differs from the version in its metadata.

    Args:
        deep: By default only the packages that decide numerics are checked: the sizes of all files, and the digests of
            files that are newer than the RECORD. deep checks the digests of all files of all packages. In packages that
            decide numerics it also finds modules that the RECORD does not list, and .pyc files that do not match their
            .py file.
    """
    edited: dict[str, list[str]] = {}
    distributions = (
        distribution for distribution in metadata.distributions() if distribution.metadata["Name"] != _PROJECT
    )
    for package in distributions if deep else map(_distribution, PACKAGES):
        if package is not None and (problems := [*_wrong_version(package), *_changed(package, deep=deep)]):
            edited[str(package.metadata["Name"]).lower()] = problems
    return dict(sorted(edited.items()))


def packages_without_list() -> list[str]:
    """The packages that decide numerics but have no RECORD, so that their files cannot be checked."""
    return [name for name in PACKAGES if (package := _distribution(name)) is not None and _record(package) is None]


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _wrong_version(package: metadata.Distribution) -> Iterator[str]:
    name = str(package.metadata["Name"]).lower()
    module_version = getattr(sys.modules.get(_MODULES.get(name, name)), "__version__", None)
    if (
        name in PACKAGES
        and module_version is not None
        and str(module_version).partition("+")[0] != package.version.partition("+")[0]
    ):
        yield f"version {module_version}, but its metadata says {package.version}"


def _changed(package: metadata.Distribution, *, deep: bool) -> Iterator[str]:
    if (record := _record(package)) is None:
        return
    folder, written, listed_names = record.parent.parent, record.stat().st_mtime_ns, set[str]()
    for line in files.read_text(record).splitlines():
        name, _, size = line.rpartition(",")
        name, _, recorded = name.rpartition(",")
        kind, _, digest = recorded.partition("=")
        name = name.strip('"')
        listed_names.add(name)
        # Compiled modules and the RECORD itself have no digest. Commands (../../bin) are adapted to this Python.
        if kind != "sha256" or not size.isdigit() or name.startswith("../"):
            continue
        try:
            status = (folder / name).stat()
            newer = status.st_mtime_ns > written + _RECORD_TOLERANCE
            if status.st_size != int(size) or ((deep or newer) and _digest(folder / name) != digest):
                yield name
        except OSError:
            yield f"{name} (missing)"
    if deep and str(package.metadata["Name"]).lower() in PACKAGES:
        yield from _unlisted_modules(folder, listed_names)


def _record(package: metadata.Distribution) -> Path | None:
    """The RECORD of a package: the list of its files. Some installers do not write it."""
    folder = getattr(package, "_path", None)
    return Path(folder) / "RECORD" if folder and (Path(folder) / "RECORD").is_file() else None


def _unlisted_modules(folder: Path, listed_names: set[str]) -> Iterator[str]:
    """Yield modules in a package's folders that its RECORD does not list, and .pyc files that do not match their .py.

    Python would import them: it prefers an extension to a source of the same name, and a .pyc to its source.
    """
    tops = {
        top
        for name in listed_names
        if (top := name.partition("/")[0]) != name and not top.endswith((".dist-info", ".."))
    }
    for path in (path for top in sorted(tops) for path in sorted((folder / top).rglob("*"))):
        name = path.relative_to(folder).as_posix()
        if path.suffix in _MODULE_SUFFIXES and name not in listed_names:
            yield f"{name} (added)"
        elif path.suffix == ".pyc" and not _is_of_its_source(path):
            yield f"{name} (differs from its source)"


def _is_of_its_source(compiled: Path) -> bool:
    """Whether a .pyc file is harmless: it equals its compiled source, or Python would ignore it. It is not run here."""
    try:
        source = Path(source_from_cache(str(compiled)))
        if compiled.parent.name != "__pycache__" or not source.is_file():
            return compiled.parent.name == "__pycache__"
        content, text = files.read_bytes(compiled), files.read_bytes(source)
        if content[:4] != MAGIC_NUMBER:
            return True
        level = int(re.sub(r".*\.opt-(\d)\.pyc$|.*", r"\1", compiled.name) or 0)
        compiled_again = compile(text, str(source), "exec", dont_inherit=True, optimize=level)
        return bool(marshal.loads(content[16:]) == compiled_again)
    except (ValueError, SyntaxError, EOFError, TypeError, NotImplementedError):
        return False


def _digest(path: Path) -> str:
    with files.open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _site_folders() -> Iterator[Path]:
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    yield from (path for path in map(Path, dict.fromkeys(folders)) if path.is_dir())


def _installed_by(path: Path) -> str | None:
    if path.parent == Path(sysconfig.get_path("stdlib")):  # Debian's sitecustomize
        return "Python"
    if _OWN.fullmatch(path.name) and not _runs_code(path):
        return "this project"
    for package in metadata.distributions():
        record = _record(package)
        if record and record.parent.parent == path.parent:
            line = next(
                (entry for entry in files.read_text(record).splitlines() if entry.startswith(f"{path.name},")), ""
            )
            if f"sha256={_digest(path)}," in line:
                return str(package.metadata["Name"])
    return None


def _runs_code(path: Path) -> bool:
    """Whether a .pth file runs code; others only name folders."""
    return any(line.startswith(("import ", "import\t")) for line in files.read_text(path).splitlines())
