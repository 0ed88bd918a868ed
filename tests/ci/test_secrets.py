"""The values of secret variables are found in all usual encodings, and are never printed."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from ci.deliver import outgoing_files
from ci.secrets import SecretFoundError, redacted, refuse, refuse_in_files
from rfdetr_core.base.markdown import block, code

VALUE = 'p|ss/w"örd+<&>`x`'
NAMES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "RETRAIN_TOKEN",
    "my_credentials",
)
FORMS = {
    "plain": VALUE,
    "JSON": json.dumps({"a": VALUE}),
    "JSON with letters": json.dumps({"a": VALUE}, ensure_ascii=False),
    "HTML": html.escape(f"<b>{VALUE}"),
    "address": f"https://u:{quote(VALUE, safe='')}@host/",
    "address in small letters": quote(VALUE, safe="").lower(),
    "path": quote(VALUE),
    "form": quote_plus(VALUE),
    "name in a comment": code(VALUE),
    "output in a comment": block(VALUE),
    **{f"base64 {before}": base64.b64encode(f"{'x' * before}{VALUE}!".encode()).decode() for before in range(4)},
    "base64 of addresses": base64.urlsafe_b64encode(f"user:{VALUE}".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_a_value_is_refused_with_a_message_that_names_the_variable_but_not_the_value(
    name: str, form: str
) -> None:
    content = f"before {FORMS[form]} after"
    with pytest.raises(SecretFoundError) as raised:
        refuse(content.encode(), "some/file.json", {name: f"{VALUE}\n", "OTHER": "x"})
    assert name in str(raised.value)
    assert "some/file.json" in str(raised.value)
    assert VALUE not in str(raised.value)
    assert "***" in redacted(content, {name: VALUE})
    with pytest.raises(SecretFoundError):
        refuse(content.encode(), "x", {name: VALUE})
    refuse(redacted(content, {name: VALUE}).encode(), "x", {name: VALUE})


def test_short_values_and_variables_that_are_not_secret_are_accepted() -> None:
    environment = {"GH_TOKEN": "1", "MY_KEY": "none", "API_TOKEN": "true   ", "HOME": "/home/somebody", "KEY": ""}
    refuse(b"1 none true /home/somebody", "x", environment)
    assert redacted("1 none /home/somebody", environment) == "1 none /home/somebody"


def test_a_password_within_an_address_and_a_line_of_a_key_are_secrets() -> None:
    with pytest.raises(SecretFoundError, match="MLFLOW_TRACKING_URI"):
        refuse(b"it is correct horse", "x", {"MLFLOW_TRACKING_URI": "https://user:correct%20horse@host:1/x"})
    refuse(b"https://host.example:1/x", "x", {"MLFLOW_TRACKING_URI": "https://host.example:1/x"})
    refuse(b"by deploy-bot", "x", {"INDEX": "https://deploy-bot@host.example/x"})
    with pytest.raises(SecretFoundError, match="INDEX"):
        refuse(b"a ghp_0123456789abcdefghij b", "x", {"INDEX": "https://ghp_0123456789abcdefghij@host.example/x"})
    key = {"SSH_KEY": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----\n"}
    with pytest.raises(SecretFoundError, match="SSH_KEY"):
        refuse(b"    MIIEvQIBADANBg\r\n", "x", key)
    refuse(b"-----BEGIN PRIVATE KEY-----", "x", key)


def test_files_are_searched_to_their_end_and_so_are_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GH_TOKEN", "s3cret-s3cret")
    deep = tmp_path / "reports" / "a" / "b"
    deep.mkdir(parents=True)
    refuse_in_files(["reports", "gone.json"])
    (deep / "c.bin").write_bytes(b"\0" * 10**6 + b"s3cret-s3cret")
    with pytest.raises(
        SecretFoundError, match=r"reports/a/b/c\.bin contains the value of the secret variable GH_TOKEN"
    ):
        refuse_in_files(["reports"])
    (deep / "c.bin").rename(deep / "s3cret-s3cret.bin")
    (deep / "s3cret-s3cret.bin").write_bytes(b"")
    with pytest.raises(SecretFoundError, match=r"name of a file.*GH_TOKEN") as raised:
        refuse_in_files(["reports"])
    assert "s3cret-s3cret" not in str(raised.value)


def test_the_run_cache_of_earlier_runs_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc push --run-cache` also pushes a result whose delivery was stopped before.

    The page of both models, the plan and the attachments leave the machine too, and are searched.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GH_TOKEN", "s3cret-s3cret")
    entry = tmp_path / ".dvc" / "cache" / "runs" / "aa" / "aabb" / "ccdd"
    objects = tmp_path / ".dvc" / "cache" / "files" / "md5"
    (tmp_path / "dvc.lock").write_text("stages: {evaluate: {cmd: x, outs: [{path: report.json, md5: abc}]}}\n")
    contents = {"report.json": "{}", f"{objects}/01/2345": "{}", f"{objects}/67/89.dir": '[{"md5": "abcd"}]'}
    contents |= {
        "reports/compare/index.html": "<p>",
        ".retrain/plan.md": "words",
        ".retrain/attachments/curves.png": "picture",
        f"{objects}/ab/cd": "picture",
        str(entry.with_name("damaged")): "{",
    }
    contents |= {
        str(entry): "cmd: x\nouts: [{path: a, md5: '012345'}, {path: b, md5: 6789.dir}, {path: c, md5: ffff}]\n"
    }
    for name, content in contents.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    refuse_in_files(outgoing_files([]))
    for name, content in contents.items():
        if not name.endswith(".dir"):
            Path(name).write_text(f"{content} # s3cret-s3cret")
            with pytest.raises(SecretFoundError, match="GH_TOKEN"):
                refuse_in_files(outgoing_files([]))
            Path(name).write_text(content)
