"""The same edits under several rulers: what each counts, and what it is misled by."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from vlmend.editors.base import editor
from vlmend.evaluation.editing import compare
from vlmend.evaluation.proof import Proof
from vlmend.report.figures import svg
from vlmend.report.rulers import RULERS, ruled, rulers_figure

TITLES = [ruler.title for ruler in RULERS]


@pytest.fixture(scope="module")
def proofs(tiny, cases) -> list[Proof]:
    editors = [editor("null"), editor("parrot"), editor("oracle")]
    return list(compare(tiny("llava"), editors, cases, max_new_tokens=6))


def by_title(proofs, method):
    (one,) = [one for one in ruled(proofs) if one.method == method]
    return dict(zip(TITLES, (score.mean for score in one.scores), strict=True))


def test_only_gains_tell_an_editor_that_does_nothing_from_one_that_mends(proofs):
    idle, knowing = by_title(proofs, "null"), by_title(proofs, "oracle")
    assert idle["Gain over the base, near misses among the probes"] == 0.0
    assert idle["EasyEdit's score"] >= 0.4  # all that must stay stays
    assert knowing["Gain over the base, near misses among the probes"] > 0.2
    assert [one.method for one in ruled(proofs)].index("oracle") == 0


def test_scores_are_means_over_kinds_of_the_records(proofs):
    (parrot,) = [proof for proof in proofs if proof.method == "parrot"]
    kinds = {}
    for record in parrot.records:
        if record.kind in ("reliability", "text_generality", "image_generality", "text_locality", "image_locality"):
            kinds.setdefault(record.kind, []).append(record.free_exact_after)
    mean = sum(sum(some) / len(some) for some in kinds.values()) / len(kinds)
    assert by_title(proofs, "parrot")["Free generation"] == pytest.approx(mean)


def test_what_the_model_does_not_recognise_does_not_count_against_an_editor(proofs):
    records = [replace(record, recognised=record.kind == "reliability") for record in proofs[2].records]
    some = [replace(proofs[2], records=tuple(records))]
    rel = [record.free_exact_after - record.free_exact_before for record in records if record.kind == "reliability"]
    assert by_title(some, "oracle")["The same, where recognised"] == pytest.approx(sum(rel) / len(rel))


def test_the_figure_has_a_mark_for_every_score_and_does_without_answers(proofs, tiny, cases):
    figure = rulers_figure(proofs)
    (axes,) = figure.axes
    marks = [line for line in axes.lines if line.get_marker() in ("o", "D", "s", "^", "v") and len(line.get_xdata())]
    assert len(marks) == len(proofs) * len(RULERS)
    named = [text.get_text().split("\n") for text in figure.legends[0].get_texts()]
    assert [title for title, _ in named] == TITLES
    assert all(says for _, says in named), "every ruler says what it counts"
    forced = compare(tiny("llava"), [editor("null")], cases[:1], protocol="legacy", max_new_tokens=0)
    assert svg(rulers_figure(forced))  # free answers have no score


def test_marks_of_an_editor_do_not_cover_one_another(proofs):
    figure = rulers_figure(proofs)
    figure.canvas.draw()
    (axes,) = figure.axes
    marks = [line for line in axes.lines if line.get_marker() in ("o", "D", "s", "^", "v")]
    heights = sorted(axes.transData.transform((0, line.get_ydata()[0]))[1] for line in marks if len(line.get_ydata()))
    points = [(later - earlier) * 72 / figure.dpi for earlier, later in itertools.pairwise(heights)]
    assert min(points) >= 6.5
