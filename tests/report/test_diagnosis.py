"""Diagnoses: what is found is what the model gives, and the page shows it whole."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import CORE
from vlmend import VLM, Example
from vlmend.attribution.decomposition import Decomposition
from vlmend.attribution.diagnosis import Diagnosis, Token, Weighed, diagnose
from vlmend.errors import AttributionError, PartsError
from vlmend.report.diagnosis_figures import share_figure
from vlmend.report.diagnosis_page import fill, headline, likely, render, sheets, suspicion
from vlmend.report.overlay import overlay
from vlmend.report.words import printable

QUESTION = "what colour is the cup ?"
ANSWER, OTHER = "three birds", "a dog"


@pytest.fixture
def example(picture: Callable[..., Image.Image]) -> Example:
    return Example(QUESTION, picture(3))


@pytest.fixture
def found(llava: VLM, example: Example) -> Diagnosis:
    return diagnose(llava, example, ANSWER, OTHER, layers=[0, 1])


class Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.sources, self.kinds = "", [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds.append(tag)
        self.sources += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def forced(vlm: VLM, example: Example, answer: str) -> list[float]:
    """Log probabilities of an answer's tokens, read off a plain run."""
    (row,) = vlm.run(vlm.prepare([replace(example, answer=answer)])).rows
    values_NV = row.logits_NV[: row.answer_length].log_softmax(-1)
    return [float(values_NV[i, token]) for i, token in enumerate(row.target_N[: row.answer_length])]


def test_probabilities_are_the_models(llava: VLM, example: Example, found: Diagnosis) -> None:
    grey = replace(example, image=Image.new("RGB", example.image.size, (128, 128, 128)))
    for one, answer in zip(found.answers, (ANSWER, OTHER), strict=True):
        assert one.text == answer
        assert [token.seen for token in one.tokens] == pytest.approx(forced(llava, example, answer), abs=1e-5)
        assert [token.grey for token in one.tokens] == pytest.approx(forced(llava, grey, answer), abs=1e-5)
        assert any(abs(token.seen - token.grey) > 1e-4 for token in one.tokens), "the picture counts"
    assert found.seen == pytest.approx(found.answers[0].seen - found.answers[1].seen)
    assert found.said == llava.answer(example.image, QUESTION)


def test_gradients_add_up_to_what_the_picture_changes(found: Diagnosis) -> None:
    (difference,) = found.maps[0].attributions
    assert difference.completeness is not None
    assert difference.completeness.expected == pytest.approx(found.seen - found.grey, abs=1e-4)
    for one, token in zip(found.maps[1:], found.answers[0].tokens, strict=True):
        whole = one.attributions[-1].completeness
        assert whole is not None
        assert whole.expected == pytest.approx(token.seen - token.grey, abs=1e-4)


def test_without_an_answer_it_is_the_models_own(llava: VLM, example: Example) -> None:
    found = diagnose(llava, example, layers=[0], most=1, max_new_tokens=3)
    assert found.said
    assert [one.text for one in found.answers] == [found.said]
    assert len(found.maps) == 1
    if len(found.answers[0].tokens) > 1:
        assert any("first 1 of" in note for note in found.notes)


def test_a_model_that_says_nothing_is_asked_for_its_next_token(
    llava: VLM, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(llava), "generate", lambda *_args, **_more: [""])
    found = diagnose(llava, example, layers=[0])
    (one,) = found.answers
    (token,) = one.tokens
    row = llava.run(llava.prepare([replace(example, answer="a")])).rows[0]
    assert token.seen == pytest.approx(float(row.logits_NV[0].log_softmax(-1).max()), abs=1e-5)


@pytest.mark.parametrize("answer", ["", "   "])
def test_an_answer_without_tokens_is_refused(llava: VLM, example: Example, answer: str) -> None:
    with pytest.raises(AttributionError, match="no tokens"):
        diagnose(llava, example, answer)


def test_what_cannot_be_explained_is_refused(llava: VLM, example: Example) -> None:
    with pytest.raises(AttributionError, match="no picture"):
        diagnose(llava, Example(QUESTION), ANSWER)
    with pytest.raises(AttributionError, match="no difference"):
        diagnose(llava, example, ANSWER, ANSWER)
    with pytest.raises(PartsError, match="no layer 99"):
        diagnose(llava, example, ANSWER, layers=[99])


