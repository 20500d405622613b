"""The page that a fine-tuning leaves behind: what it says, and how it looks in a browser."""

from __future__ import annotations

import csv
import itertools
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from browser import Tab, launch, serve
from finetuned import arguments, run
from picture_fixtures import write_class_folders
from vitreg.train.choice import interval
from vitreg.train.page.probabilities import reliability

ODD = "<img src=x onerror=alert(1)>"
"""A class whose name would do something if it were not escaped."""


class Reader(HTMLParser):
    """Collects a page's text, its tags and the addresses that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_one_page_says_it_all_and_loads_nothing(result: Path) -> None:
    page = (result / "report.html").read_text(encoding="utf-8")
    read = Reader(page)
    text = " ".join(" ".join(read.text).split())
    assert read.loaded
    assert all(address.startswith("data:") for address in read.loaded)
    assert "script" not in read.tags
    assert "url(" not in page
    with open(result / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["true"] == row["predicted"] for row in rows]
    low, high = interval(right)
    assert f"{100 * sum(right) / 6:.1f} % of the test pictures (6) are right" in text
    assert f"95 % interval {low:.1f} to {high:.1f} %" in text
    for said in (
        "3 classes (auk, booby, crow), 12 training pictures",
        "linear probe",
        "is delivered: on 12 training pictures",
        "training loss",
        "penalty gta",
        "expected calibration error",
        "vitreg predict out new_pictures",
    ):
        assert said in text
    wrong = [row for row in rows if row["true"] != row["predicted"]]
    assert all(text.count(row["path"]) >= 1 and f"true class: {row['true']}" in text for row in wrong)
    assert text.count("✗") >= len(wrong)
    assert len(page) < 1_500_000


@pytest.mark.slow
def test_it_can_be_read_in_a_browser(weights: Path, tmp_path: Path) -> None:
    data, out = write_class_folders(tmp_path / "birds"), tmp_path / "out"
    for split in ("train", "test"):
        (data / split / "booby").rename(data / split / ODD)
    assert run(*arguments(data, weights, out)) == 0
    with launch() as browser, serve(out) as address:
        for scheme, width in itertools.product(("light", "dark"), (400, 1200)):
            options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            with Tab(browser, address, **options) as tab:
                tab.open("report.html")
                for look in ("pale()", "small()", "wide()", "pictures()"):
                    tab.check(look)
                assert (tab.look("brightness()") > 0.9) == (scheme == "light")
                assert ODD in tab.page.inner_text("article")
                assert tab.page.locator("img[src=x]").count() == 0


def test_the_interval_is_wilsons() -> None:
    for right, total in ((77, 100), (0, 6), (6, 6), (1, 3)):
        p, z = right / total, 1.959963984540054
        middle = (p + z * z / (2 * total)) / (1 + z * z / total)
        half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
        found = interval([True] * right + [False] * (total - right))
        assert found == pytest.approx((100 * (middle - half), 100 * (middle + half)), abs=1e-9)


def test_reliability_against_loops() -> None:
    torch.manual_seed(0)
    shares, labels = (3 * torch.randn(200, 4)).softmax(1).double(), torch.randint(0, 4, (200,)).tolist()
    found = reliability(shares.float(), labels)
    error, bins = 0.0, []
    for place in range(10):
        here = [i for i in range(200) if place / 10 < float(shares[i].max()) <= (place + 1) / 10]
        if here:
            sure = sum(float(shares[i].max()) for i in here) / len(here)
            right = sum(int(shares[i].argmax()) == labels[i] for i in here) / len(here)
            error += len(here) / 200 * abs(sure - right)
            bins.append((place, len(here), sure, right))
    assert found.error == pytest.approx(error, abs=1e-6)
    assert [one[:2] for one in found.bins] == [one[:2] for one in bins]
    for one, expected in zip(found.bins, bins, strict=True):
        assert one[2:] == pytest.approx(expected[2:], abs=1e-6)
    assert "over-confident" in str(found)
