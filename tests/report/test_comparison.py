"""Editors side by side: what is measured stands in its cell, on the page and on the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from vlmend.cli.tables import Comparison
from vlmend.evaluation.overall import SCORES, overall
from vlmend.evaluation.proof import Proof
from vlmend.report import Report, render
from vlmend.report.comparison import compared, sections
from vlmend.report.words import gain, nats


def with_premises(proof: Proof) -> Proof:
    """The same proof with a recognised portability probe and one that is not, on made-up targets."""
    like = next(record for record in proof.records if record.kind == "text_generality")
    made_up = replace(like, case="made up", kind="portability", counterfactual=True)
    more = [replace(made_up, recognised=recognised) for recognised in (True, False)]
    kept = [replace(record, kl=0.25) if record.kind.endswith("_locality") else record for record in proof.records]
    return replace(proof, records=(*kept, *more))


@pytest.fixture
def proofs(report: Report) -> tuple[Proof, ...]:
    return tuple(map(with_premises, report.proofs))


def shown(proofs: tuple[Proof, ...], width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, emoji=False, markup=False).print(Comparison(proofs))
    return out.getvalue()


def test_lines_are_in_the_order_of_kinds_with_gated_ones_below(proofs: tuple[Proof, ...]) -> None:
    lines = compared([proof.summary for proof in proofs])
    assert [(line.kind.short, line.gated, line.first.n) for line in lines] == [
        ("Rel", False, 2),
        ("T-Gen", False, 1),
        ("Port", False, 2),
        ("Port", True, 1),
        ("M-Loc", False, 1),
    ]
    assert [cell.score.after.mean for cell in lines[0].cells if cell] == [1.0, 0.0]


def test_an_editor_that_did_not_measure_a_kind_has_an_empty_cell(report: Report) -> None:
    short = replace(report.proofs[1], records=report.proofs[1].records[:1])
    lines = compared([short.summary, report.proofs[0].summary])
    assert [line.cells[0] is None for line in lines] == [False, True, True]
    assert lines[1].first.n == 1
    assert "–" in shown((short, report.proofs[0]))


def test_natural_errors_and_made_up_targets_have_sections(report: Report, proofs: tuple[Proof, ...]) -> None:
    assert sections(report.proofs) == []
    titles = [section.title for section in sections(proofs)]
    assert titles == ["The model's errors: the target is the truth", "Made-up targets: the model was right before"]
    text = shown(proofs)
    page = render(replace(report, proofs=proofs, cases=()))
    for title in titles:
        assert title in text
        assert title.replace("'", "&#39;") in page


def test_groups_of_cases_have_sections_of_their_own(proofs: tuple[Proof, ...], report: Report) -> None:
    first = proofs[0].records[0].case
    one, *others = sections(proofs, {"kind: count": [first], "kind: none": ["nowhere"]})
    assert (one.title, others) == ("kind: count", [])
    of_it = [record for record in proofs[0].records if record.case == first]
    assert one.lines[0].first.n == sum(record.kind == "reliability" for record in of_it)
    assert one.gain.scores[0] == overall(of_it, SCORES["gain"])
    page = render(replace(report, proofs=proofs, cases=(), groups={"kind: count": [first]}))
    assert page.count("kind: count") == 2
    assert "Made-up targets" not in page


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_nothing_is_cut_off_at_any_width(proofs: tuple[Proof, ...], width: int) -> None:
    text = shown(proofs * 3, width)
    assert "…" not in text
    assert ("Intervals, gains and costs: in the report" in text) == (width < 150)
    assert ("[34–100]" in text) == (width > 150)
    assert all(len(line) <= width for line in text.splitlines())


def test_terminal_shows_scores_gains_and_divergence(proofs: tuple[Proof, ...]) -> None:
    lines = shown(proofs).splitlines()
    rel = next(line for line in lines if "Reliability (Rel)" in line)
    assert "100 [34–100]" in rel
    assert "+100 [+34, +100]" in lines[lines.index(rel) + 1]
    loc = next(line for line in lines if "Image locality (M-Loc)" in line)
    assert "KL 0.25" in lines[lines.index(loc) + 1]
    text = "".join(lines)
    assert "Port where recognised" in text
    assert "0.50" in text
    assert "310" in text


def test_terminal_table_fits_eighty_columns(proofs: tuple[Proof, ...]) -> None:
    text = shown(proofs, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "+100 [+34, +100]" in text


def test_page_says_whose_score_it_is(report: Report, proofs: tuple[Proof, ...]) -> None:
    page = render(replace(report, proofs=proofs, cases=()))
    assert "Free generation, after one edit each" in page
    assert proofs[0].protocol.counts in page
    assert "KL 0.25" in page
    assert "where the unedited model gets right what it rests on" in page


def test_words(proofs: tuple[Proof, ...]) -> None:
    summary = proofs[0].summary["reliability"]
    assert gain(summary.score.gain) == "+100 [+34, +100]"
    assert nats(None) == nats(summary.kl) == ""
    kept = proofs[0].summary["image_locality"].kl
    assert kept is not None
    assert nats(kept) == "KL 0.25"
    assert [nats(replace(kept, mean=mean)) for mean in (1e-9, 0.00125, 104.2)] == ["KL 0", "KL 0.0013", "KL 104"]
