"""The built site, as a reader meets it: in a browser, on a phone, in the dark, offline."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from filelock import FileLock

import vitreg
import vitreg.plot
from browser import Tab, launch, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

BRIGHT, DARK = 0.9, 0.05
"""A page is bright above the one and dark below the other, in relative luminance."""

SEARCHES = {
    "GTA": {"methods/gta.html", "api/penalties.html"},
    "L2-SP": {"methods/l2sp.html"},
    "BSS": {"methods/bss.html", "api/penalties.html"},
    "TransMix": {"methods/transmix.html", "api/train.html"},
    "freeze": {"methods/freeze.html", "api/train.html"},
    "feature guide": {"methods/feature-guide.html"},
    "attach": {"api/attach.html"},
    "early stopping": {"howto/result.html"},
    "imbalance": {"howto/result.html"},
    "linear probe": {"howto/linear-probe.html"},
    "citation": {"index.html"},
    "ONNX": {"howto/use-your-model.html"},
    "deploy": {"howto/use-your-model.html"},
    "HEIC": {"howto/folders.html"},
}
"""What is typed into the search field, and the pages that must all be among the first three found."""

OpenTab = Callable[..., Tab]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built site; whichever test process comes first builds it for all."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not folder.exists():
            build(shared / "unfinished-site").rename(folder)
    return folder


def build(folder: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> list[str]:
    """Return the pages' addresses within the site."""
    found = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    assert {"index.html", "methods/gta.html", "api/index.html", "support.html"} <= set(found)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch() as browser:
        yield browser


@pytest.fixture(scope="module")
def open_tab(browser: Browser, site: Path) -> Iterator[OpenTab]:
    """Return a function that opens a tab on the site; its options describe the screen."""
    with serve(site) as address:
        yield partial(Tab, browser, address)


def test_pages_are_complete(site: Path, pages: list[str]) -> None:
    for page in pages:
        text = (site / page).read_text()
        assert "merror" not in text, f"{page} has a formula that is no formula"
        assert 'class="arithmatex"' not in text, f"{page} has a formula that was not converted"
        assert "doc-symbol-module" not in text, f"{page} shows a module, not its namesake"
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]*)"', text)
        assert not loaded, f"{page} loads {loaded}"


