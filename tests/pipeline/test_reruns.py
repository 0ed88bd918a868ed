"""Which stages an edit reruns: the real `dvc repro` on a real project.

Each row of the table in docs/reruns.md is an edit, which is made here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rfdetr_core.base.code import ROOT, semantic_digest
from rfdetr_core.lineage.lock import Lock
from tests.architecture import PIPELINE
from tests.pipeline.project import Project, add_prose
from tests.pipeline.test_committed import outs_in_git
from tests.pipeline.test_interruption import SHELLS, ended, started, wait_for

pytestmark = pytest.mark.slow
ROWS = [
    (edit, re.findall(r"`([^`]+)`", where) or [where], stages.split(", ") if stages else [])
    for edit, where, stages in re.findall(
        r"^\| (.+?) \| (.+?) \| ?(.*?) ?\|$", (ROOT / "docs" / "reruns.md").read_text(), re.MULTILINE
    )
    if edit != "edit"
]


@pytest.fixture(scope="module")
def trained(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline ran once and was committed. Tests undo their changes."""
    project = reproduced.copy(tmp_path_factory.mktemp("a project") / "main")
    project.commit("trained")
    return project


@pytest.fixture
def project(trained: Project):
    """The trained project. After the test its files are restored from the commit, its outs from dvc.lock."""
    yield trained
    trained.run("git", "reset", "-q", "--hard")
    trained.run("git", "clean", "-q", "-fd")
    trained.run("dvc", "checkout", "-q", "--force")


def modules(project: Project, where: str) -> list[Path]:
    """The modules at a path in the column `where`."""
    if where == "every module":
        return [path for package in ("rfdetr_core", "stages") for path in (project.folder / package).rglob("*.py")]
    path = project.folder / where
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def add_statement(path: Path) -> None:
    path.write_text(path.read_text() + "\n\nEDITED = True\n")


def set_value(project: Project, key: str) -> None:
    section, name = key.split(".")
    project.set_params(**{section: {name: {"num_workers": 1, "pictures": 2, "images": 3, "batch_size": 4}[name]}})


def reorder(project: Project, split: str) -> None:
    path = project.folder / "data" / "tiny" / split / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content = {key: content[key][::-1] for key in sorted(content)}
    path.write_bytes(json.dumps(content, indent=3, sort_keys=True).replace("\n", "\r\n").encode())


def change(project: Project, edit: str, where: str) -> None:
    """Make the edit of a row at one path."""
    if edit.startswith("comments"):
        for path in modules(project, where):
            add_prose(path)
    elif edit == "a new module that nothing imports":
        (project.folder / where).write_text("x = (\n")
    elif edit == "a line of code":
        for path in modules(project, where):
            add_statement(path)
    elif edit in ("a line", "a comment", "a package"):
        path = project.folder / where
        line = {"a line": "", "a comment": "# a comment\n", "a package": "another==1.0\n"}[edit]
        path.write_text(f"{path.read_text()}\n{line}")
    elif edit == "a value":
        set_value(project, where)
    elif where == "metadata.csv":
        table = "file_name,site,note\ntrain_0.png,a,\nvalid_1.png,b,x\ntest/test_0.png,,y\n"
        (project.folder / "data" / "tiny" / where).write_text(table)
    elif edit.startswith("white space"):
        reorder(project, where)
    else:
        assert edit == "a moved box"
        project.edit_annotations(where, bbox=[1, 2, 9, 9])


@pytest.mark.parametrize(("edit", "places", "stages"), ROWS, ids=[f"{row[0]}-{row[1][0]}" for row in ROWS])
def test_an_edit_runs_the_stages_of_its_row(project: Project, edit: str, places: list[str], stages: list[str]) -> None:
    for where in places if len(places) > 1 and stages != ["code"] else ():
        change(project, edit, where)
        project.repro("code")
        changed = {Path(path).stem for path in project.run("git", "diff", "--name-only", "digests").stdout.split()}
        assert changed, where
        assert changed <= set(stages), where
        project.run("git", "checkout", "-q", "--", ".")
    for where in places:
        change(project, edit, where)
    assert project.repro() == stages
    assert project.repro() == []


def test_nothing_changed_runs_nothing(project: Project) -> None:
    assert project.repro() == []


