"""Two edits that meet in a question: what follows in each state, counted by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

import vlmend
from vlmend.data.records import EditCase, Example
from vlmend.edits.edit import Edit
from vlmend.errors import EditError
from vlmend.evaluation.cooperation import STATES, Composed, Pair, Trial, cooperate, summed
from vlmend.models.vlm import VLM
from vlmend.runs import Run

FLAG = Image.new("RGB", (32, 32), "red")
PAIR = Pair(
    "one",
    EditCase("one-seen", Example("what is this?", FLAG, "red dog")),
    EditCase("one-known", Example("where is the red dog?", None, "left")),
    Composed(Example("where is it?", FLAG, "left"), "right"),
    Composed(Example("what is it, and where?", FLAG, "red dog: left"), "red dog: right"),
)


@pytest.fixture
def vlm(tiny_folder: Callable[..., Path]) -> VLM:
    return vlmend.load(str(tiny_folder()))


@dataclass(frozen=True)
class Refusing:
    """Makes no edit without a picture."""

    name: ClassVar[str] = "refusing"

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        if any(case.request.image is None for case in cases):
            raise EditError("a picture is needed")
        return vlmend.editor("parrot").fit(vlm, cases)


def right(trials: Sequence[Trial]) -> dict[str, tuple[bool | None, ...]]:
    return {trial.state: trial.right for trial in trials}


def test_what_is_right_in_each_state(vlm: VLM) -> None:
    """`image-blind` says each target to its question and else what the model says, which is neither."""
    found = right(cooperate(vlm, vlmend.editor("image-blind"), [PAIR], max_new_tokens=4))
    assert found == {
        "unedited": (None, None, None, None),
        "seen": (True, None, False, False),
        "known": (None, True, None, None),
        "in turn": (True, True, False, False),
        "at once": (True, True, False, False),
    }
    # `parrot` says the second's target to everything, which is what is so, and not whose it is.
    found = right(cooperate(vlm, vlmend.editor("parrot"), [PAIR], max_new_tokens=4))
    assert found["in turn"] == found["at once"] == (False, True, True, False)


def test_what_is_so_beforehand_follows_from_the_first_alone(vlm: VLM) -> None:
    pair = Pair("two", PAIR.seen, PAIR.known, Composed(PAIR.outright.example, "red dog"), PAIR.stepwise)
    trials = cooperate(vlm, vlmend.editor("parrot"), [pair], max_new_tokens=4)
    assert right(trials)["seen"] == (True, None, True, False)


def test_edits_that_cannot_be_made_are_wrong_and_the_model_is_as_before(vlm: VLM) -> None:
    before = vlm.fingerprint
    trials = cooperate(vlm, Refusing(), [PAIR], max_new_tokens=4)
    assert right(trials)["in turn"] == (False, False, False, False)
    assert not vlm.active_edits
    assert vlm.fingerprint == before
    shares = {one.state: one for one in summed(trials)}
    assert (shares["seen"].seen.mean, shares["in turn"].seen.mean) == (1.0, 0.0)
    assert shares["unedited"].seen.n == 0


def test_a_run_that_was_cut_short_goes_on(vlm: VLM, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"a": 1}
    with Run(tmp_path, settings) as run:
        whole = cooperate(vlm, vlmend.editor("parrot"), [PAIR], max_new_tokens=4, log=run.part(editor="parrot"))
    records = tmp_path / "records.jsonl"
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(lines[:2]))
    with Run(tmp_path, settings) as run:
        again = cooperate(vlm, vlmend.editor("parrot"), [PAIR], max_new_tokens=4, log=run.part(editor="parrot"))
    assert again == whole
    assert records.read_text().splitlines(keepends=True) == lines
    assert [trial.state for trial in again] == list(STATES)


def test_no_pairs(vlm: VLM) -> None:
    with pytest.raises(EditError, match="no pairs"):
        cooperate(vlm, vlmend.editor("parrot"), [])
