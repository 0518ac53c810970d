"""Figures: every editor and metric is drawn, and files come out whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vlmend.report import Report
from vlmend.report.card import case_figure
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