def test_going_back_runs_nothing_and_git_gets_files_instead_of_links(trained: Project, tmp_path: Path) -> None:
    project = trained.copy(tmp_path / "copy")
    project.run("dvc", "config", "cache.type", "symlink")  # restored outs are links, even those that git keeps
    project.commit("links")
    project.set_params(validate={"on_error": "drop"}, evaluate={"threshold": 0.3})
    project.edit_annotations("test", bbox=[1, 1, 9, 9], area=81)
    assert project.repro() == ["validate", "convert", "evaluate", "report", "export"]
    project.run("git", "restore", "params.yaml", "data")
    assert project.repro() == []
    project.run(sys.executable, "-m", "rfdetr_core", "results")
    left = project.run("git", "status", "--porcelain").stdout.splitlines()
    assert [line for line in left if not line.startswith("?? journal/")] == []  # stages that ran in between
    assert len(left) == 5
    assert project.changed_stages() == set()
    for kind in ("metrics", "plots"):
        shown = project.run("dvc", kind, "show", "--json").stdout
        declared = {name for stage in PIPELINE.values() for out in stage.get(kind, []) for name in out}
        assert {name for name in outs_in_git(project) if f'"{name}"' in shown} == declared


def test_a_class_of_the_project_that_params_name_is_an_input_of_train(trained: Project, tmp_path: Path) -> None:
    project = trained.copy(tmp_path / "copy")
    module = project.folder / "rfdetr_core" / "training" / "plain.py"
    module.write_text(
        '"""A plain optimiser."""\n\nfrom torch.optim import AdamW\n\n\nclass Plain(AdamW):\n    """AdamW."""\n'
    )
    project.set_params(train={"optimizer": "rfdetr_core.training.plain.Plain"})
    assert project.repro()[:2] == ["code", "train"]
    project.commit("an optimiser of our own")
    holds = json.loads(project.run("python", "-m", "rfdetr_core", "verify", "--json").stdout)
    assert holds["holds"], holds
    record = json.loads((project.folder / "output" / "record.json").read_text())["lineage"]["training"]
    assert record["code"]["rfdetr_core/training/plain.py"] == semantic_digest(module)

    module.write_text(module.read_text() + "# a comment\n")
    assert project.repro() == ["code"]
    module.write_text(module.read_text() + "\n    extra = 1\n")
    report = json.loads(project.run("python", "-m", "rfdetr_core", "verify", "--json", check=False).stdout)
    assert "code rfdetr_core/training/plain.py" in {mismatch["what"] for mismatch in report["mismatches"]}
    assert project.repro()[:2] == ["code", "train"]

    project.set_params(train={"optimizer": "data.tiny.plain.Plain"})
    shutil.copy(module, project.folder / "data" / "tiny" / "plain.py")
    before = Lock.read(project.folder).stages["train"]
    for command in (("python", "-m", "rfdetr_core", "check"), ("dvc", "repro")):
        done = project.run(*command, check=False)
        assert done.returncode != 0
        assert "no code digest covers" in done.stdout + done.stderr
    assert Lock.read(project.folder).stages["train"] == before


def test_metadata_follows_its_file_and_white_space_in_it_changes_no_result(project: Project) -> None:
    table = project.folder / "data" / "tiny" / "metadata.csv"
    table.write_text("file_name,site,licence\ntrain_0.png,a,MIT\ntest_1.png,b,\n")
    assert project.repro() == ["validate", "report"]
    written = {path.name: path.read_text() for path in (project.folder / "metadata").iterdir()}
    assert written == {
        "train.csv": "path,licence,site\ntrain/train_0.png,MIT,a\n",
        "valid.csv": "path\n",
        "test.csv": "path,site\ntest/test_1.png,b\n",
    }
    changed = project.run("git", "diff", "--name-only").stdout.split()
    assert changed == ["dvc.lock", "metadata/test.csv", "metadata/train.csv"]
    project.run("git", "add", "-A")
    table.write_text("licence, site,file_name\r\n,b ,test_1.png\r\nMIT,a,train_0.png\r\n")
    assert project.repro() == ["validate"]
    assert project.run("git", "diff", "--name-only").stdout.split() == ["data/tiny/metadata.csv", "dvc.lock"]
    verified = project.run("python", "-m", "rfdetr_core", "verify", "--json")
    assert json.loads(verified.stdout)["holds"], verified.stdout
    message = project.run("python", "-m", "rfdetr_core", "audit", "--where", "licence=MIT", check=False).stderr
    assert "error: --where licence=MIT: no image had a column licence when its model was committed." in message
    table.write_text("file_name,site\ntrain_0.png,a\ntrain_0.png,b\n")
    failed = project.run("dvc", "repro", check=False)
    assert "error metadata-doubled: 1." in failed.stdout
    restore = re.search(r"^Earlier results.*?: (.*)$", failed.stderr, flags=re.MULTILINE)
    assert restore is not None
    project.run("sh", "-c", restore.group(1))
    assert (project.folder / "metadata" / "train.csv").read_text() == written["train.csv"]


