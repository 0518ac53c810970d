"""A table of scores ranks the controls as it should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conftest import assert_untouched, weights_of
from vlmend import Edit, Example, Probe, editor, evaluate
from vlmend.editors.base import CONTROLS

REACHED = ("reliability", "text_generality", "image_generality")
SPARED = ("text_locality", "image_locality", "same_question_locality")


@pytest.fixture
def measured(llava, cases, picture):
    """Control -> kind of probe -> (score before, after), by free generation, over all cases."""
    asked = [
        replace(
            case,
            probes=(
                *case.probes,
                Probe("same_question_locality", Example(case.request.question, picture(30 + place), "?")),
            ),
        )
        for place, case in enumerate(cases)
    ]
    proofs = {name: evaluate(llava, editor(name), asked, max_new_tokens=6) for name in CONTROLS}
    return {
        name: {
            kind: (one.free_exact.before.mean, one.free_exact.after.mean, one.tf_exact.after.mean)
            for kind, one in proof.summary.items()
        }
        for name, proof in proofs.items()
    }


def test_ranking(measured):
    def after(name: str, kinds: tuple[str, ...]) -> list[float]:
        return [measured[name][kind][1] for kind in kinds]

    assert after("null", REACHED) == [0.0] * 3
    assert after("null", SPARED) == [1.0] * 3
    assert after("random", REACHED) == [0.0] * 3
    assert after("parrot", REACHED) == [1.0] * 3
    assert after("parrot", SPARED) == [0.0] * 3
    assert after("image-blind", REACHED) == [1.0, 0.0, 1.0]
    assert after("image-blind", SPARED) == [1.0, 1.0, 0.0]
    assert after("oracle", REACHED) == [1.0] * 3
    assert after("oracle", SPARED) == [1.0] * 3


def test_teacher_forced_scores_agree(measured):
    for name in ("null", "parrot", "oracle"):
        for kind in REACHED:
            assert measured[name][kind][2] == measured[name][kind][1]


@pytest.mark.parametrize("name", sorted(CONTROLS))
def test_fit_save_and_undo(name, llava, cases, tmp_path):
    before = weights_of(llava)
    edit = editor(name).fit(llava, cases)
    back = Edit.load(edit.save(tmp_path / "fix"))
    assert back.id == edit.id
    with llava.using(back):
        llava.answer(None, "who ?", max_new_tokens=2)
    assert_untouched(llava, before)


def test_noise_has_the_size_asked_for(llava, cases):
    edit = editor("random", size=0.25).fit(llava, cases)
    base = dict(llava.weights.base())
    for op in edit.ops:
        for disk, change in op.changes.items():
            assert change.norm() == pytest.approx(0.25 * float(base[disk].norm()), rel=1e-4)
