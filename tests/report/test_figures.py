"""Figures: every editor and metric is drawn, and files come out whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sample import report

from vlmend.report.card import case_figure
from vlmend.report.figures import DARK, LIGHT, metrics_figure, save, svg


def test_one_panel_per_way_of_measuring_and_one_mark_per_editor() -> None:
    figure = metrics_figure(report().editors)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Teacher-forced exact", "Free generation"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["before", "ft", "null"]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["Reliability", "Text generality", "Image locality"]


def test_marks_stand_at_the_means() -> None:
    figure = metrics_figure(report().editors[:1])
    filled = [line for line in figure.axes[1].lines if line.get_marker() == "o" and line.get_markersize() == 7.5]
    assert [float(line.get_xdata()[0]) for line in filled] == [1.0, 1.0, 0.5]


def test_svg_is_reproducible_and_themed() -> None:
    editors = report().editors
    light = svg(metrics_figure(editors, LIGHT), LIGHT)
    assert light == svg(metrics_figure(editors, LIGHT), LIGHT)
    dark = svg(metrics_figure(editors, DARK), DARK)
    assert DARK.text.encode() in dark
    assert DARK.text.encode() not in light


def test_a_case_becomes_one_picture(tmp_path: Path) -> None:
    card = report().cases[0]
    path = save(case_figure(card, ["ft", "null"]), tmp_path / "cases" / "kettle.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert (pixels == (255, 0, 0)).all(-1).mean() > 0.2, "the case's red picture fills its side"


def test_a_case_without_picture_and_with_long_text_is_drawn(tmp_path: Path) -> None:
    card = report().cases[1]
    path = save(case_figure(card, ["ft", "null"]), tmp_path / "markup.png")
    assert path.stat().st_size > 0
