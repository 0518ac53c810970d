"""Rows about one picture: what they begin with is run once, and the outputs are those of whole runs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest
import torch

from vlmend import VLM, Edit, Example, WeightOp
from vlmend.edits.neurons import NeuronOp
from vlmend.edits.states import StateOp
from vlmend.models import batching
from vlmend.models.prefix import beginning
from vlmend.models.trace import called_through, capture

WHOLE = ("paligemma",)  # its pictures see the question


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Tiny pictures have few tokens: let any beginning be worth a run of its own."""
    monkeypatch.setattr(batching, "_PADDING", 0)


@pytest.fixture
def examples(picture):
    shown = picture(1)
    return [
        Example("what colour is the cup ?", shown, "red"),
        Example("what colour is the cup ?", shown, "no , there is a cat"),
        Example("is there a dog in the picture ? say so", shown, "no"),
        Example("what colour is the cup ?", picture(2), "red"),
        Example("who wrote the song", None, "the dog"),
    ]


def alone(vlm: VLM, examples, edit=None):
    return [vlm.run(vlm.prepare([example]), edit).rows[0] for example in examples]


def test_outputs_are_those_of_whole_runs(vlm: VLM, examples):
    names = vlm.weights.named(vlm.parts.modules([1], ["mlp.down"]), matrices_only=True)
    maker = torch.Generator().manual_seed(0)
    noise = {name: 0.3 * torch.randn(weight.shape, generator=maker) for name, weight in names.items()}
    edit = Edit(vlm.fingerprint, (WeightOp.deltas(noise),))
    vlm._begun.holds = None
    prepared = vlm.prepare(examples)
    for given in (None, edit):
        for mine, whole in zip(vlm.run(prepared, given).rows, alone(vlm, examples, given), strict=True):
            torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-5, rtol=1e-4)
    assert vlm._begun.holds is (vlm.model.config.model_type not in WHOLE)


def test_the_beginning_is_run_once(llava: VLM, examples, monkeypatch):
    prepared = llava.prepare(examples)
    llava.run(prepared)  # compared with whole runs, this once
    about = prepared.rows[:4]  # three have one picture
    count = beginning(about[0])
    assert count >= 1 + int(about[0].visual_T.sum())
    assert all(beginning(row) == count for row in about)
    shapes = []
    layer = llava.parts.layers[0]
    plain = layer.forward
    monkeypatch.setattr(
        layer, "forward", lambda x, *rest, **named: shapes.append(x.shape[:2]) or plain(x, *rest, **named)
    )
    llava.run(prepared)
    assert sum(rows for rows, _ in shapes) == 2 + len(examples)
    assert all(length < len(about[0].ids_T) for _, length in shapes)
    with capture({"layer": layer}) as calls:  # who watches sees whole rows
        llava.run(prepared)
    assert sum(len(call.input) for call in calls) == len(examples)


def test_gradients_are_those_of_whole_runs(llava: VLM, examples):
    names = llava.weights.named(llava.parts.modules([0, 2], ["mlp.down", "attn.k"]), matrices_only=True)

    def gradients(rows):
        sum(row.logits_NV.logsumexp(-1).sum() for row in rows).backward()

    found = []
    for run in (lambda: llava.run(llava.prepare(examples), grad=True).rows, None):
        with llava.weights.borrowed(names) as parameters:
            if run is None:
                rows = [llava.run(llava.prepare([example]), grad=True).rows[0] for example in examples]
            else:
                rows = run()
            gradients(rows)
            found.append([parameter.grad.clone() for parameter in parameters.values()])
    for mine, whole in zip(*found, strict=True):
        torch.testing.assert_close(mine, whole, atol=1e-4, rtol=1e-3)


def test_a_model_that_makes_more_of_its_states_is_run_whole(llava: VLM, examples, monkeypatch):
    """Capped logits are noticed when they are first compared."""
    plain = llava._feeder.logits
    monkeypatch.setattr(llava._feeder, "logits", lambda *given: torch.tanh(plain(*given) / 5.0) * 5.0)
    monkeypatch.setattr(llava._begun, "holds", None)
    for row in llava.run(llava.prepare(examples)).rows:
        assert float(row.logits_NV.abs().max()) < 5.0
    assert llava._begun.holds is False