def test_touched_files_run_nothing(project: Project) -> None:
    for folder in ("data", "rfdetr_core", "stages"):
        for path in (project.folder / folder).rglob("*"):
            path.touch()
    assert project.repro() == []


def test_a_renamed_dataset_folder_does_not_train(project: Project) -> None:
    (project.folder / "data" / "tiny").rename(project.folder / "data" / "other")
    project.set_params(data={"dir": "data/other"})
    assert project.repro() == ["validate"]


def repaint(project: Project, split: str) -> None:
    path = project.folder / "data" / "tiny" / split / f"{split}_1.png"
    with Image.open(path) as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(path)


def rename_a_class(project: Project) -> None:
    for path in (project.folder / "data" / "tiny").rglob("*.json"):
        path.write_text(path.read_text().replace('"red"', '"crimson"'))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda project: repaint(project, "train"), {"train", "export"}),
        (
            lambda project: repaint(project, "valid"),
            {"train", "evaluate", "report", "export"},
        ),  # it is evaluated if there is no test image
        (lambda project: repaint(project, "test"), {"evaluate", "report", "export"}),
        (rename_a_class, {"train", "evaluate", "report", "export"}),
    ],
    ids=["pixel of train", "pixel of valid", "pixel of test", "class name"],
)
def test_a_pixel_or_a_name_changes_the_stages_that_use_it(
    project: Project, change: Callable[[Project], None], changed: set[str]
) -> None:
    change(project)
    assert project.repro("convert") == ["validate", "convert"]
    assert project.changed_stages() == changed


