"""The push of a result: no commit of a person is replaced, and the token stays secret with a real git server."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ci import push
from ci.steps import (
    ATTACHMENTS,
    ATTACHMENTS_BRANCH,
    BRANCH,
    BUNDLE,
    COMMENT,
    RUN_TRAILER,
    STATE,
    STATEMENT,
    TRAILER,
    attachment,
)
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError

TOKEN = "t0ken-of-the-test\\n$(x) %s"
# This hook runs during the push, so it sees the processes of the push.
HOOK = """#!/bin/sh
cat > /dev/null
for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < "$file" 2>/dev/null; echo; done > processes
"""


class Git(BaseHTTPRequestHandler):
    """`git http-backend` behind Basic authentication."""

    root: Path

    def do_GET(self) -> None:
        expected = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {expected}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "ci",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(lines.pop("Status", "200").split()[0]))
        for name, value in lines.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def git(folder: Path, *words: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(["git", *words], cwd=folder, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Team:
    """A bare repository with the branch main, a clone of a developer, and clones of the jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.origin = folder, folder / "origin.git"
        git(folder, "init", "-q", "--bare", "-b", "main", str(self.origin))
        self.developer = self.clone("developer")
        git(self.developer, "checkout", "-q", "-B", "main")
        self.sources = [self.commit("main", "params.yaml", str(number)) for number in range(3)]

    def clone(self, name: str) -> Path:
        """A clone. The author of its commits is `ci` for jobs, else the name of the folder."""
        target = self.folder / name
        git(self.folder, "clone", "-q", str(self.origin), str(target))
        git(target, "config", "user.name", "ci" if name.startswith("job") else name)
        git(target, "config", "user.email", "somebody@localhost")
        return target

    def commit(self, branch: str, name: str, text: str, *more: str) -> str:
        """Commit a file as the developer and push it. Returns the commit."""
        if git(self.developer, "branch", "--show-current") != branch:
            git(self.developer, "fetch", "-q")
            git(self.developer, "checkout", "-q", "-B", branch, f"origin/{branch}")
        (self.developer / name).write_text(text)
        git(self.developer, "add", "-A")
        git(self.developer, "commit", "-q", "-m", text, *more)
        git(self.developer, "push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        return git(self.developer, "rev-parse", "HEAD")

    def result(self, source: str, name: str, run: int | None = None, project: str = ".") -> Path:
        """Make the clone of the last job, with the files of the job that trained: the result of `source`.

        Args:
            source: the commit that is retrained.
            name: the content of the result, by which tests recognise it.
            run: the number of the run. None: made by hand.
            project: the folder of the project in the repository.
        """
        maker = self.clone(f"job that retrains {name}")
        git(maker, "checkout", "-q", "-B", "main", source)
        (maker / project / "output").mkdir(parents=True)
        (maker / project / "output" / "scores.json").write_text(name)
        (maker / project / "dvc.lock").write_text(name)
        git(maker, "add", "-A")
        lines = [f"{TRAILER}: {source}", *([] if run is None else [f"{RUN_TRAILER}: {run}"])]
        git(maker, "commit", "-q", "-m", f"Retrain {source[:10]}", "-m", "\n".join(lines))
        git(maker, "bundle", "create", "-q", str(self.folder / "bundle"), "HEAD", f"^{source}")
        deliverer = self.clone(f"job that delivers {name}")
        git(deliverer, "checkout", "-q", "-B", "main", source)
        (deliverer / ATTACHMENTS / "documents").mkdir(parents=True)
        (self.folder / "bundle").rename(deliverer / BUNDLE)
        (deliverer / COMMENT).write_text("## Retrained: test mAP +1.00 points\n\nGate passed: so.\n")
        (deliverer / STATEMENT).write_text("{}")
        (deliverer / ATTACHMENTS / "documents" / "model card.md").write_text(name)
        return deliverer

    def forged(self, how: str) -> Path:
        """As `result`, but the job that trained was compromised and forged its commit."""
        folder, source = self.result(self.sources[2], how), self.sources[2]
        maker = folder.with_name(f"job that retrains {how}")
        if how == "other files":
            (maker / ".github").mkdir()
            (maker / ".github" / "workflow.yml").touch()
            git(maker, "add", "-A")
            git(maker, "commit", "-q", "--amend", "--no-edit")
        elif how == "another source":
            git(folder, "checkout", "-q", "-B", "main", self.sources[1])
        else:
            git(maker, "commit", "-q", "--allow-empty", "-m", "more", "-m", f"{TRAILER}: {source}")
        git(maker, "bundle", "create", "-q", str(folder / BUNDLE), "HEAD", f"^{source}")
        (folder / BRANCH).write_text("main\nmain\n")
        return folder

    def branches(self) -> dict[str, str]:
        """The branches of the bare repository, without the branch of attachments."""
        rows = (line.split() for line in git(self.origin, "show-ref", "--heads").splitlines())
        tips = {ref.removeprefix("refs/heads/"): commit for commit, ref in rows}
        return {name: commit for name, commit in tips.items() if name != ATTACHMENTS_BRANCH}

    def name_of_result(self, branch: str) -> str:
        """The name of the result that a branch has."""
        return git(self.origin, "show", f"{branch}:output/scores.json")


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def pushed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the step in a clone. Returns the comment."""
    monkeypatch.chdir(folder)
    push.main()
    return COMMENT.read_text()


def test_a_result_replaces_an_older_one_and_its_attachments_have_the_address_in_the_comment(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_RAW", "https://host/owner/name/raw")
    results = []
    for number, source in enumerate(team.sources):
        folder = team.result(source, f"result {number}")
        before = (folder / COMMENT).read_text()
        assert pushed(folder, monkeypatch) == before
        assert BRANCH.read_text() == "retrain/main\nmain\n"
        assert team.name_of_result("retrain/main") == f"result {number}"
        results.append(team.branches()["retrain/main"])
        address = attachment("documents/model card.md", results[-1])
        path = f"{ATTACHMENTS_BRANCH}/{results[-1][:10]}/documents/model%20card.md"
        assert address == f"https://host/owner/name/raw/{path}"
    again = team.result(team.sources[2], "the same commit again")
    pushed(again, monkeypatch)
    assert team.name_of_result("retrain/main") == "the same commit again"
    results.append(team.branches()["retrain/main"])
    names = ["documents/model card.md", "statement.json"]
    listed = git(team.origin, "ls-tree", "-r", "-z", "--name-only", ATTACHMENTS_BRANCH).split("\0")[:-1]
    assert listed == sorted(f"{result[:10]}/{name}" for result in results for name in names)
    for result, expected in zip(results[2:], ("result 2", "the same commit again"), strict=True):
        assert git(team.origin, "show", f"{ATTACHMENTS_BRANCH}:{result[:10]}/documents/model card.md") == expected
    assert git(team.origin, "merge-base", "main", "retrain/main") == team.sources[2]


def test_a_late_result_of_an_older_commit_does_not_replace_a_newer_result(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = team.result(team.sources[0], "early"), team.result(team.sources[1], "late")
    pushed(late, monkeypatch)
    before = team.branches()
    comment = pushed(early, monkeypatch)
    assert comment.startswith("## Retrained, but there is a newer result\n")
    assert team.sources[1][:10] in comment
    assert (team.branches(), BRANCH.exists()) == (before, False)
    # The newer result was merged, and its branch deleted.
    git(team.developer, "fetch", "-q")
    git(team.developer, "merge", "-q", "-m", "merge", "origin/retrain/main")
    git(team.developer, "push", "-q", "origin", "main", ":retrain/main")
    early = team.result(team.sources[0], "early again")
    assert pushed(early, monkeypatch).startswith("## Retrained, but there is a newer result\n")
    assert list(team.branches()) == ["main"]


@pytest.mark.parametrize("how", ["other files", "another source", "two commits"])
def test_a_commit_that_is_not_the_retraining_of_the_checked_out_commit_is_not_pushed(
    team: Team, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder, before = team.forged(how), git(team.origin, "show-ref")
    with pytest.raises(UserError, match=r"not a retraining of the commit that is checked out|is not a retraining: "):
        pushed(folder, monkeypatch)
    assert (git(team.origin, "show-ref"), BRANCH.exists()) == (before, False)


def test_the_job_that_trained_does_not_choose_the_branch(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = team.result(team.sources[2], "result"), team.branches()["main"]
    (folder / BRANCH).write_text("main\nmain\n")
    pushed(folder, monkeypatch)
    assert team.branches()["main"] == before
    assert team.name_of_result("retrain/main") == "result"
    # A person pushes it again, with the result itself checked out.
    git(folder, "fetch", "-q", str(folder.resolve() / BUNDLE), "HEAD")
    git(folder, "checkout", "-q", "-B", "main", "FETCH_HEAD")
    pushed(folder, monkeypatch)
    assert team.name_of_result("retrain/main") == "result"


def test_the_result_of_an_earlier_run_does_not_replace_that_of_a_later_run_of_the_same_commit(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(team.result(team.sources[0], "of run 12", 12), monkeypatch)
    comment = pushed(team.result(team.sources[0], "of run 9", 9), monkeypatch)
    assert comment.startswith("## Retrained, but there is a newer result\n")
    assert "There is already the result of the later run 12." in comment
    assert team.name_of_result("retrain/main") == "of run 12"
    for name, run in (("again", 12), ("of run 13", 13), ("by hand", None)):
        pushed(team.result(team.sources[0], name, run), monkeypatch)
        assert team.name_of_result("retrain/main") == name


@pytest.mark.parametrize("with_a_lock", [False, True])
def test_a_copied_trailer_counts_only_if_its_commit_is_a_result(
    team: Team, monkeypatch: pytest.MonkeyPatch, with_a_lock: bool
) -> None:
    folder = team.result(team.sources[0], "result")
    if with_a_lock:
        (team.developer / "dvc.lock").write_text("of a person, with code")
    team.commit("main", "code.py", "copied", "-m", f"{TRAILER}: {team.sources[1]}")
    pushed(folder, monkeypatch)
    assert team.name_of_result("retrain/main") == "result"
    # A platform squashed two results: the parent is another commit, the files are those of a result.
    claims = f"{TRAILER}: {team.sources[0]}\n{TRAILER}: {team.sources[2]}"
    team.commit("main", "dvc.lock", "squashed", "-m", claims)
    comment = pushed(team.result(team.sources[0], "late"), monkeypatch)
    assert f"There is already a result of the later commit {team.sources[2][:10]}." in comment


def test_a_merged_result_of_another_project_in_the_repository_does_not_count(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = team.result(team.sources[0], "early")
    (team.developer / "other").mkdir()
    team.commit("main", "other/dvc.lock", "of another", "-m", f"{TRAILER}: {team.sources[1]}")
    before = (early / COMMENT).read_text()
    assert pushed(early, monkeypatch) == before
    assert team.name_of_result("retrain/main") == "early"


@pytest.mark.parametrize("how", ["a commit", "amended", "new author", "a false claim"])
def test_a_commit_of_a_person_on_the_branch_is_kept_and_the_result_gets_another_branch(
    team: Team, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pushed(team.result(team.sources[0], "first"), monkeypatch)
    git(team.developer, "fetch", "-q")
    git(team.developer, "checkout", "-q", "-B", "retrain/main", "origin/retrain/main")
    if how in ("amended", "new author"):
        (team.developer / "output" / "scores.json").write_text("better")
        author = ["--reset-author"] if how == "new author" else []
        git(team.developer, "commit", "-q", "-a", "--amend", "--no-edit", *author)
    else:
        (team.developer / "README.md").write_text("words")
        git(team.developer, "add", "-A")
        claim = ["-m", f"{TRAILER}: {git(team.developer, 'rev-parse', 'HEAD')}"] if how == "a false claim" else []
        git(team.developer, "commit", "-q", "-m", "words", *claim)
    git(team.developer, "push", "-q", "-f", "origin", "HEAD:retrain/main")
    person = git(team.developer, "rev-parse", "HEAD")
    comment = pushed(team.result(team.sources[1], "second"), monkeypatch)
    side_branch = f"retrain/main-{team.sources[1][:10]}"
    assert team.branches()["retrain/main"] == person
    assert team.name_of_result(side_branch) == "second"
    assert BRANCH.read_text() == f"{side_branch}\nmain\n"
    assert comment.startswith("## Retrained, but on a separate branch\n")
    assert person[:10] in comment
    assert "### Retrained: test mAP +1.00 points" in comment


def test_a_branch_that_moves_before_the_push_is_read_again(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed(team.result(team.sources[0], "first"), monkeypatch)
    folder, decide, person = team.result(team.sources[1], "second"), push.choose_destination, []

    def meanwhile(*words: Any) -> push.Destination:
        destination = decide(*words)
        if not person:
            person.append(team.commit("retrain/main", "README.md", "words"))
        return destination

    monkeypatch.setattr(push, "choose_destination", meanwhile)
    comment = pushed(folder, monkeypatch)
    assert team.branches()["retrain/main"] == person[0]
    assert team.name_of_result(f"retrain/main-{team.sources[1][:10]}") == "second"
    assert person[0][:10] in comment


@pytest.mark.parametrize("how", ["deleted", "rewritten"])
def test_a_branch_that_changes_between_the_list_and_the_fetch_is_listed_again(
    team: Team, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pushed(team.result(team.sources[0], "first"), monkeypatch)
    old_tip, run_git, once = (
        team.branches()["retrain/main"],
        push.run_git,
        [f"{team.sources[1]}:refs/heads/retrain/main"],
    )

    def meanwhile(*words: str, **more: Any) -> Any:
        if words[0] == "fetch" and once:
            refspec = once.pop() if how == "rewritten" else ":refs/heads/retrain/main"
            once.clear()
            git(team.developer, "push", "-q", "-f", "origin", refspec)
        return run_git(*words, **more)

    folder = team.clone("job that reads")
    git(folder, "update-ref", "-d", "refs/remotes/origin/retrain/main")
    git(folder, "reflog", "expire", "--expire=now", "--all")
    git(folder, "prune", "--expire=now")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(push, "run_git", meanwhile)
    tips = push.fetch_tips("retrain/main")
    assert tips == ({} if how == "deleted" else {"retrain/main": team.sources[1]})
    assert old_tip not in tips.values()


@pytest.mark.parametrize("how", ["deleted", "rewritten"])
def test_the_result_of_a_deleted_or_rewritten_branch_gets_a_branch_without_a_request(
    team: Team, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = team.result(team.sources[2], "result")
    git(team.origin, "config", "receive.denyDeleteCurrent", "ignore")
    git(team.developer, "push", "-q", "-f", "origin", ":main" if how == "deleted" else f"{team.sources[1]}:main")
    comment = pushed(folder, monkeypatch)
    assert how in comment
    side_branch = f"retrain/main-{team.sources[2][:10]}"
    assert team.branches().keys() - {"main"} == {side_branch}
    assert (team.name_of_result(side_branch), BRANCH.exists()) == ("result", False)


def test_a_result_that_is_refused_is_reported_as_not_delivered_and_a_second_try_delivers_it(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = team.origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'no room left' >&2\nexit 1\n")
    hook.chmod(0o755)
    folder = team.result(team.sources[0], "result")
    before = (folder / COMMENT).read_text()
    monkeypatch.setenv("RETRAIN_BRANCH", "main")
    for _ in range(2):
        with pytest.raises(UserError, match="retrain/main cannot be pushed"):
            pushed(folder, monkeypatch)
        heading, comment = COMMENT.read_text().split("The rest of this comment describes that result.")
        assert heading.startswith("## Retrained, but not delivered\n")
        assert "no room left" in heading
        assert "Gate" not in heading
        assert comment.strip() == f"#{before}".strip()
        assert (list(team.branches()), BRANCH.exists()) == (["main"], False)
    hook.unlink()
    assert pushed(folder, monkeypatch) == before
    assert team.name_of_result("retrain/main") == "result"


def test_a_project_in_a_folder_has_its_attachments_in_that_folder(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = team.result(team.sources[0], "result", project="ml")
    (clone / "ml").mkdir()
    (clone / STATE).rename(clone / "ml" / STATE)
    pushed(clone / "ml", monkeypatch)
    result = team.branches()["retrain/ml/main"]
    assert git(team.origin, "show", f"{result}:ml/output/scores.json") == "result"
    name = f"ml/{result[:10]}/statement.json"
    assert name in git(team.origin, "ls-tree", "-r", "--name-only", ATTACHMENTS_BRANCH).splitlines()
    monkeypatch.setenv("RETRAIN_RAW", "https://host/raw")
    assert attachment("statement.json", result) == f"https://host/raw/{ATTACHMENTS_BRANCH}/{name}"


def test_without_a_result_nothing_is_pushed(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    (team.developer / STATE).mkdir()
    monkeypatch.chdir(team.developer)
    with pytest.raises(UserError, match="there is no plan"):
        push.main()
    (team.developer / STATE / "plan.json").write_text('{"certain": {"train": []}}')
    push.main()
    assert list(team.branches()) == ["main"]


@pytest.fixture
def clone(team: Team, tmp_path: Path) -> Iterator[Path]:
    """A clone with a result, whose remote `origin` is the server. Git on this machine would store a password."""
    Git.root = tmp_path
    (team.origin / "hooks" / "pre-receive").write_text(HOOK)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Git)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clone = team.result(team.sources[0], "result")
    (team.origin / "hooks" / "pre-receive").chmod(0o755)
    git(clone, "config", "credential.helper", f"store --file {tmp_path / 'kept'}")
    git(clone, "remote", "set-url", "origin", f"http://127.0.0.1:{server.server_port}/origin.git")
    yield clone
    server.shutdown()
    server.server_close()


def over_http(clone: Path, token: str | None) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | {"PYTHONPATH": str(ROOT)}
    env |= {"GIT_TERMINAL_PROMPT": "0"} | ({} if token is None else {"RETRAIN_TOKEN": token})
    command = [sys.executable, "-m", "ci.push"]
    return subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_only_git_gets_the_token_and_no_file_no_list_of_processes_and_no_output_has_it(clone: Path) -> None:
    done = over_http(clone, TOKEN)
    assert done.returncode == 0, done.stderr
    origin = clone.parent / "origin.git"
    assert git(origin, "show", "retrain/main:output/scores.json") == "result"
    processes = (origin / "processes").read_text()
    assert ":refs/heads/retrain/main" in processes, "the list has the push itself"
    for text in (processes, done.stdout, done.stderr, *(p.read_text(errors="replace") for p in files(clone.parent))):
        assert TOKEN not in text
        assert base64.b64encode(TOKEN.encode()).decode()[:12] not in text
    assert not (clone.parent / "kept").exists()


@pytest.mark.parametrize("token", ["another-token", None])
def test_a_refused_push_gives_one_message_without_the_token(clone: Path, token: str | None) -> None:
    done = over_http(clone, token)
    assert done.returncode == 1
    assert "error: the remote `origin` cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert "another-token" not in done.stdout + done.stderr
    assert not (clone.parent / "origin.git" / "processes").exists()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
