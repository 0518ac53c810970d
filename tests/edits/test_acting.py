"""Operations that are not changes of weights: what they do to their own row, and to no other."""

from __future__ import annotations

import pytest
import torch

from conftest import said_by_forced_runs
from vlmend import VLM, Edit, Example, WeightOp
from vlmend.edits.routes import AnswerOp, Key, RouteOp
from vlmend.edits.states import StateOp
from vlmend.errors import EditError
from vlmend.models.trace import capture


def shift(vlm: VLM, layer: int = 1, size: float = 2.0, seed: int = 0, places: tuple[int, ...] = (0, 2)) -> StateOp:
    width = len(vlm.parts.norm.weight)
    draw = torch.randn(len(places), width, generator=torch.Generator().manual_seed(seed))
    return StateOp(layer, torch.tensor(places), size * draw)


def edit(vlm: VLM, *ops) -> Edit:
    return Edit(base=vlm.fingerprint, ops=ops)


@pytest.fixture
def examples(picture):
    return [
        Example("what colour is the cup ?", picture(1), "red"),
        Example("what colour is the cup ?", picture(2), "red"),
        Example("who wrote the song", None, "nobody"),
        Example("is there a dog in the picture ? say so", picture(1), "no , there is a cat"),
    ]


def logits(vlm: VLM, examples, edits=None) -> list[torch.Tensor]:
    return [row.logits_NV for row in vlm.run(vlm.prepare(examples), edits).rows]


def test_states_change_at_their_places_alone(vlm: VLM, examples):
    op = shift(vlm)
    prepared = vlm.prepare(examples[:1])
    with capture({"layer": vlm.parts.layers[2]}) as before:
        vlm.run(prepared)
    with capture({"layer": vlm.parts.layers[2]}) as after:
        vlm.run(prepared, edit(vlm, op))
    moved = (after[0].input - before[0].input)[0]  # type: ignore[operator]
    positions = prepared.rows[0].visual_T.nonzero().flatten()[op.places]
    torch.testing.assert_close(moved[positions], op.delta_SD, atol=1e-4, rtol=1e-4)
    moved[positions] = 0
    assert float(moved.abs().max()) == 0.0


def test_every_row_has_its_own(vlm: VLM, examples):
    """In one batch, as alone: with states changed, with another's, without, and without a picture."""
    one, two = edit(vlm, shift(vlm)), edit(vlm, shift(vlm, layer=2, seed=5), shift(vlm, layer=0))
    edits = [one, None, one, two]
    together = logits(vlm, examples, edits)
    texts = vlm.generate(vlm.prepare(examples), edits, max_new_tokens=4)
    for example, mine, row, text in zip(examples, edits, together, texts, strict=True):
        torch.testing.assert_close(row, logits(vlm, [example], mine)[0], atol=2e-5, rtol=1e-4)
        assert text == vlm.generate(vlm.prepare([example]), mine, max_new_tokens=4)[0]
    base = logits(vlm, examples)
    assert [bool((a - b).abs().max() > 1e-3) for a, b in zip(together, base, strict=True)] == [True, False, False, True]


def test_cached_generation_is_forced_argmax(vlm: VLM, examples):
    """What is generated with states changed is what full forward passes with them say."""
    mine = edit(vlm, shift(vlm, size=4.0))
    said = vlm.generate(vlm.prepare(examples[:1]), mine, max_new_tokens=4)[0]
    assert said == said_by_forced_runs(vlm, examples[0], mine, tokens=4)


def test_gradients_reach_operations(llava: VLM, examples):
    class Live:
        layer = 1
        delta = torch.zeros(len(llava.parts.norm.weight), requires_grad=True)

        def check(self, layers, width):
            pass

        def change(self, states_TD, visual_T):
            return states_TD + visual_T[:, None] * self.delta

    output = llava.run(llava.prepare(examples[:2]), ops=[Live()], grad=True)
    torch.stack([row.logits_NV.sum() for row in output.rows]).sum().backward()
    assert Live.delta.grad is not None
    assert float(Live.delta.grad.abs().max()) > 0