class Links(HTMLParser):
    """What a page links to or loads, and the ids that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.links.append(value)
            elif value and (key == "id" or (tag == "a" and key == "name")):
                self.ids.add(value)


def test_links_lead_somewhere(site: Path, pages: list[str]) -> None:
    read = {page: Links((site / page).read_text()) for page in pages}
    broken = []
    for page, found in read.items():
        for link in dict.fromkeys(found.links):
            if urlsplit(link).scheme:
                continue
            path, anchor = map(unquote, urldefrag(urljoin(page, link)))
            if page == "404.html":  # shown for any address, so its links start at the root
                path = path.removeprefix("/") or "index.html"
            exists = not path.startswith("/") and (site / path).is_file()
            if not exists or (anchor and path in read and anchor not in read[path].ids):
                broken.append(f"{page}: {link}")
    assert sum(len(found.links) for found in read.values()) > 20 * len(pages)
    assert not broken, "\n".join(broken)


def test_search_index_knows_every_name(site: Path) -> None:
    sections = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    titles = {html.unescape(re.sub(r"<code>.*?</code>|<[^>]*>", "", s["title"])).strip() for s in sections}
    names = {*vitreg.__all__, *vitreg.functional.__all__, *vitreg.measure.__all__, *vitreg.plot.__all__}
    assert names - {"__version__"} - titles == set()


WRONG = """<!doctype html><article style="width: 300px; overflow: hidden">
<p style="color: #888">pale</p>
<p style="color: black; opacity: 0.4">faint</p>
<p style="font-size: 9px">tiny</p>
<table style="width: 600px"><tr><td>cut</table>
<div style="overflow: auto"><table style="width: 600px"><tr><td>scrolls</table></div>
<img src="missing.png" alt="missing" style="background: white">
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" style="background: white">
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="on nothing">
<script>console.warn("careful"); throw Error("thrown")</script>
<script src="http://example.invalid/"></script>
</article>
<div style="width: 500px">wider than the phone</div>"""

FOUND = {
    "the page is 508 px wide",
    'contrast 3.54 of <p> "pale"',
    'contrast 2.85 of <p> "faint"',
    '9 px: <p> "tiny"',
    'sticks out: <table> "cut"',
    "not loaded: missing.png",
    "HTTP 404: missing.png",
    "no text for data:",
    "no background: data:",
    "console warning: careful",
    "uncaught: thrown",
    "asks another host: http://example.invalid/",
}


def test_what_is_wrong_is_found(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "wrong.html").write_text(WRONG)
    with serve(tmp_path) as address:
        tab = Tab(browser, address, viewport=PHONE)
        tab.open("wrong.html")
        for call in ("pale()", "small()", "wide()", "pictures()"):
            tab.check(call)
        tab.open("nowhere.html")
        found = {problem.replace(address, "") for problem in tab.problems}
        with pytest.raises(AssertionError, match="careful"), tab:
            pass
    missed = {wrong for wrong in FOUND if not any(f"wrong.html: {wrong}" in problem for problem in found)}
    assert missed == set(), "\n".join(sorted(found))
    assert "nowhere.html: HTTP 404" in found
    assert not any("scrolls" in problem for problem in found)


def test_pages_on_a_desktop(open_tab: OpenTab, pages: list[str]) -> None:
    with open_tab(viewport=DESKTOP) as tab:
        for page in pages:
            tab.open(page)
            if not re.fullmatch(r".+ - vitreg|vitreg", tab.page.title()):
                tab.note(f"title {tab.page.title()!r}")
            if tab.page.locator("article h1").count() != 1:
                tab.note("not one heading of the first level")
            tab.check("pictures()")
            tab.check("pale()")


def test_pages_on_a_phone_in_the_dark(open_tab: OpenTab, pages: list[str]) -> None:
    with open_tab(viewport=PHONE, color_scheme="dark") as tab:
        for page in pages:
            tab.open(page)
            tab.check("wide()")
            tab.check("small()")
            if tab.look("brightness()") > DARK:
                tab.note("not dark")
            tab.check("pictures()")
            tab.check("pale()")


def test_switch_to_the_dark(open_tab: OpenTab) -> None:
    with open_tab(viewport=DESKTOP, color_scheme="light") as tab:
        tab.open("index.html")
        assert tab.look("brightness()") > BRIGHT
        tab.page.locator("label[title='Dark mode']").click()
        assert tab.becomes(f"look.brightness() < {DARK}")
        tab.check("pale()")
        tab.open("tour.html")  # which remembers it
        assert tab.becomes(f"look.brightness() < {DARK}")
        tab.page.locator("label[title='Light mode']").click()
        assert tab.becomes(f"look.brightness() > {BRIGHT}")


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_search_finds(open_tab: OpenTab, screen: dict[str, int]) -> None:
    with open_tab(viewport=screen, search=True) as tab:
        tab.open("index.html")
        if screen == PHONE:
            tab.page.locator("label.md-header__button[for='__search']").click()
        field = tab.page.locator("input.md-search__input")
        for words, expected in SEARCHES.items():
            field.clear()
            field.press_sequentially(words)
            if not tab.becomes(f"{sorted(expected)}.every((page) => look.found().includes(page))"):
                tab.note(f"{words!r} finds {tab.look('found()')}, not {sorted(expected)}")


def test_the_support_table_is_searched(open_tab: OpenTab) -> None:
    with open_tab(viewport=DESKTOP) as tab:
        tab.open("support.html")
        every = tab.page.locator("article tbody tr:has(code)").count()
        rows = tab.page.locator("article tbody tr:has(code):visible")
        status = tab.page.get_by_role("status")
        assert every > 900
        for typed in ("", "deit3", "BASE naflex", "no such model"):
            tab.page.locator("input.filter").fill(typed)
            shown = rows.all_text_contents()
            assert bool(shown) == (typed in ("deit3", "BASE naflex"))
            for row in shown:
                assert all(word in row.lower() for word in typed.lower().split()), row
            assert status.text_content() == (
                f"{len(shown)} of {every} rows" if typed else f"{every} rows: type a part of a name"
            )
            if not shown:  # the overview is left; no table is left empty, and no heading without one
                assert tab.page.locator("article table:visible").count() == 1
                assert tab.page.locator("article h2:visible").count() == 0
        tab.open("support.html?h=deit3")  # from the site's search
        assert 0 < rows.count() < 50
