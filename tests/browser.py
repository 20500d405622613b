"""A headless Chromium that opens the built site, and what goes wrong while it does."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOOK = Path(__file__).with_name("look.js")
"""The measurements, as functions of the page: `look.wide()`, …"""

NO_SEARCH = "Worker = class extends EventTarget { postMessage() {} terminate() {} };"

NAMES = ("chromium", "google-chrome")
REMEDY = 'needs Chromium: apt-get install chromium, and pip install -e ".[test]"'


class _Handler(SimpleHTTPRequestHandler):
    """One that prints nothing and lets the browser keep what all pages share."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder from a thread; the address ends in a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def needed() -> bool:
    """Whether a missing browser is a failure: so in the continuous integration."""
    return os.environ.get("VITREG_NEEDS_BROWSER") == "1"


@contextlib.contextmanager
def launch() -> Iterator[Browser]:
    """Start the installed Chromium; skip the test, or fail if a browser is needed, where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        path = None
    if path is None:
        (pytest.fail if needed() else pytest.skip)(REMEDY)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page of the browser that writes down what goes wrong on the pages of one site.

    Args:
        browser: The browser.
        address: The site's address, with a slash at its end.
        search: Whether each page reads the search index, which takes half of its time.
        options: The screen: `viewport`, `color_scheme`, ….
    """

    def __init__(self, browser: Browser, address: str, *, search: bool = False, **options: Any) -> None:
        self.address = address
        self.problems: list[str] = []
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.context.add_init_script(path=LOOK)
        if not search:
            self.context.add_init_script(NO_SEARCH)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)  # milliseconds
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.note(f"uncaught: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", self._asked)
        self.page.on("response", self._answered)

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Close the tab; what was written down fails the test."""
        self.context.close()
        if kind is None:
            assert not self.problems, "\n".join(self.problems)

    def note(self, problem: str) -> None:
        """Write down a problem of the page that is open."""
        self.problems.append(f"{self.page.url.removeprefix(self.address)}: {problem}")

    def open(self, name: str) -> None:
        """Go to a page of the site and wait until it is loaded."""
        answer = self.page.goto(self.address + name, wait_until="load")
        if answer is None or answer.status != 200:
            self.note(f"HTTP {answer and answer.status}")

    def look(self, call: str) -> Any:
        """Return what a measurement says, such as `"wide()"`."""
        return self.page.evaluate(f"look.{call}")

    def check(self, call: str) -> None:
        """Write down what a measurement finds wrong."""
        for problem in self.look(call):
            self.note(problem)

    def becomes(self, expression: str) -> bool:
        """Whether a JavaScript expression turns true within a while."""
        from playwright.sync_api import TimeoutError

        try:
            self.page.wait_for_function(expression)
        except TimeoutError:
            return False
        return True

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.note(f"console {message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.note(f"asks another host: {request.url}")

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the next page was opened before
            self.note(f"failed: {request.url}, {request.failure}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.note(f"HTTP {response.status}: {response.url}")
