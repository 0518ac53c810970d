"""The page: whole, self-contained, and nothing in it is taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from sample import report

from vlmend.report import render, write
from vlmend.report.html import headline

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text and resource addresses; fails on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.resources += [value or "" for name, value in attrs if name in {"src", "srcset", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = render(report())
    parsed = Page(page)
    assert parsed.resources, "pictures are part of the page"
    assert all(address.startswith(("data:", "#case-")) for address in parsed.resources)
    assert not re.search(r"url\(|@import|<script|<link", page)


def test_every_answer_of_every_case_is_on_the_page() -> None:
    text = Page(render(report())).text
    for card in report().cases:
        answers = [card.question, card.wrong, card.right, *(verdict.answer for verdict in card.after)]
        for probe in card.probes:
            answers += [probe.question, probe.before, *(verdict.answer for verdict in probe.after)]
        for answer in answers:
            assert answer in text
    assert "(nothing)" in text, "an empty answer is said to be empty"


def test_what_was_run_is_in_the_head() -> None:
    text = Page(render(report())).text
    for fact in ("toy", "steps=15", "Seed", "vlmend bench toy cases.json --editors ft,null", "2026-01-02 03:04"):
        assert fact in text


def test_headline_counts_free_generation() -> None:
    ft, null = report().editors
    assert headline(ft) == (
        "ft: 2 of 2 corrected questions are answered right (before: 0); 2 of 2 in other words (before: 0); "
        "2 of 4 unrelated answers changed."
    )
    assert "0 of 2 corrected questions" in headline(null)


def test_same_report_gives_same_page() -> None:
    assert render(report()) == render(report())


def test_small_pictures_keep_their_pixels() -> None:
    page = render(report())
    assert 'class="main pixels" src="data:image/png;base64,' in page
    assert "image-rendering: pixelated" in page


def test_write_makes_the_folder(tmp_path: Path) -> None:
    path = write(report(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == render(report())
