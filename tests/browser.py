"""Headless Chromium over its DevTools protocol, through pipes: no port, no driver package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_SECONDS = 60.0


def find_chromium() -> str:
    """The command of Chromium. Without one, the test is skipped; in CI it fails."""
    command = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if command is None:
        message = "no chromium here: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return command


class Browser:
    """A running Chromium and its events; `open` opens a page."""

    def __init__(self, chromium: str, profile: Path) -> None:
        # The browser reads from descriptor 3 and writes to 4. Our ends must have other numbers before they are moved.
        reads, self._to = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())
        self._from, writes = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe())

        def move() -> None:
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        flags = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars"]
        flags += ["--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}"]
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [chromium, *flags, "about:blank"],
            preexec_fn=move,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._number, self._rest = 0, b""
        self._messages: deque[dict[str, Any]] = deque()
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._to, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command; events that arrive before it are stored."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, path: Path, width: int = 1200, height: int = 900) -> Page:
        """Load a file in a new page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, path, width, height)

    def _receive(self) -> dict[str, Any]:
        while not self._messages:
            if not select.select([self._from], [], [], _SECONDS)[0]:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise RuntimeError(f"Chromium ended with status {self._process.wait()}")
            *messages, self._rest = (self._rest + data).split(b"\0")
            self._messages += map(json.loads, messages)
        return self._messages.popleft()


class Page:
    """A page: run code in it, click, type, and read its errors and requests."""

    def __init__(self, browser: Browser, session: str, path: Path, width: int, height: int) -> None:
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def value(self, expression: str) -> Any:
        """The value of an expression; a promise is awaited."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.02)

    def texts(self, selector: str) -> list[str]:
        """The visible text of all elements that match."""
        return list(self.value(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.innerText)"))

    def click(self, selector: str) -> None:
        """Press and release the mouse on the first element that matches."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"{element}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def type(self, selector: str, text: str) -> None:
        """Type a text at the end of a field."""
        self.click(selector)
        self._call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a list. Not by the mouse, since the system draws the menu."""
        field = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('change'))")

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=27)

    def emulate(self, **features: str) -> None:
        """Emulate media features such as prefers_color_scheme="dark", or media="print"."""
        media = features.pop("media", "")
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._call("Emulation.setEmulatedMedia", media=media, features=named)

    def screenshot(self, path: Path) -> None:
        """Save the complete page as PNG."""
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.value("new Promise((done) => setTimeout(done, 50))")  # events of this time arrive before the answer
        mine = (event for event in self._browser.events if event.get("sessionId") == self._session)
        return [event["params"] for event in mine if event["method"] == method]

    def complaints(self) -> list[str]:
        """Errors, warnings, violations of the policy and dialogs."""
        messages = [event["exceptionDetails"]["text"] for event in self._events("Runtime.exceptionThrown")]
        messages += [
            str(event) for event in self._events("Runtime.consoleAPICalled") if event["type"] in ("error", "warning")
        ]
        messages += [
            event["entry"]["text"] for event in self._events("Log.entryAdded") if event["entry"]["level"] != "verbose"
        ]
        return messages + [f"dialog: {event['message']}" for event in self._events("Page.javascriptDialogOpening")]

    def requests(self) -> list[str]:
        """The requested addresses, without data: URLs; the file itself is the first."""
        urls = [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")]


def opened_whole(browser: Browser, path: Path, **size: int) -> Page:
    """Open a page and draw all its charts, which are otherwise drawn when they come into view."""
    page = browser.open(path, **size)
    page.wait("document.documentElement.dataset.ready === 'yes'")
    page.value("document.querySelectorAll('.vega').forEach((one) => one.scrollIntoView())")
    page.wait("document.documentElement.dataset.drawn === 'yes'")
    return page


def require_clean(page: Page, path: Path, width: int) -> None:
    """Require no error, no request but the file, no horizontal scrolling, no text under 12 pixels outside charts."""
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]
    assert page.value("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('main *')].filter((one) => one.childElementCount === 0 && one.innerText"
    small += " && !one.closest('svg') && parseFloat(getComputedStyle(one).fontSize) < 12).length"
    assert page.value(small) == 0


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """A Chromium with a fresh profile."""
    chromium = find_chromium()
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(chromium, Path(profile))
        try:
            yield browser
        finally:
            browser.close()
