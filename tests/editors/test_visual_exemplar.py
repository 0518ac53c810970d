from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from conftest import FAMILIES, left_alone
from vlmend import Example, VisualExemplar
from vlmend.data.formats import plain
from vlmend.editors import visual_exemplar
from vlmend.editors.visual_exemplar import _states, _Way
from vlmend.edits.states import StateOp
from vlmend.errors import EditError, PartsError


@pytest.fixture
def method(exemplars_file) -> VisualExemplar:
    return VisualExemplar(exemplars=str(exemplars_file), layers=0)


@pytest.fixture
def knowing(taught):
    return taught("llava")


def loss_with(vlm, case, ops) -> tuple[float, bool]:
    row = vlm.run(vlm.prepare([case.request]), ops=ops).rows[0]
    loss = float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N))
    return loss, torch.equal(row.logits_NV.argmax(-1), row.target_N)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_blend_by_hand(knowing, cases, exemplars, method, number):
    """The vectors are w (e - h) with one w for all places, in steps of 1/32, and one step less does not do."""
    case = cases[number]
    (op,) = method.fit(knowing, [case]).ops[0].inner
    states_SD, other_SD = (
        _states(knowing, knowing.prepare([one.request]), [0])[0] for one in (case, exemplars[number])
    )
    apart_SD = (other_SD - states_SD)[op.places]
    weight = float((op.delta_SD * apart_SD).sum() / apart_SD.square().sum())
    assert 0 < weight <= 1
    assert weight * 32 == pytest.approx(round(weight * 32), abs=1e-3)
    torch.testing.assert_close(op.delta_SD, weight * apart_SD, atol=1e-5, rtol=1e-4)
    loss, right = loss_with(knowing, case, [op])
    assert right
    assert loss < method.stop_loss
    less = StateOp(0, op.places, (weight - 1 / 32) * apart_SD)
    loss, right = loss_with(knowing, case, [less])
    assert not (right and loss < method.stop_loss)


def test_gains_add_up_to_the_fall_of_the_loss(knowing, cases, exemplars, monkeypatch):
    monkeypatch.setattr(visual_exemplar, "_POINTS", 64)
    asked = knowing.prepare([cases[0].request])
    ends = _states(knowing, knowing.prepare([exemplars[0].request]), [0])
    way = _Way(knowing, asked, ends, [0], [])
    whole = way.blend(torch.arange(16), 1.0, 0.0)
    assert float(way.gains().sum()) == pytest.approx(loss_with(knowing, cases[0], [])[0] - whole.loss, rel=0.05)


def test_the_smallest_region_that_does(knowing, cases, method):
    """With half of the tokens allowed no more than half of them change; the whole picture is the last resort."""
    (all_of_it,) = replace(method, shares=(1.0,)).fit(knowing, cases[:1]).ops[0].inner
    (some,) = replace(method, shares=(0.25, 0.5, 0.75, 1.0)).fit(knowing, cases[:1]).ops[0].inner
    assert len(all_of_it.places) == 16
    assert len(some.places) in (4, 8, 12, 16)
    assert loss_with(knowing, cases[0], [some])[1]


def test_other_pictures_are_untouched_bit_for_bit(knowing, cases, method):
    edit = method.fit(knowing, cases[:1])
    others = knowing.prepare([probe.example for probe in cases[0].probes if "image" in probe.kind])
    pairs = zip(knowing.run(others).rows, knowing.run(others, edit).rows, strict=True)
    assert all(torch.equal(one.logits_NV, other.logits_NV) for one, other in pairs)


def test_several_layers_one_after_another(knowing, cases, method):
    (first, second) = replace(method, layers=[0, 1], halvings=0).fit(knowing, cases[:1]).ops[0].inner
    assert (first.layer, second.layer) == (0, 1)
    if len(first.places) == 16:  # the whole of the other picture: nothing is left to be blended above
        assert float(second.delta_SD.abs().max()) < 1e-3 * float(first.delta_SD.abs().max())