def test_routes_lead_by_picture_and_question(llava: VLM, examples):
    prepared = llava.prepare(examples)
    name, tensor = next((n, t) for n, t in llava.weights.base() if t.dim() == 2)
    weight = WeightOp.deltas({name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))})
    base = logits(llava, examples)
    for key, led in [
        (Key(), [True, True, True, True]),
        (Key(picture=prepared.rows[0].content), [True, False, False, True]),
        (Key(question=examples[0].question), [True, True, False, False]),
        (Key(prepared.rows[1].content, examples[0].question), [False, True, False, False]),
    ]:
        routed = edit(llava, RouteOp(key, (weight,)))
        now = logits(llava, examples, routed)
        assert [bool((a - b).abs().max() > 1e-3) for a, b in zip(now, base, strict=True)] == led
        with llava.using(routed):
            assert all(torch.equal(a, b) for a, b in zip(now, logits(llava, examples), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(base, logits(llava, examples), strict=True))


def test_given_answers(vlm: VLM, examples):
    prepared = vlm.prepare(examples)
    mine = edit(vlm, RouteOp(Key(question=examples[0].question), (AnswerOp("three small birds"),)))
    base = vlm.generate(prepared, max_new_tokens=3)
    assert vlm.generate(prepared, mine, max_new_tokens=3) == ["three small birds"] * 2 + base[2:]
    right = vlm.run(prepared, edit(vlm, AnswerOp("red"))).rows
    assert torch.equal(right[0].logits_NV.argmax(-1), right[0].target_N)
    assert right[0].logits_NV.shape == vlm.run(prepared).rows[0].logits_NV.shape
    assert not torch.equal(right[2].logits_NV.argmax(-1), right[2].target_N)


def test_in_force_and_undone(llava: VLM, examples):
    one, two = edit(llava, shift(llava)), edit(llava, shift(llava, layer=2, seed=3))
    prepared = llava.prepare(examples[:1])
    both = llava.run(prepared, one + two).rows[0].logits_NV
    first = llava.apply(one)
    with llava.using(two):
        assert torch.equal(llava.run(prepared).rows[0].logits_NV, both)
        first.undo()
        assert torch.equal(llava.run(prepared).rows[0].logits_NV, llava.run(prepared, edits=None).rows[0].logits_NV)
        assert llava.active_edits == (two.id,)
    assert not llava.active_edits


def test_round_trip(llava: VLM, examples, tmp_path):
    name, tensor = next((n, t) for n, t in llava.weights.base() if t.dim() == 2)
    key = Key(llava.prepare(examples).rows[0].content)
    inner = RouteOp(Key(question="q"), (AnswerOp("yes"), WeightOp.deltas({name: torch.ones_like(tensor)})))
    mine = edit(llava, shift(llava), RouteOp(key, (inner, shift(llava, layer=2), AnswerOp("no"))))
    back = Edit.load(mine.save(tmp_path / "fix"))
    assert back.id == mine.id
    assert back.names == mine.names == (name,)
    assert back.ops[1].inner[0].key == Key(question="q")  # type: ignore[attr-defined]
    for a, b in zip(logits(llava, examples, mine), logits(llava, examples, back), strict=True):
        assert torch.equal(a, b)
    assert edit(llava, shift(llava, seed=1)).id != edit(llava, shift(llava)).id


@pytest.mark.parametrize(
    ("op", "problem"),
    [
        (lambda vlm: shift(vlm, layer=9), "after layer 9; the model has 4 layers"),
        (lambda vlm: StateOp(0, torch.tensor([0]), torch.ones(1, 3)), "width 3"),
        (lambda vlm: RouteOp(Key(), (WeightOp.deltas({"x": torch.ones(1)}),)), "no tensor 'x'"),
        (lambda vlm: RouteOp(Key(), (object(),)), "no executor"),
    ],
)
def test_what_a_model_cannot_do(llava: VLM, op, problem):
    with pytest.raises(EditError, match=problem):
        llava.apply(edit(llava, op(llava)))
    assert not llava.active_edits


def test_places_outside_of_the_picture(llava: VLM, examples):
    with pytest.raises(EditError, match="changes visual token 99, the picture has 16"):
        llava.run(llava.prepare(examples[:1]), edit(llava, shift(llava, places=(99,))))
    with pytest.raises(EditError, match="do not fit"):
        StateOp(0, torch.tensor([0, 1]), torch.ones(1, 3))
