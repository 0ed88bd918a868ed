"""Find the values of secret environment variables in files and texts that are about to leave this machine."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.markdown import code

_NAME = re.compile("PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|KEY|CREDENTIAL", re.IGNORECASE)
# Matches the password in an address (user:password@host). Without a password, the user part counts as a token if it has
# 20 characters or more: names of users are shorter.
_PASSWORD_IN_ADDRESS = re.compile(r"://(?:[^/@\s]*?:(?=[^/@\s]+@)|(?=[^/@\s:]{20,}@))([^/@\s]+)@")
_SHORTEST = 8  # characters: a value such as "1" or "none" would be found in every file
# Bytes. Larger files are model files. They are not searched: the texts in their metadata are also in small files.
_LARGEST = 2**26


class SecretFoundError(UserError):
    """The value of a secret variable is in a file or text that was about to be committed, pushed or posted."""


def refuse(content: bytes, where: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raise SecretFoundError if `content` contains the value of a secret variable.

    Args:
        content: the bytes to search.
        where: the file or text that they come from, for the message.
        environment: the variables. Those that are secret are recognised by their name or by a password in an address.

    Raises:
        SecretFoundError: it names the variable and the place, never the value.
    """
    for name, forms in _secrets(environment).items():
        if any(form in content for form in forms):
            message = f"{where} contains the value of the secret variable {name}. Delivery stops here"
            raise SecretFoundError(f"{message}. Remove the value at its source, and replace the secret itself.")


def refuse_in_files(paths: list[str]) -> None:
    """Call `refuse` for files, for all files in folders, and for their names."""
    for path in paths:
        for file in sorted(Path(path).rglob("*")) if Path(path).is_dir() else [Path(path)]:
            refuse(str(file).encode(errors="surrogateescape"), "the name of a file to be delivered")
            if file.is_file() and file.stat().st_size <= _LARGEST:
                refuse(file.read_bytes(), str(file))


def redacted(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """A text in which *** replaces the values of secret variables."""
    for forms in _secrets(environment).values():
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form.decode(errors="surrogateescape"), "***")
    return text


def _secrets(environment: Mapping[str, str]) -> dict[str, set[bytes]]:
    """For each secret variable, the forms in which its value can be in a file."""
    forms_by_name: dict[str, set[bytes]] = {}
    for name, value in environment.items():
        values = [value.strip(), *value.split("\n")] if _NAME.search(name) else []  # a key may have several lines
        values += [word for password in _PASSWORD_IN_ADDRESS.findall(value) for word in (password, unquote(password))]
        forms = {form for text in values if len(text) >= _SHORTEST and text[:5] != "-----" for form in _encodings(text)}
        if forms:
            forms_by_name[name] = forms
    return forms_by_name


def _encodings(value: str) -> Iterator[bytes]:
    """A value itself, and as it is written in JSON, HTML, addresses, comments and base64."""
    quoted = {quote(value), quote(value, safe=""), quote_plus(value)}
    texts = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], html.escape(value)}
    texts |= quoted | {re.sub("%..", lambda match: match[0].lower(), text) for text in quoted}
    texts |= {re.sub("^`|`$|^<code>|</code>$", "", code(value))}
    yield from (text.encode(errors="surrogateescape") for text in texts)
    raw = value.encode(errors="surrogateescape")
    for before in range(3):  # base64 depends on the number of bytes before, modulo 3
        end = (before + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * before + raw)[-(-before * 8 // 6) : end]