def test_a_fresh_clone_with_the_cache_pulled_runs_nothing(project: Project, tmp_path: Path) -> None:
    project.run("dvc", "remote", "add", "-d", "-f", "store", str(tmp_path / "store"))
    project.commit("remote")
    project.run("dvc", "push", "-q")
    subprocess.run(["git", "clone", "-q", str(project.folder), str(tmp_path / "clone")], check=True)
    clone = Project(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    assert clone.repro() == []


def test_a_failing_stage_names_the_command_that_restores_and_it_does(project: Project) -> None:
    out = project.folder / "output" / "checkpoint_best_total.pth"
    before, entries = out.read_bytes(), journal(project)
    project.edit_annotations("test", category_id=77)
    failed = project.run("dvc", "repro", check=False)
    assert failed.returncode != 0
    assert journal(project) == entries
    assert "Traceback" not in failed.stderr
    restore = re.search(r"^Earlier results.*?: (.*)$", failed.stderr, flags=re.MULTILINE)
    assert restore is not None
    project.run("sh", "-c", restore.group(1))
    project.run("git", "checkout", "-q", "--", "data")
    assert out.read_bytes() == before
    assert project.repro() == []


@pytest.mark.parametrize("option", ["--temp", "--queue"])
def test_an_experiment_elsewhere_trains_the_code_that_it_records(project: Project, option: str) -> None:
    edited = project.folder / "rfdetr_core" / "training" / "run.py"
    edited.write_text(edited.read_text() + '\nraise RuntimeError("this very code ran")\n')
    done = project.run("dvc", "exp", "run", option, "-n", f"edited{option}", check=False)
    if option == "--queue":
        done = project.run("dvc", "exp", "run", "--run-all", check=False)
        done = project.run("dvc", "queue", "logs", f"edited{option}")
    assert "this very code ran" in done.stdout + done.stderr
    project.run("dvc", "queue", "remove", "--all")


def journal(project: Project) -> set[str]:
    return {path.name for path in (project.folder / "journal").iterdir()}


def locked(project: Project) -> bytes:
    return (project.folder / "dvc.lock").read_bytes()


@pytest.mark.parametrize("options", [["-s"], ["--downstream"]])
def test_after_an_edit_of_code_a_single_requested_stage_does_not_run(project: Project, options: list[str]) -> None:
    before = locked(project)
    add_statement(project.folder / "rfdetr_core" / "loss" / "matcher.py")
    assert project.repro(*options, "train") == []  # dvc.lock still describes the runs
    assert locked(project) == before


@pytest.mark.parametrize(
    "command",
    [
        "dvc repro -s train",
        "dvc repro --downstream train",
        "dvc repro -s -f train",
        "dvc repro --downstream -f train",
        "python -m stages.train",
    ],
)
def test_no_stage_runs_code_that_differs_from_its_digests(project: Project, command: str) -> None:
    before = locked(project)
    add_statement(project.folder / "rfdetr_core" / "loss" / "matcher.py")
    if "-f" not in command.split():
        project.set_params(train={"seed": 3})  # so that DVC runs it
    failed = project.run(*command.split(), check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    expected = r"^error: rfdetr_core/loss/matcher\.py changed since the stage code ran\. Run: dvc repro$"
    assert re.search(expected, failed.stderr, re.MULTILINE)
    assert locked(project) == before


def test_without_digests_a_stage_runs_by_hand_and_not_in_dvc(project: Project) -> None:
    before, made = locked(project), project.folder / "output" / "selection.json"
    expected, entries = made.read_bytes(), journal(project)
    (project.folder / "digests" / "select_best.json").unlink()
    failed = project.run("dvc", "repro", "-s", "-f", "select_best", check=False)
    assert "error: digests/select_best.json does not exist. Run: dvc repro" in failed.stderr
    made.unlink(missing_ok=True)
    project.run("python", "-m", "stages.select_best")
    assert (made.read_bytes(), journal(project)) == (expected, entries)
    assert locked(project) == before


def test_an_edit_while_a_stage_without_digests_runs_by_hand_is_named(project: Project) -> None:
    project.set_params(train={"epochs": 3, "seed": 4})
    (project.folder / "digests" / "train.json").unlink()
    state = project.folder / "output" / "checkpoint.pth"
    state.unlink()
    stage = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        cwd=project.folder,
        env=project.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(state.exists, stage)
    add_statement(project.folder / "rfdetr_core" / "loss" / "matcher.py")
    assert "error: Edited while train ran: rfdetr_core/loss/matcher.py" in stage.communicate()[1]
    assert stage.returncode == 1


def test_a_source_that_puts_another_in_its_place_is_named(project: Project) -> None:
    before, path = locked(project), project.folder / "rfdetr_core" / "base" / "errors.py"
    sound = path.read_text()
    path.write_text(f"{sound}\nimport pathlib\n\npathlib.Path({str(path)!r}).write_text({sound!r})\n")
    failed = project.run("dvc", "repro", "-s", "-f", "select_best", check=False)
    assert path.read_text() == sound
    assert "error: Edited while select_best ran: rfdetr_core/base/errors.py" in failed.stderr
    assert locked(project) == before


def test_an_input_that_changes_while_a_stage_runs_is_named(project: Project) -> None:
    path, scores = project.folder / "stages" / "select_best.py", project.folder / "output" / "scores.json"
    called = 'select(files.read_json(output / "scores.json"))'
    assert called in path.read_text()
    edit = 'files.write_text(output / "scores.json", files.read_text(output / "scores.json") + " ")'
    path.write_text(path.read_text().replace("    files.write_json(output", f"    {edit}\n    files.write_json(output"))
    (project.folder / "digests" / "select_best.json").unlink()  # a stage that is started by hand may run without it
    failed = project.run("python", "-m", "stages.select_best", check=False)
    assert failed.returncode == 1
    assert "error: Changed while select_best ran: output/scores.json." in failed.stderr
    assert scores.read_text().endswith(" ")


def test_a_comment_does_not_stop_a_single_stage(project: Project) -> None:
    add_prose(project.folder / "rfdetr_core" / "evaluation" / "evaluate.py")
    assert project.repro("-s", "-f", "evaluate") == ["evaluate"]


def test_an_edit_while_a_stage_runs_is_named_and_its_result_is_not_recorded(project: Project) -> None:
    before, entries = Lock.read(project.folder).stages["train"], journal(project)
    matcher = project.folder / "rfdetr_core" / "loss" / "matcher.py"
    original = matcher.read_text()
    project.set_params(train={"epochs": 3, "seed": 4})
    state = project.folder / "output" / "checkpoint.pth"
    state.unlink()
    dvc = started(project, SHELLS[0])
    wait_for(state.exists, dvc)
    add_statement(matcher)
    add_prose(project.folder / "rfdetr_core" / "loss" / "terms.py")
    status, printed = ended(project, dvc)
    assert status != 0
    assert "error: Edited while train ran: rfdetr_core/loss/matcher.py. DVC does not record the result." in printed
    assert "Traceback" not in printed
    assert Lock.read(project.folder).stages["train"] == before  # `code` ran, because it depends on the section train
    assert journal(project) == entries
    trained = (project.folder / "output" / "checkpoint_best_ema.pth").read_bytes()
    matcher.write_text(original)
    printed = project.run("dvc", "repro", "train").stdout
    assert "had finished, but DVC had not recorded it" in printed
    assert "epoch 1/3" not in printed
    assert (project.folder / "output" / "checkpoint_best_ema.pth").read_bytes() == trained


LOADS = """

def loads() -> None:
    import importlib

    importlib.import_module({})


loads()
"""


@pytest.mark.parametrize(
    ("name", "ran"),
    [('"rfdetr_core.audit.text"', ["code"]), ('"rfdetr_core.audit" + ".text"', ["code", "select_best"])],
)
def test_a_module_that_a_stage_loads_by_name_is_refused_by_the_stage_itself(
    project: Project, name: str, ran: list[str]
) -> None:
    path = project.folder / "rfdetr_core" / "selection" / "select.py"
    path.write_text(path.read_text() + LOADS.format(name))
    failed = project.run("dvc", "repro", check=False)
    assert re.findall(r"^Running stage '(\w+)'", failed.stdout, flags=re.MULTILINE) == ran
    assert re.search(r"loads rfdetr_core\.audit(\.text)? by name", failed.stderr)
    assert "Traceback" not in failed.stderr


def test_a_file_that_does_not_parse_stops_make_repro_before_anything_is_deleted(project: Project) -> None:
    (project.folder / ".venv").symlink_to(sys.prefix)
    results = [path for folder in ("digests", "manifest", "output") for path in (project.folder / folder).iterdir()]
    path = project.folder / "rfdetr_core" / "loss" / "matcher.py"
    path.write_text(path.read_text() + "\nx = (\n")
    line = len(path.read_text().splitlines())
    stopped = project.run("make", "--no-print-directory", "-o", ".venv/.runtime", "repro", check=False)
    assert f"error: rfdetr_core/loss/matcher.py:{line} does not parse" in stopped.stderr
    assert "Running stage" not in stopped.stdout
    assert "Traceback" not in stopped.stderr
    assert results
    assert all(result.exists() for result in results)
    failed = project.run("dvc", "repro", check=False)
    restore = re.search(r"^Earlier results.*?: (.*)$", failed.stderr, flags=re.MULTILINE)
    assert restore is not None
    assert not (project.folder / "digests" / "train.json").exists()
    project.run("sh", "-c", restore.group(1))
    project.run("git", "checkout", "-q", "--", "rfdetr_core")
    assert project.repro() == []


def test_make_repro_says_which_stages_an_edit_of_code_reaches(project: Project) -> None:
    add_statement(project.folder / "rfdetr_core" / "selection" / "select.py")
    add_prose(project.folder / "rfdetr_core" / "training" / "run.py")
    printed = project.run("python", "-m", "rfdetr_core", "check").stdout
    assert " ".join(printed.split()) == "select_best will run because its code changed: rfdetr_core/selection/select.py"


def test_two_branches_that_changed_code_are_merged_with_the_command_of_the_page(project: Project) -> None:
    page = (ROOT / "docs" / "reruns.md").read_text()
    (command,) = re.findall(r"^    (git checkout --ours .*)$", page, re.MULTILINE)
    strip = project.folder / "rfdetr_core" / "selection" / "strip.py"
    start = project.run("git", "rev-parse", "HEAD").stdout.strip()
    for branch, name in (("one", "selection/select.py"), ("two", "evaluation/pictures.py")):
        project.run("git", "checkout", "-q", "-B", branch, start)
        add_statement(project.folder / "rfdetr_core" / name)
        strip.write_text(f"{strip.read_text()}\n\n{branch.upper()} = True\n")
        project.repro()
        project.commit(branch)
    assert project.run("git", "merge", "one", check=False).returncode != 0
    conflicts = project.run("git", "diff", "--name-only", "--diff-filter=U").stdout.split()
    assert {"dvc.lock", "digests/strip.json", "rfdetr_core/selection/strip.py"} <= set(conflicts)
    strip.write_text(re.sub(r"^(<<<<|====|>>>>).*\n", "", strip.read_text(), flags=re.MULTILINE))
    assert "Running stage 'train'" not in project.run("sh", "-ec", command).stdout
    project.commit("merged")
    assert project.repro() == []
    project.run("python", "-m", "rfdetr_core", "verify")
    project.run("git", "checkout", "-q", "main")
