"""Chromium without a window, driven by the W3C's WebDriver protocol: HTTP and JSON, so no package of Python's."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
PATIENCE = 120.0
"""Seconds; a machine may be busy with other tests."""
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in WebDriver's JSON


class Browser:
    """A session of the browser; downloads go to the folder `saved`."""

    def __init__(self, connection: HTTPConnection, width: int, height: int, saved: Path) -> None:
        self._connection, self._path, self.saved = connection, "/session", saved
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"]
        flags += ["--disable-background-networking", f"--window-size={width},{height}", "--hide-scrollbars"]
        # What a user answers to "this page wants to download several files".
        several = {"profile.default_content_setting_values.automatic_downloads": 1}
        prefs = {"download.default_directory": str(saved), **several}
        options = {"binary": CHROMIUM, "args": flags, "prefs": prefs}
        if width < 500:  # a window is never made so narrow, but a phone's can be shown
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1}}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        }
        session = self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._path = f"/session/{session['sessionId']}"

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        content = json.dumps(body) if method == "POST" else None
        self._connection.request(method, self._path + path, content, {"Content-Type": "application/json"})
        value = json.loads(self._connection.getresponse().read())["value"]
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(value["message"])
        return value

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript, the body of a function, on the page; return what it returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def until(self, condition: str) -> Any:
        """Wait until an expression is true on the page; return its value."""
        try:
            return self.wait(lambda: self.run(f"return {condition}"))
        except TimeoutError:
            told = self.run("return document.body.innerText")
            raise AssertionError(f"never true: {condition}; the page says: {told}") from None

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until a function returns what is true; return that."""
        ends = time.monotonic() + PATIENCE
        while not (value := condition()):
            if time.monotonic() > ends:
                raise TimeoutError
            time.sleep(0.05)
        return value

    def element(self, selector: str) -> str:
        return self._ask("POST", "/element", {"using": "css selector", "value": selector})[_ELEMENT]

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self.element(selector)}/click", {})

    def keys(self, selector: str, text: str) -> None:
        """Type into an element; into a file input, paths."""
        self._ask("POST", f"/element/{self.element(selector)}/value", {"text": text})

    def drag(self, selector: str, points: list[tuple[int, int]]) -> None:
        """Press the mouse at the first point, from the middle of an element, and move it along the others."""
        origin = {_ELEMENT: self.element(selector)}
        moves = [{"type": "pointerMove", "origin": origin, "x": x, "y": y, "duration": 20} for x, y in points]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self._ask("POST", "/actions", {"actions": [pointer]})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def requested(self) -> list[str]:
        """The addresses that the page has asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What the browser has written on its console, such as what the page's policy forbade."""
        return [entry["message"] for entry in self._log("browser")]

    def _log(self, kind: str) -> Any:
        return self._ask("POST", "/se/log", {"type": kind})

    def close(self) -> None:
        self._ask("DELETE", "")


@contextmanager
def browser(saved: Path, width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """Start the browser in a process of its own, and end it."""
    assert DRIVER is not None
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            port = next(
                int(found[1]) for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line))
            )
            session = Browser(HTTPConnection("127.0.0.1", port, timeout=120), width, height, saved)
            try:
                yield session
            finally:
                session.close()
        finally:
            driver.terminate()