def test_states_of_the_picture_are_changed_once(vlm: VLM, examples):
    """An edit of visual states acts on the beginning; one that reads the question is shown whole prompts."""
    width = len(vlm.parts.norm.weight)
    maker = torch.Generator().manual_seed(0)
    vectors = 2.0 * torch.randn(2, width, generator=maker)
    blind = StateOp(1, torch.tensor([0, 3]), vectors)

    class Reading(StateOp):
        reads_question = True

        def change(self, states_TD, visual_T):
            return states_TD + states_TD[-1]

    for op in (blind, Reading(1, torch.tensor([0, 3]), vectors)):
        edit = Edit(vlm.fingerprint, (op,))
        mine = vlm.run(vlm.prepare(examples), edit).rows
        for one, whole in zip(mine, alone(vlm, examples, edit), strict=True):
            torch.testing.assert_close(one.logits_NV, whole.logits_NV, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(mine[0].logits_NV, alone(vlm, examples)[0].logits_NV, atol=1e-3)


def test_what_was_begun_serves_other_rows_as_long_as_the_weights_stay(vlm: VLM, examples):
    stage = vlm.last_shared_stage
    names = vlm.weights.named(vlm.parts.modules([0], ["mlp.down"]), matrices_only=True)
    low = Edit(vlm.fingerprint, (WeightOp.deltas({name: torch.ones(one.shape) for name, one in names.items()}),))
    prepared = vlm.prepare(examples)
    vlm.run(prepared, keep={stage})
    other = [Example("is there a dog ?", examples[0].image, "a cat"), *examples[1:]]
    later = replace(vlm.prepare(other), features=prepared.features, below=prepared.below, begun=prepared.begun)
    for edit in (None, low, None):
        for mine, whole in zip(vlm.run(later, edit, keep={stage}).rows, alone(vlm, other, edit), strict=True):
            torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-4, rtol=1e-4)


def test_a_changed_beginning_is_kept_for_the_same_edit_alone(vlm: VLM, examples):
    width = len(vlm.parts.norm.weight)
    maker = torch.Generator().manual_seed(0)
    one, two = (
        Edit(vlm.fingerprint, (StateOp(1, torch.tensor([0, 3]), 2.0 * torch.randn(2, width, generator=maker)),))
        for _ in range(2)
    )
    prepared = vlm.prepare(examples)
    vlm.run(prepared, one, keep_beginnings=True)
    first = prepared.take([0])
    for edit in (one, two, None):
        found = vlm.run(first, edit, keep_beginnings=True).rows[0]
        torch.testing.assert_close(found.logits_NV, alone(vlm, examples, edit)[0].logits_NV, atol=1e-4, rtol=1e-4)
    changing = one.ops[0]
    before = vlm.run(prepared, ops=[changing], keep_beginnings=True).rows[0].logits_NV  # it is still being made
    changing.delta_SD.mul_(-1.0)
    assert not torch.allclose(before, vlm.run(first, ops=[changing]).rows[0].logits_NV, atol=1e-3)


def changes(vlm: VLM, layer: int) -> list[Edit]:
    """Edits of the states behind a layer, of its neurons, of its weights, and of all of them."""
    maker = torch.Generator().manual_seed(layer)
    vectors = 2.0 * torch.randn(2, len(vlm.parts.norm.weight), generator=maker)
    names = vlm.weights.named(vlm.parts.modules([layer], ["attn.k", "mlp.down"]), matrices_only=True)
    noise = {name: 0.3 * torch.randn(weight.shape, generator=maker) for name, weight in names.items()}
    neurons = NeuronOp(layer, vectors / 8.0, torch.ones(2), vectors)
    ops = (StateOp(layer, torch.tensor([0, 3]), vectors), neurons, WeightOp.deltas(noise))
    return [Edit(vlm.fingerprint, some) for some in (*((op,) for op in ops), ops)]


