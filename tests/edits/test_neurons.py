"""Neurons beside a layer's own: what they add, in whole runs, in cached generation, row by row."""

from __future__ import annotations

import pytest
import torch

from conftest import FAMILIES, left_alone, said_by_forced_runs
from vlmend import VLM, Edit, Example
from vlmend.edits.compact import compact
from vlmend.edits.neurons import NeuronOp
from vlmend.errors import EditError
from vlmend.models.trace import capture


def neurons(vlm: VLM, layer: int = -1, count: int = 3, size: float = 1.0, seed: int = 0) -> Edit:
    width, layers = len(vlm.parts.norm.weight), len(vlm.parts.layers)
    maker = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(count, width, generator=maker) for _ in range(2))
    op = NeuronOp(layer % layers, keys / width**0.5, torch.randn(count, generator=maker), size * values)
    return Edit(vlm.fingerprint, (op,))


@pytest.fixture
def examples(picture):
    return [
        Example("what colour is the cup ?", picture(1), "red"),
        Example("who wrote the song", None, "nobody"),
        Example("is there a dog in the picture ? say so", picture(1), "no , there is a cat"),
    ]


def test_by_hand():
    """Two neurons: 2 x_0 - x_1 - 1, and minus x_0, which never fires on positive input."""
    op = NeuronOp(
        0,
        torch.tensor([[2.0, -1.0], [-1.0, 0.0]]),
        torch.tensor([-1.0, 0.0]),
        torch.tensor([[10.0, 1.0], [5.0, 5.0]]),
    )
    inputs_TD = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5]])
    assert op.added(inputs_TD).tolist() == [[20.0, 2.0], [0.0, 0.0], [5.0, 0.5]]


@pytest.mark.parametrize("family", FAMILIES)
def test_added_to_the_feed_forward_part(family, tiny, examples):
    """Of a gated part or a plain one, whose two matrices may be all that the family has of it."""
    for vlm in left_alone(tiny(family)):
        edit, prepared = neurons(vlm, layer=1), vlm.prepare(examples[:1])
        first, last = vlm.parts.feed_forward_ends(1)
        found = []
        for given in (None, edit):
            with vlm.using(given), capture({"first": first, "last": last}) as calls:
                vlm.run(prepared)
            by_name = {call.name: call for call in calls}
            found.append((by_name["first"].input, by_name["last"].output))
        (entered, made), (same, more) = found
        assert torch.equal(entered, same)
        added = edit.ops[0].added(entered)
        torch.testing.assert_close(more, made + added)
        assert float(added.abs().max()) > 0.1


def test_equals_wider_matrices(tiny, examples):
    """In a plain feed-forward part with relu, they are what more rows and columns of its matrices are."""
    for vlm in left_alone(tiny("blip2")):
        edit = neurons(vlm, layer=2)
        (op,) = edit.ops
        prepared = vlm.prepare(examples)
        now = vlm.run(prepared, edit).rows
        narrow, wide = vlm.parts.feed_forward_ends(2)
        kept = narrow.weight, narrow.bias, wide.weight
        try:
            narrow.weight = torch.nn.Parameter(torch.cat([narrow.weight, op.keys_PD]), requires_grad=False)
            narrow.bias = torch.nn.Parameter(torch.cat([narrow.bias, op.bias_P]), requires_grad=False)
            wide.weight = torch.nn.Parameter(torch.cat([wide.weight, op.values_PD.T], 1), requires_grad=False)
            widened = vlm.run(vlm.prepare(examples)).rows
        finally:
            narrow.weight, narrow.bias, wide.weight = kept
        for one, other in zip(now, widened, strict=True):
            torch.testing.assert_close(one.logits_NV, other.logits_NV, atol=1e-4, rtol=1e-4)


