from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmend import Example, VisualDelta
from vlmend.errors import EditError, PartsError
from vlmend.models.trace import capture

QUICK = VisualDelta(size=2.0, lr=0.3, keep_tokens=4)


def test_other_pictures_are_untouched_bit_for_bit(llava, cases):
    edit = QUICK.fit(llava, cases[:1])
    others = llava.prepare([probe.example for probe in cases[0].probes if "image" in probe.kind])
    base, now = llava.run(others).rows, llava.run(others, edit).rows
    assert all(torch.equal(a.logits_NV, b.logits_NV) for a, b in zip(base, now, strict=True))
    assert llava.generate(others, edit, max_new_tokens=4) == llava.generate(others, max_new_tokens=4)


@pytest.mark.parametrize("size", [0.1, 1.0])
def test_vectors_are_bounded(llava, cases, size):
    edit = replace(QUICK, layers=[1, 2], size=size, stop_loss=0.0).fit(llava, cases[:1])
    states = edit.ops[0].inner
    assert [op.layer for op in states] == [1, 2]
    prepared = llava.prepare([cases[0].request])
    with capture({str(op.layer): llava.parts.layers[op.layer] for op in states}) as calls:
        llava.run(prepared)
    for op, call in zip(states, calls, strict=True):
        lengths = call.output[0, : len(prepared.rows[0].ids_T)][prepared.rows[0].visual_T].norm(dim=-1)
        assert float(op.delta_SD.norm(dim=-1).max()) == pytest.approx(size * float(lengths.mean()), rel=1e-4)


def test_what_is_kept_moves_less(llava, cases):
    """With neutral questions kept, what the model says to them diverges less."""
    asked = Example("what is here ?", cases[0].request.image)
    said = llava.generate(llava.prepare([asked]), max_new_tokens=4)[0]
    prepared = llava.prepare([replace(asked, answer=said)])
    before = llava.run(prepared).rows[0].logits_NV.log_softmax(-1)

    def moved(weight: float) -> float:
        maker = replace(QUICK, keep=("what is here ?",), keep_weight=weight, stop_loss=0.0, steps=30)
        after = llava.run(prepared, maker.fit(llava, cases[:1])).rows[0].logits_NV.log_softmax(-1)
        return float((before.exp() * (before - after)).sum(-1).mean())

    assert moved(10.0) < 0.5 * moved(0.0)


def test_requests_about_one_picture_share_their_vectors(llava, cases):
    image = cases[0].request.image
    second = replace(cases[1], request=Example("how many birds ?", image, "two"))
    edit = QUICK.fit(llava, [cases[0], second, cases[2]])
    assert len(edit.ops) == 2
    assert edit.ops[0].key.picture == llava.prepare([cases[0].request]).rows[0].content


def test_regions(llava, cases):
    """Only tokens that show some of a region change: of a picture's four rows of four, the upper left four."""
    edit = replace(QUICK, regions=((0.0, 0.0, 0.49, 0.49),)).fit(llava, cases[:1])
    (op,) = edit.ops[0].inner
    assert op.places.tolist() == [0, 1, 4, 5]
    assert op.delta_SD.abs().max() > 0
    everywhere = replace(QUICK, regions=((0.0, 0.0, 1.0, 1.0),)).fit(llava, cases[:1])
    assert everywhere.id == QUICK.fit(llava, cases[:1]).id


def test_regions_are_refused_where_there_are_none(tiny, llava, cases):
    with pytest.raises(EditError, match="is no region"):
        replace(QUICK, regions=((0.5, 0.0, 0.2, 1.0),)).fit(llava, cases[:1])
    with pytest.raises(EditError, match="have no places in the picture"):
        replace(QUICK, regions=((0.0, 0.0, 0.5, 0.5),)).fit(tiny("blip2"), cases[:1])


def test_refusals(llava, cases):
    blind = replace(cases[0], request=replace(cases[0].request, image=None))
    with pytest.raises(EditError, match="case-0' has no picture"):
        QUICK.fit(llava, [blind])
    with pytest.raises(PartsError, match="no layer 9"):
        replace(QUICK, layers=9).fit(llava, cases[:1])
