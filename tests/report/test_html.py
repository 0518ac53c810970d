"""The page: whole, self-contained, and nothing in it is taken for markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from vlmend.report import Report, render, write
from vlmend.report.content import cards
from vlmend.report.html import headline
from vlmend.report.words import printable

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


def test_nothing_is_loaded_from_elsewhere(report: Report) -> None:
    page = render(report)
    parsed = Page(page)
    assert parsed.resources, "pictures are part of the page"
    assert all(address.startswith(("data:", "#case-")) for address in parsed.resources)
    assert not re.search(r"url\(|@import|<script|<link", page)


def test_every_answer_of_every_case_is_on_the_page(report: Report) -> None:
    text = Page(render(report)).text
    for proof in report.proofs:
        for record in proof.records:
            for words in (record.question, record.before, record.after or "(nothing)"):
                assert words in text


def test_a_card_shows_what_is_right_and_what_went_wrong(report: Report) -> None:
    kettle, markup = cards(report)
    assert (kettle.said.answer, kettle.said.passed, kettle.right) == ("crimson", False, "teal")
    assert [(verdict.answer, verdict.passed) for verdict in kettle.after] == [("teal", True), ("crimson", False)]
    rephrased, locality = kettle.probes
    assert rephrased.picture is None or rephrased.kind == "text_generality"
    assert [verdict.passed for verdict in locality.after] == [False, True]
    assert markup.probes == (), "a probe with an empty question was not asked"


def test_a_made_up_target_is_not_called_right(report: Report) -> None:
    made_up = replace(report.cases[0], counterfactual=True)
    page = render(replace(report, cases=(made_up, report.cases[1])))
    assert page.count("<dt>made-up target</dt>") == 1
    assert page.count("<dt>right</dt>") == 1
    assert [card.counterfactual for card in cards(replace(report, cases=(made_up,)))] == [True]


def test_control_characters_of_an_answer_are_not_obeyed() -> None:
    assert printable("red\x1b[2Jcup\n") == "red\ufffd[2Jcup\n"


def test_only_so_many_cases_get_a_card(report: Report) -> None:
    assert [card.id for card in cards(report, most=1)] == ["kettle"]


def test_what_was_run_is_in_the_head(report: Report) -> None:
    text = Page(render(report)).text
    facts = ("toy", "0123456789ab", "steps=15, lr=0.0002, modules=mlp.down", "Seed", "0.50 s per edit", "310 MB")
    for fact in (*facts, report.command, report.created):
        assert fact in text
    assert "norm_limit" not in text


def test_headline_counts_free_generation(report: Report) -> None:
    ft, null = report.proofs
    assert headline(ft) == (
        "ft: 2 of 2 corrected questions are answered right (before: 0); 1 of 1 in other words (before: 0); "
        "1 of 1 unrelated answers changed."
    )
    assert "0 of 2 corrected questions" in headline(null)
    assert "0 of 1 unrelated answers changed" in headline(null)


def test_what_must_stay_nearby_is_counted_apart_from_what_is_unrelated(report: Report) -> None:
    ft = report.proofs[0]
    near = [replace(record, kind="same_image_locality") for record in ft.records if record.kind == "image_locality"]
    follows = [replace(record, kind="portability") for record in ft.records if record.kind == "text_generality"]
    more = replace(ft, records=(*ft.records, *near, *follows))
    assert headline(more).endswith(
        "1 of 1 follow-up questions (before: 0); 1 of 1 unrelated answers changed; 1 of 1 nearby answers changed."
    )


def test_same_report_gives_same_page(report: Report) -> None:
    assert render(report) == render(report)


def test_small_pictures_keep_their_pixels(report: Report) -> None:
    page = render(report)
    assert 'class="main pixels" src="data:image/png;base64,' in page
    assert "image-rendering: pixelated" in page


def test_write_makes_the_folder(report: Report, tmp_path: Path) -> None:
    path = write(report, tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == render(report)


def test_many_editors_get_a_wider_page(report: Report) -> None:
    many = replace(report, proofs=tuple(replace(report.proofs[0], method=f"ft{number}") for number in range(7)))
    assert '<body class="many">' in render(many)
    assert "<body>" in render(report)


def test_at_a_glance_probes_are_marked_one_by_one_or_counted(report: Report) -> None:
    several, alone = _glance(render(report)), _glance(render(replace(report, proofs=report.proofs[:1])))
    assert re.findall(r"<th[^>]*>(.*?)</th>", several) == ["Case", "Said", "Target", "ft", "null"]
    assert re.findall(r"\d/\d", several) == ["1/2", "1/2"], "the second case asks no probes"
    assert re.findall(r"<th[^>]*>(.*?)</th>", alone)[-3:] == ["Rel", "T-Gen", "M-Loc"]


def _glance(page: str) -> str:
    (table,) = re.findall(r'<table class="glance">.*?</table>', page, flags=re.DOTALL)
    return table


def test_short_answers_are_not_broken_inside_words(report: Report) -> None:
    (rule,) = re.findall(r"^\.answer \{(.*?)\}", render(report), flags=re.MULTILINE)
    assert "anywhere" not in rule