def test_every_row_has_its_own(vlm: VLM, examples):
    """In one batch, as alone; in cached generation too, where every step has them."""
    edits = [neurons(vlm), None, neurons(vlm, layer=1, seed=3) + neurons(vlm, seed=4)]
    prepared = vlm.prepare(examples)
    together = vlm.run(prepared, edits).rows
    texts = vlm.generate(prepared, edits, max_new_tokens=4)
    base = vlm.run(prepared).rows
    for example, mine, row, text, plain in zip(examples, edits, together, texts, base, strict=True):
        alone = vlm.prepare([example])
        torch.testing.assert_close(row.logits_NV, vlm.run(alone, mine).rows[0].logits_NV, atol=1e-4, rtol=1e-4)
        assert text == vlm.generate(alone, mine, max_new_tokens=4)[0]
        assert (mine is None) == torch.equal(row.logits_NV, plain.logits_NV)


def test_cached_generation_is_forced_argmax(vlm: VLM, examples):
    mine = neurons(vlm, layer=1, size=3.0)
    said = vlm.generate(vlm.prepare(examples[:1]), mine, max_new_tokens=4)[0]
    assert said == said_by_forced_runs(vlm, examples[0], mine, tokens=4)


@pytest.mark.parametrize("layer", [1, -1])
def test_begins_behind_the_layers_attention(vlm: VLM, examples, layer):
    """A run that starts there gives what a whole run gives, with and without them, and reads no layer below."""
    edit = neurons(vlm, layer=layer)
    first = vlm.first_stage(edit.ops)
    assert first == 2 * edit.ops[0].layer + 1
    prepared, fresh = vlm.prepare(examples), vlm.prepare(examples)
    vlm.run(prepared, first=first)
    for given in (edit, None, edit):
        with capture({"below": vlm.parts.layers[0]}) as calls:
            now = vlm.run(prepared, given, first=first).rows
        assert not calls
        for mine, whole in zip(now, vlm.run(fresh, given).rows, strict=True):
            torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-5, rtol=1e-5)


def test_many_edits_become_one_operation(llava: VLM, examples):
    """Of a layer and a type; it does what they do but for rounding."""
    edits = [neurons(llava, seed=seed) for seed in range(3)] + [neurons(llava, layer=1, seed=3)]
    every = edits[0] + edits[1] + edits[2] + edits[3]
    one = compact(every)
    assert [(op.layer, len(op.keys_PD)) for op in one.ops] == [(len(llava.parts.layers) - 1, 9), (1, 3)]
    prepared = llava.prepare(examples)
    for mine, other in zip(llava.run(prepared, one).rows, llava.run(prepared, every).rows, strict=True):
        torch.testing.assert_close(mine.logits_NV, other.logits_NV, atol=1e-4, rtol=1e-4)
    op = edits[0].ops[0]
    wider = NeuronOp(op.layer, op.keys_PD.double(), op.bias_P.double(), op.values_PD.double())
    assert op.joined(wider) is None


def test_silent_neurons_change_nothing(llava: VLM, examples):
    width = len(llava.parts.norm.weight)
    op = NeuronOp(3, torch.ones(2, width), torch.full((2,), -1e6), torch.ones(2, width))
    prepared = llava.prepare(examples)
    pairs = zip(llava.run(prepared).rows, llava.run(prepared, Edit(llava.fingerprint, (op,))).rows, strict=True)
    assert all(torch.equal(one.logits_NV, other.logits_NV) for one, other in pairs)


def test_round_trip(llava: VLM, examples, tmp_path):
    edit = neurons(llava)
    back = Edit.load(edit.save(tmp_path / "fix"))
    assert back.id == edit.id
    prepared = llava.prepare(examples)
    pairs = zip(llava.run(prepared, edit).rows, llava.run(prepared, back).rows, strict=True)
    assert all(torch.equal(one.logits_NV, other.logits_NV) for one, other in pairs)


def test_refusals(llava: VLM):
    width = len(llava.parts.norm.weight)
    for layer, wide, problem in [(9, width, "layer 9; the model has 4 layers"), (0, 3, "width 3")]:
        op = NeuronOp(layer, torch.ones(1, wide), torch.ones(1), torch.ones(1, wide))
        with pytest.raises(EditError, match=problem):
            llava.apply(Edit(llava.fingerprint, (op,)))
    with pytest.raises(EditError, match=r"\[P, D\], \[P\] and \[P, D\] are expected"):
        NeuronOp(0, torch.ones(2, 3), torch.ones(1), torch.ones(2, 3))
