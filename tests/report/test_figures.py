"""Figures: every editor and metric is drawn, and files come out whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vlmend.report import Report
from vlmend.report.card import BAD, GOOD, case_figure
from vlmend.report.content import cards
from vlmend.report.figures import DARK, LIGHT, look, metrics_figure, save, svg


def test_one_panel_per_way_of_measuring_and_one_mark_per_editor(report: Report) -> None:
    figure = metrics_figure(report.proofs)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Teacher-forced exact", "Free generation"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before", "ft", "null"]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["Reliability", "Text generality", "Image locality"]


def test_marks_stand_at_the_means(report: Report) -> None:
    proofs = report.proofs[:1]
    filled = [line for line in metrics_figure(proofs).axes[1].lines if line.get_markersize() == 7.5]
    means = [summary.free_exact.after.mean for summary in proofs[0].summary.values()]
    assert [float(line.get_xdata()[0]) for line in filled] == means == [1.0, 1.0, 0.0]


def test_no_two_series_look_alike() -> None:
    assert len({look(number) for number in range(72)}) == 72
    assert len({marker for _, marker in map(look, range(12))}) == 12, "readable in grey, too"


def test_locality_has_no_mark_before(report: Report) -> None:
    figure = metrics_figure(report.proofs[:1])
    rings = [line for line in figure.axes[1].lines if line.get_markersize() == 6 and line.get_marker() == "o"]
    hollow = [line for line in rings if line.get_markerfacecolor() == LIGHT.ground]
    assert len(hollow) == 2, "reliability and text generality"


def test_svg_is_reproducible_and_themed(report: Report) -> None:
    proofs = report.proofs
    light = svg(metrics_figure(proofs, LIGHT), LIGHT)
    assert light == svg(metrics_figure(proofs, LIGHT), LIGHT)
    dark = svg(metrics_figure(proofs, DARK), DARK)
    assert DARK.text.encode() in dark
    assert DARK.text.encode() not in light


def test_a_case_becomes_one_picture(report: Report, tmp_path: Path) -> None:
    card = cards(report)[0]
    path = save(case_figure(card, ["ft", "null"]), tmp_path / "cases" / "kettle.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels == (255, 0, 0)).all(-1).mean() > 0.2, "the case's red picture fills its side"


def test_a_case_without_picture_is_drawn(report: Report, tmp_path: Path) -> None:
    card = cards(report)[1]
    path = save(case_figure(card, ["ft", "null"]), tmp_path / "markup.png")
    assert path.stat().st_size > 0


LONG = ["visual-exemplar", "null"]


def words(figure: Figure) -> dict[str, list[Text]]:
    """What is written in a figure -> the texts that say so."""
    found: dict[str, list[Text]] = {}
    for text in figure.findobj(Text):
        found.setdefault(text.get_text(), []).append(text)
    return found


def test_a_long_name_does_not_run_into_its_answer(report: Report) -> None:
    figure = case_figure(cards(report)[0], LONG)
    found, renderer = words(figure), FigureCanvasAgg(figure).get_renderer()
    (label,) = found["after visual-exemplar"]
    answers = [text for text in found["teal\u2002✓"] if text.get_color() == GOOD]
    assert label.get_window_extent(renderer).x1 + 5 < answers[0].get_window_extent(renderer).x0


def test_each_mark_of_a_case_stands_under_its_editor_in_its_own_colour(report: Report) -> None:
    found = words(case_figure(cards(report)[0], LONG))
    heads = [found[name][0].get_position()[0] for name in LONG]
    assert {text.get_color() for text in found["✓"]} == {GOOD}
    assert {text.get_color() for text in found["✗"]} == {BAD}
    passed, failed = (sorted(text.get_position()[0] for text in found[mark]) for mark in "✓✗")
    assert heads[0] - passed[0] == pytest.approx(heads[1] - passed[-1])
    assert failed == passed, "each passes one of the two probes and fails the other"


def test_a_case_says_what_its_probes_short_names_mean(report: Report) -> None:
    found = words(case_figure(cards(report)[0], LONG))
    assert {"T-Gen", "the same question in other words", "M-Loc", "an unrelated picture and question"} <= set(found)
    assert "O-Gen" not in found, "only of probes that were asked"
