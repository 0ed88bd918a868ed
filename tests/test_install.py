"""The installed project: scripts in any folder import it, and no stage runs the code of another clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from rfdetr_core.base import provenance
from rfdetr_core.base.code import semantic_digest
from tests.pipeline.project import Project, environment_without

pytestmark = pytest.mark.slow
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "PIP_INDEX_URL"), "http://127.0.0.1:9")
WHERE = """
import importlib.util, json, sys, rfdetr_core
found = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
print(json.dumps([rfdetr_core.__file__, found, [name for name in sys.modules if "editable" in name]]))
"""


def run(folder: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = environment_without("MAKE", "MFLAGS", "PYTHONPATH", "DVC_", "GIT_") | NO_NETWORK | variables
    environment.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def output(folder: Path, *command: str | Path, **variables: str) -> str:
    """The output of a command, which must not fail."""
    done = run(folder, *command, **variables)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


class Installed(Project):
    """A clone of the project with an environment: the locked packages of this one, and the packages that make adds."""

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"

    @property
    def command(self) -> Path:
        return self.python.with_name("rfdetr-dvc")

    def is_done(self) -> bool:
        """Whether `make` has nothing to install."""
        return run(self.folder, "make", "-q", "setup").returncode == 0

    def status(self) -> str:
        return output(self.folder, "git", "status", "--porcelain", "--ignored")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    installed = Installed(Project.create(tmp_path_factory.mktemp("install") / "a clöne").folder)
    output(installed.folder, sys.executable, "-m", "venv", "--without-pip", ".venv")
    packages = sysconfig.get_path("purelib")
    (link,) = (installed.folder / ".venv" / "lib").glob("python*/site-packages")
    (link / "locked.pth").write_text(f"{packages}\n")
    (installed.folder / ".venv" / ".runtime").touch()
    before = installed.status()
    output(installed.folder, "make", "setup", LC_ALL="C")
    assert installed.status() == before
    return installed


@pytest.fixture(scope="module")
def second_clone(project: Installed) -> Project:
    """Another clone, without an environment. Its code prints a line when it is imported."""
    clone = Project(project.folder.with_name("another clone"))
    output(project.folder, "git", "clone", "-q", str(project.folder), str(clone.folder))
    with (clone.folder / "rfdetr_core" / "base" / "errors.py").open("a") as file:
        file.write('\nprint("code of the other clone")\n')
    return clone


def test_scripts_anywhere_import_the_project_and_nothing_else_of_its_folder(project: Installed, tmp_path: Path) -> None:
    names = [path.name for path in project.folder.iterdir() if path.is_dir() and path.name.isidentifier()]
    assert {"ci", "data", "rfdetr_core", "stages"} <= {*names}
    # In this locale, Python does not start if a .pth file has a character that is not ASCII.
    file, modules, hooks = json.loads(output(tmp_path, project.python, "-c", WHERE, *names, LC_ALL="C"))
    assert Path(file).resolve() == (project.folder / "rfdetr_core" / "__init__.py").resolve()
    assert modules == ["rfdetr_core"]
    assert hooks == []  # setuptools would need hooks for other kinds of installation


def test_make_installs_it_once_and_again_when_it_must(project: Installed, tmp_path: Path) -> None:
    assert project.is_done()
    os.utime(project.folder / "pyproject.toml")
    assert not project.is_done()
    output(project.folder, "make", "setup")
    assert project.is_done()
    output(project.folder, project.python, "-m", "pip", "--isolated", "uninstall", "-q", "-y", "rfdetr-dvc")
    assert "No module named 'rfdetr_core'" in run(tmp_path, project.python, "-c", "import rfdetr_core").stderr
    assert not project.is_done()
    output(project.folder, "make", "setup")
    output(tmp_path, project.python, "-c", "import rfdetr_core")
    assert project.is_done()


def test_what_a_training_records_of_packages_is_not_changed_by_it(project: Installed, tmp_path: Path) -> None:
    code = "import json; from rfdetr_core.base.provenance import environment; print(json.dumps(environment()))"
    assert json.loads(output(tmp_path, project.python, "-c", code)) == provenance.environment()


def test_the_command_is_the_module_under_another_name(project: Installed, tmp_path: Path) -> None:
    for arguments in (["--help"], ["verify", "--help"], ["check", "--no-such-option"]):
        plain = run(project.folder, project.python, "-m", "rfdetr_core", *arguments, COLUMNS="500")
        named = run(tmp_path, project.command, *arguments, COLUMNS="500")
        assert named.returncode == plain.returncode
        messages = [f"{text.stdout}\n{text.stderr}" for text in (plain, named)]
        assert "usage: python -m rfdetr_core" in messages[0]
        assert messages[1] == messages[0].replace("python -m rfdetr_core", "rfdetr-dvc")


def test_the_command_acts_on_its_own_clone_or_on_a_folder_of_none(
    project: Installed, second_clone: Project, tmp_path: Path
) -> None:
    output(project.folder, project.command, "check", "--params")
    outside = run(tmp_path, project.command, "check", "--params").stderr
    assert outside.startswith("error: params.yaml")
    assert "code of the other clone" in output(
        second_clone.folder, project.python, "-m", "rfdetr_core", "check", "--params"
    )
    inside = ((project.command,), (project.python, "-P", "-m", "rfdetr_core"))
    for folder in (second_clone.folder, second_clone.folder / "data"):
        for program in inside:
            done = run(folder, *program, "check", "--params")
            assert (done.returncode, done.stdout) == (1, "")
            assert f"runs the code of {project.folder}," in done.stderr
            assert f"belongs to another clone, {second_clone.folder}." in done.stderr
            assert done.stderr.count("\n") == 1


def test_a_stage_runs_the_code_of_its_folder_or_refuses(
    project: Installed, second_clone: Project, tmp_path: Path
) -> None:
    assert "code of the other clone" in output(second_clone.folder, project.python, "-m", "stages.code")
    digests = json.loads((second_clone.folder / "digests" / "train.json").read_text())
    edited, same = "rfdetr_core/base/errors.py", "rfdetr_core/base/git.py"
    assert digests[edited] == semantic_digest(second_clone.folder / edited) != semantic_digest(project.folder / edited)
    assert digests[same] == semantic_digest(project.folder / same)
    # If Python does not search the current folder first, it finds no stages, or the core of another clone.
    assert "No module named 'stages'" in run(second_clone.folder, project.python, "-P", "-m", "stages.code").stderr
    (tmp_path / "stages").symlink_to(second_clone.folder / "stages")
    refused = run(second_clone.folder, project.python, "-P", "-m", "stages.code", PYTHONPATH=str(tmp_path)).stderr
    assert f"rfdetr_core is imported from {project.folder}, not from {second_clone.folder}" in refused


def test_a_clone_that_verify_reproduces_runs_its_own_code(
    project: Installed, second_clone: Project, tmp_path: Path
) -> None:
    code = "from pathlib import Path; from rfdetr_core.verification.reproduce import _run; import sys; "
    command = f"{code}_run(Path(sys.argv[1]), 'python', '-m', 'dvc', 'repro', '--force', 'code')"
    printed = output(tmp_path, project.python, "-c", command, str(second_clone.folder))
    assert "Running stage 'code'" in printed
    assert "code of the other clone" in printed


def test_a_wheel_has_every_file_of_the_package_and_leaves_nothing_in_git(project: Installed, tmp_path: Path) -> None:
    pip = (project.python, "-m", "pip", "--isolated", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation")
    before = output(project.folder, "git", "status", "--porcelain")
    output(project.folder, *pip, "--wheel-dir", str(tmp_path), ".")
    assert output(project.folder, "git", "status", "--porcelain") == before
    (wheel,) = tmp_path.glob("*.whl")
    tracked = output(project.folder, "git", "ls-files", "rfdetr_core").splitlines()
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(name for name in archive.namelist() if ".dist-info/" not in name) == sorted(tracked)