def test_a_folder_for_each_answer_and_any_size(knowing, cases, exemplars, method, tmp_path):
    """The request's question is asked; a picture of another size is scaled to the request's."""
    for one in exemplars:
        (tmp_path / one.request.answer).mkdir()
        picture = Image.open(one.request.image)
        picture.save(tmp_path / one.request.answer / "same.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    found = replace(method, exemplars=str(tmp_path)).fit(knowing, cases[:1])
    assert found.id == method.fit(knowing, cases[:1]).id
    big = Image.open(exemplars[0].request.image).resize((88, 72), Image.Resampling.NEAREST)
    big.save(tmp_path / exemplars[0].request.answer / "same.png")
    scaled = replace(method, exemplars=str(tmp_path)).fit(knowing, cases[:1])
    assert loss_with(knowing, cases[0], scaled.ops[0].inner)[1]


def test_only_what_is_answered_rightly_is_an_exemplar(llava, knowing, cases, exemplars, method):
    pool = [one.request for one in exemplars]
    assert len(method._exemplars(knowing, cases[0].request, pool)) == 1
    assert not method._exemplars(llava, cases[0].request, pool)
    wrong = [replace(pool[0], answer="blue"), replace(pool[1], answer="red"), cases[0].request]
    assert not method._exemplars(knowing, cases[0].request, wrong)
    with pytest.raises(EditError, match=r"'case-0' has no exemplar: in none of the 3 records .* missing=leave"):
        method.fit(llava, cases[:1])
    with pytest.raises(EditError, match="is 'refuse' or 'leave', not 'skip'"):
        replace(method, missing="skip").fit(llava, cases[:1])
    left = replace(method, missing="leave").fit(llava, cases[:1])
    assert not left.ops
    assert [request.case for request in left.requests] == ["case-0"]


@pytest.mark.parametrize("family", FAMILIES)
def test_on_every_family(family, tiny, cases, picture, tmp_path):
    """The target is what a random model says of another picture; a whole blend hands on that one's states."""
    for vlm in left_alone(tiny(family)):
        (tmp_path / "pictures").mkdir()
        picture(200).save(tmp_path / "pictures" / "other.png")
        asked = replace(cases[0].request, image=tmp_path / "pictures" / "other.png", aliases=())
        other = replace(asked, answer=vlm.answer(asked.image, asked.question))
        case = replace(cases[0], request=replace(other, image=cases[0].request.image), probes=())
        plain.write([replace(case, request=other)], tmp_path / "pool.jsonl")
        method = VisualExemplar(exemplars=str(tmp_path / "pool.jsonl"), layers=0, shares=(1.0,), halvings=0)
        (op,) = method.fit(vlm, [case]).ops[0].inner
        now_SD, other_SD = (
            _states(vlm, vlm.prepare([one]), [0], ops)[0] for one, ops in ((case.request, [op]), (other, []))
        )
        torch.testing.assert_close(now_SD, other_SD, atol=1e-4, rtol=1e-4)
        assert float(op.delta_SD.abs().max()) > 1e-2


def test_refusals(llava, cases, method, tmp_path):
    with pytest.raises(EditError, match="there are no exemplars: give a file of cases, or a folder"):
        replace(method, exemplars="").fit(llava, cases[:1])
    with pytest.raises(EditError, match="no exemplars at 'nowhere': give a file"):
        replace(method, exemplars="nowhere").fit(llava, cases[:1])
    with pytest.raises(EditError, match="no pictures in the folders of"):
        replace(method, exemplars=str(tmp_path)).fit(llava, cases[:1])
    with pytest.raises(EditError, match=r"at most 1, not 1\.5"):
        replace(method, shares=(1.5,)).fit(llava, cases[:1])
    with pytest.raises(EditError, match="'case-0' has no picture"):
        method.fit(llava, [replace(cases[0], request=Example("what ?", None, "red"))])


def test_no_such_layer(knowing, cases, method):
    with pytest.raises(PartsError, match="no layer 9"):
        replace(method, layers=9).fit(knowing, cases[:1])
