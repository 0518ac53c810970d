"""The figure of sequential edits: equal curves are all seen, and every panel says what it counts along."""

from __future__ import annotations

import pytest

from vlmend.evaluation.sequence import Point
from vlmend.report.sequence import sequence_figure

WHOLE = {"mean": 1.0, "low": 0.6, "high": 1.0, "n": 6}
KINDS = ("reliability", "text_generality", "image_generality", "text_locality")
EDITORS = ("ft", "lora", "vead-memory")


def point(edits: int) -> Point:
    return Point(
        edits=edits,
        failed=0,
        cases=edits,
        retained={kind: {"score": {"after": WHOLE}} for kind in KINDS},
        held_out={},
        seconds_per_edit=0.1,
        seconds_per_query=None,
        bytes_per_edit=1000.0,
        finite=True,
    )


@pytest.fixture
def panels():
    figure = sequence_figure({name: [point(1), point(3), point(6)] for name in EDITORS})
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def test_equal_curves_do_not_hide_one_another(panels):
    for axes in panels:
        marks = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert len(marks) == len(EDITORS)
        places = sorted(place for line in marks for place in line.get_xdata())
        assert len(set(places)) == len(EDITORS) * 3
        near = [min((1, 3, 6), key=lambda count: abs(count - place)) for place in places]
        assert near == [1] * 3 + [3] * 3 + [6] * 3, "each stands nearest to its own number of edits"


def test_every_panel_has_its_numbers_of_edits(panels):
    assert len(panels) == len(KINDS)
    for axes in panels:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "3", "6"]
        assert all(label.get_visible() for label in axes.get_xticklabels())
        assert axes.get_xlabel() == "edits one after another"