def called(vlm: VLM, run, *given) -> list[tuple[int, int]]:
    """Layer and length of every call of a layer's attention."""
    found: list[tuple[int, int]] = []

    def counted(index: int, forward, *args, **named):
        states = named.get("hidden_states", args[0] if args else None)
        found.append((index, states.shape[1]))
        return forward(*args, **named)

    with ExitStack() as stack:
        for index in range(len(vlm.parts.layers)):
            stack.enter_context(called_through(vlm.parts.attention(index), partial(counted, index)))
        run(*given)
    return found


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_what_an_edit_makes_of_a_picture_is_run_from_its_layer_on(vlm: VLM, examples, layer):
    layer %= len(vlm.parts.layers)
    length = beginning(vlm.prepare(examples).rows[0])
    for edit, lowest in zip(changes(vlm, layer), (layer + 1, layer, layer, layer), strict=True):
        for _ in range(2):  # the first time it is compared with a whole run
            prepared, found = vlm.prepare(examples), []
            vlm.run(prepared, keep={vlm.last_shared_stage})
            begun = called(vlm, lambda *given, found=found: found.extend(again(*given)), vlm, prepared, edit)
        for mine, whole in zip(found, alone(vlm, examples, edit), strict=True):
            torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-4, rtol=1e-4)
        if vlm._begun.holds:
            assert vlm._begun._starts
            above = range(lowest, len(vlm.parts.layers))
            assert sorted({index for index, tokens in begun if tokens == length}) == list(above)


def again(vlm: VLM, prepared, edit: Edit):
    """The outputs of rows that have been run without the edit."""
    return vlm.run(prepared, edit, keep_beginnings=True).rows


def test_what_is_below_an_edit_is_run_once_for_several(vlm: VLM, examples):
    """Also where the unedited model is not asked: the layers below serve the next edit at the same place."""
    length = beginning(vlm.prepare(examples).rows[0])
    vlm.run(prepared := vlm.prepare(examples), keep={vlm.last_shared_stage})
    again(vlm, prepared, changes(vlm, 1)[0])  # so that it is known whether this model can be run so
    prepared, found = vlm.prepare(examples), []
    for edit, lowest in zip((changes(vlm, 1)[0], changes(vlm, 1)[3]), (0, 1), strict=True):
        found.clear()
        begun = called(vlm, lambda edit, found=found: found.extend(again(vlm, prepared, edit)), edit)
        for mine, whole in zip(found, alone(vlm, examples, edit), strict=True):
            torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-4, rtol=1e-4)
        if vlm._begun.holds:
            layers = sorted(index for index, tokens in begun if tokens == length)
            assert set(layers) == set(range(lowest, len(vlm.parts.layers)))
            assert len(layers) <= 2 * len(set(layers))  # two pictures


def test_states_that_were_run_to_a_layer_are_gone_on_from(llava: VLM, examples):
    """An editor looks at the states at its layer; measuring its edit then runs what is above that."""
    again(llava, llava.prepare(examples), changes(llava, 1)[0])
    assert llava._begun._starts is not False
    prepared = llava.prepare(examples[:1])
    length = beginning(prepared.rows[0])
    states = called(llava, llava._begun.states, prepared, [1])
    assert [index for index, tokens in states if tokens == length] == [0, 1]
    edit = changes(llava, 1)[0]
    begun = called(llava, again, llava, prepared, edit)
    assert sorted({index for index, tokens in begun if tokens == length}) == list(range(2, len(llava.parts.layers)))
    mine = again(llava, prepared, edit)[0]
    torch.testing.assert_close(mine.logits_NV, alone(llava, examples[:1], edit)[0].logits_NV, atol=1e-4, rtol=1e-4)


def test_layers_that_share_more_than_their_states_are_all_run(llava: VLM, examples, monkeypatch):
    """One that looks at what an earlier layer did is noticed when a run first starts above that."""
    first, last = llava.parts.layers[0], llava.parts.layers[2]
    seen = []
    plain, above = first.forward, last.forward
    monkeypatch.setattr(first, "forward", lambda x, *rest, **named: seen.append(x) or plain(x, *rest, **named))

    def looking(x, *rest, **named):
        return above(x + (seen[-1] if seen[-1].shape == x.shape else 1.0), *rest, **named)

    monkeypatch.setattr(last, "forward", looking)
    monkeypatch.setattr(llava._begun, "_starts", None)
    prepared = llava.prepare(examples)
    llava.run(prepared, keep={llava.last_shared_stage})
    edit = changes(llava, 1)[0]
    seen.clear()
    seen.append(torch.zeros(1))
    for mine, whole in zip(again(llava, prepared, edit), alone(llava, examples, edit), strict=True):
        torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-4, rtol=1e-4)
    assert llava._begun._starts is False