def test_a_method_that_does_not_fit_is_named(llava: VLM, example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AttributionError("its layers are strange")

    monkeypatch.setattr(Decomposition, "attribute", refuse)
    found = diagnose(llava, example, OTHER, layers=[0])
    assert [one.method for one in found.modules] == ["contributions"]
    assert "decomposition has nothing to say: its layers are strange" in found.notes
    assert "its layers are strange" in Text(render(found, sheets(found), {}, "")).text


def test_a_note_on_every_token_is_one_note(tiny: Callable[..., VLM], example: Example) -> None:
    found = diagnose(tiny("blip2"), example, ANSWER)
    assert len(found.maps) > 1
    (note,) = (note for note in found.notes if note.startswith("integrated-gradients"))
    assert note.startswith("integrated-gradients for " + ", ".join(one.title for one in found.maps) + ": ")


@pytest.mark.parametrize("family", CORE)
def test_every_token_has_a_map_over_the_whole_picture(tiny: Callable[..., VLM], example: Example, family: str) -> None:
    vlm = tiny(family)
    found = diagnose(vlm, example, ANSWER, layers=[0])
    shown = sheets(found)
    assert {sheet.row for sheet in shown} == set(range(len(found.answers[0].tokens)))
    assert all(sheet.image.size == example.image.size for sheet in shown)
    assert len({sheet.name for sheet in shown}) == len(shown)
    noise = [sheet for sheet in shown if sheet.method == "perturbation"]
    if not noise:
        assert any("perturbation is left out" in note for note in found.notes)
    assert {one.method for one in found.modules} == {"decomposition", "contributions"}


def test_several_pictures_have_maps_of_their_own(llava: VLM, picture: Callable[..., Image.Image]) -> None:
    found = diagnose(llava, Example(QUESTION, (picture(1), picture(2, size=(30, 50)))), "red", layers=[0])
    sizes = {sheet.picture: sheet.image.size for sheet in sheets(found)}
    assert sizes == {0: (44, 36), 1: (30, 50)}


def test_the_page_needs_nothing_else_and_shows_all(found: Diagnosis) -> None:
    shown = sheets(found)
    page = render(found, shown, {"Versions": "toy 1"}, "vlmend diagnose toy")
    parsed = Text(page)
    assert all(source.startswith("data:") for source in parsed.sources)
    assert not re.search(r"url\(|@import|<script|<link", page)
    assert parsed.kinds.count("img") == 1 + len(shown) + 2 * 3
    for words in (QUESTION, headline(found), "toy 1", "vlmend diagnose toy", *(one.title for one in found.maps)):
        assert words in parsed.text
    for sheet in shown:
        assert sheet.caption in parsed.text
        assert sheet.signed == (sheet.method == "integrated-gradients"), "colours do not depend on what was found"


def test_markup_in_question_and_answer_is_text(llava: VLM, picture: Callable[..., Image.Image]) -> None:
    found = diagnose(llava, Example("is 1 < 2 & <b>so</b>?", picture(1)), "<i>yes</i>", layers=[0], most=1)
    parsed = Text(render(found, sheets(found), {}, ""))
    assert "i" not in parsed.kinds
    assert parsed.kinds.count("b") == 2, "the page's own"
    assert "is 1 < 2 & <b>so</b>?" in parsed.text
    assert "<i>yes</i>" in parsed.text


def test_the_folder_holds_page_and_figures(found: Diagnosis, tmp_path: Path) -> None:
    shown = sheets(found)
    path = fill(tmp_path / "new", found, shown, {}, "")
    assert path == tmp_path / "new" / "diagnosis.html"
    names = {one.name for one in (tmp_path / "new" / "figures").iterdir()}
    charts = {f"{name}.{end}" for name in ("share", "decomposition", "contributions") for end in ("png", "svg")}
    assert names == charts | {sheet.name for sheet in shown}


def weighed(text: str, seen: float, grey: float) -> Weighed:
    return Weighed(text, (Token(text, math.log(seen), math.log(grey)),))


@pytest.mark.parametrize(
    ("answers", "share", "says"),
    [
        ([("red", 0.8, 0.2)], 0.25, "probability of 80 % with the picture, 20 % with a grey one"),
        ([("red", 0.8, 0.2)], 0.25, "of its probability the picture gives 75 %, the prior 25 %."),
        ([("red", 0.1, 0.4)], 1.0, "the picture does not speak for it, the prior does."),
        ([("red", 0.6, 0.2), ("blue", 0.1, 0.4)], 1 / 12, "“red” is 6 times as likely as “blue” with the picture, 0.5"),
    ],
)
def test_shares_and_the_sentence(
    found: Diagnosis, answers: list[tuple[str, float, float]], share: float, says: str
) -> None:
    made = replace(found, answers=tuple(weighed(*one) for one in answers))
    assert made.prior_share == pytest.approx(share)
    assert says in headline(made)


def test_percentages() -> None:
    assert [likely(math.log(p)) for p in (0.999, 0.123, 0.0456, 0.00123, 1e-9)] == [
        "100 %",
        "12 %",
        "4.6 %",
        "0.12 %",
        "under 0.01 %",
    ]


def test_marks_of_the_share_figure_stand_at_the_probabilities(found: Diagnosis) -> None:
    made = replace(found, answers=(weighed("red", 0.8, 0.2), weighed("blue", 0.1, 0.4)))
    (axes,) = share_figure(made).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["red", "blue"]
    filled = [float(line.get_xdata()[0]) for line in axes.lines if line.get_markersize() == 8]
    hollow = [float(line.get_xdata()[0]) for line in axes.lines if line.get_markersize() == 7]
    assert filled == pytest.approx([0.8, 0.1])
    assert hollow == pytest.approx([0.2, 0.4])


def test_heat_is_brightest_where_it_is_highest() -> None:
    picture = Image.new("RGB", (4, 3), (90, 90, 90))
    heat_HW = torch.zeros(3, 4)
    heat_HW[1, 2] = 5.0
    heat_HW[2, 0] = math.nan
    mixed = np.asarray(overlay(picture, heat_HW)).astype(int)
    light = mixed.sum(-1)
    assert light[1, 2] > 2 * light[0, 0]
    assert mixed[2, 0].tolist() == [192, 192, 192], "what the model does not see is a fainter picture"


def test_signs_have_colours() -> None:
    heat_HW = torch.tensor([[1.0, -1.0, 0.0]])
    picture = Image.new("RGB", (3, 1), (90, 90, 90))
    (red, blue, none) = np.asarray(overlay(picture, heat_HW, signed=True)).astype(int)[0]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert abs(none - 90).max() < 40


def test_maps_of_one_kind_have_one_scale(found: Diagnosis) -> None:
    """Of two layers of one attribution the fainter is drawn fainter, and one of rounding is dark and says so."""
    noise = next(one for one in found.maps[1].attributions if one.method == "perturbation")
    scores = noise.scores.clone()
    scores[0], scores[1] = scores[0] / scores[0].max(), 1e-9 * scores[1] / scores[1].max()
    one = replace(found.maps[1], attributions=(replace(noise, scores=scores),))
    made = replace(found, maps=(one,))
    strong, nothing = sheets(made)
    assert (strong.empty, nothing.empty) == (False, True)
    assert np.asarray(strong.image).astype(int).sum(-1).max() > np.asarray(nothing.image).astype(int).sum(-1).max()
    (alone,) = sheets(
        replace(made, maps=(replace(one, attributions=(replace(noise, scores=0 * scores).at(layer=1),)),))
    )
    assert np.array_equal(np.asarray(nothing.image), np.asarray(alone.image)), "as dark as no heat at all"
    text = Text(render(made, [strong, nothing], {}, "")).text
    assert text.count("under the noise floor") == 1


def test_the_kind_of_error_is_said_in_a_line(found: Diagnosis) -> None:
    assert found.cause is not None
    assert found.cause.answer == found.said
    (line,) = suspicion(found)
    assert line.startswith(f"If “{printable(found.said)}” is wrong, it is {found.cause.kind}: ")
    assert line in Text(render(found, sheets(found), {}, "")).text
    assert suspicion(replace(found, cause=None)) == []


def test_more_steps_miss_less(llava: VLM, example: Example) -> None:
    def missed(steps: int) -> float:
        whole = diagnose(llava, example, ANSWER, layers=[0], steps=steps, most=1).maps[0].attributions[-1].completeness
        assert whole is not None
        return abs(whole.found - whole.expected)

    assert missed(16) < missed(1)
    with pytest.raises(AttributionError, match="at least one step"):
        diagnose(llava, example, ANSWER, steps=0)


def test_no_heat_at_all_is_drawn() -> None:
    assert overlay(Image.new("RGB", (2, 2)), torch.zeros(2, 2)).size == (2, 2)
