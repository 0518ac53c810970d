"""Edits come and go in any order; what is left is bit for bit what it should be."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch

import vlmend
from conftest import FAMILIES, assert_untouched, hooks_of, weights_of
from vlmend import VLM, Edit, Example, WeightOp
from vlmend.edits.routes import AnswerOp, Key, RouteOp
from vlmend.edits.states import StateOp
from vlmend.errors import EditError, FingerprintError
from vlmend.models.active import Active
from vlmend.models.tensors import fingerprint

OPERATIONS = 70  # on each family: more than a thousand in all


def random_edit(vlm: VLM, seed: int) -> Edit:
    """An edit of some tensors of all parts, in all forms, that overlaps with others."""
    maker = torch.Generator().manual_seed(seed)
    names = sorted(name for name, tensor in vlm.weights.base() if tensor.dim() == 2)
    shapes = {name: tensor.shape for name, tensor in vlm.weights.base()}
    ops: list[WeightOp] = []
    for form in random.Random(seed).sample(["delta", "low_rank", "value"], 2):
        name = names[int(torch.randint(len(names) // 8, (1,), generator=maker)) * 8]
        rows, columns = shapes[name]
        dense = torch.randn(rows, columns, generator=maker) * 0.1
        factors = torch.randn(rows, 2, generator=maker), torch.randn(2, columns, generator=maker)
        ops.append(
            {
                "delta": lambda: WeightOp.deltas({name: dense}),  # noqa: B023
                "low_rank": lambda: WeightOp.low_rank({name: factors}),  # noqa: B023
                "value": lambda: WeightOp.values({name: dense}),  # noqa: B023
            }[form]()
        )
    return Edit(base=vlm.fingerprint, ops=tuple(ops))


def test_any_order_ends_bit_exact(vlm: VLM):
    before = weights_of(vlm)
    dice = random.Random(3)
    edits = [random_edit(vlm, seed) for seed in range(6)]
    handles = []
    for _ in range(60):
        if handles and dice.random() < 0.5:
            handles.pop(dice.randrange(len(handles))).undo()
        else:
            handles.append(vlm.apply(dice.choice(edits)))
        assert len(vlm.active_edits) == len(handles)
    dice.shuffle(handles)
    for handle in handles:
        handle.undo()
        handle.undo()
    assert_untouched(vlm, before)
    assert not vlm.active_edits
    assert not vlm.weights._pristine
    assert fingerprint(vlm.weights.base()) == vlm.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edits_added_one_by_one_are_rounded_once(tiny_folder, dtype: torch.dtype):
    """What is added is folded onto the others as they were before rounding: as all of it anew."""
    vlm = vlmend.load(str(tiny_folder("llava")), dtype=dtype)
    before = weights_of(vlm)
    names = [name for name, tensor in vlm.weights.base() if tensor.dim() == 2][-3:]
    maker = torch.Generator().manual_seed(0)

    def small(shared: str | None = None) -> Edit:
        shapes = {name: tensor.shape for name, tensor in vlm.weights.base() if name in names}
        factors = {
            name: (1e-2 * torch.randn(shape[0], 1, generator=maker), 1e-1 * torch.randn(1, shape[1], generator=maker))
            for name, shape in shapes.items()
        }
        return Edit(vlm.fingerprint, (WeightOp.low_rank(factors, shared=shared),))

    edits = [small(), small("one"), small(), small("one"), *(small() for _ in range(12))]
    with vlm.weights.folded([op for edit in edits for op in edit.ops]):
        wanted = weights_of(vlm)
    handles = [vlm.apply(edit) for edit in edits]
    assert all(torch.equal(wanted[name], tensor) for name, tensor in weights_of(vlm).items())
    while handles:
        handles.pop(0).undo()
    assert_untouched(vlm, before)
    assert not vlm.weights._wide


def test_state_depends_on_what_is_in_force_alone(llava: VLM):
    """Applying c, a, b and undoing c gives the weights of applying a, b."""
    a, b, c = (random_edit(llava, seed) for seed in (1, 2, 3))
    with llava.using(a), llava.using(b):
        expected = weights_of(llava)
    with ExitStack() as stack:
        first = llava.apply(c)
        stack.enter_context(llava.using(a))
        stack.enter_context(llava.using(b))
        first.undo()
        assert_untouched(llava, expected)
    with llava.using(a + b):
        assert_untouched(llava, expected)


def test_exceptions_inside_a_block(llava: VLM, picture):
    before = weights_of(llava)
    with pytest.raises(ZeroDivisionError), llava.using(random_edit(llava, 1)), llava.using(random_edit(llava, 2)):
        raise ZeroDivisionError
    assert_untouched(llava, before)


def test_what_cannot_be_applied_changes_nothing(llava: VLM):
    before = weights_of(llava)
    name, tensor = next((n, t) for n, t in llava.weights.base() if t.dim() == 2)
    good = WeightOp.deltas({name: torch.ones_like(tensor)})
    other = WeightOp.deltas({name: torch.ones(2)})
    with pytest.raises(EditError, match="has shape"):
        llava.apply(Edit(base=llava.fingerprint, ops=(good, other)))
    with pytest.raises(EditError, match="no tensor 'nowhere'"):
        llava.apply(Edit(base=llava.fingerprint, ops=(good, WeightOp.deltas({"nowhere": torch.ones(2)}))))
    with pytest.raises(EditError, match="no executor"):
        llava.apply(Edit(base=llava.fingerprint, ops=(object(),)))  # type: ignore[arg-type]
    assert_untouched(llava, before)
    assert not llava.active_edits


def test_another_models_edit_is_refused(llava: VLM):
    edit = Edit(base="0" * 32, ops=())
    with pytest.raises(FingerprintError) as caught, llava.using(edit):
        pass
    assert "0" * 32 in str(caught.value)
    assert llava.fingerprint in str(caught.value)


def test_edits_by_row(vlm: VLM, picture):
    """A batch with its own edit (or none) for every row gives what single runs with that edit give."""
    examples = [Example(f"what is at place {i} ?", picture(i) if i else None, "red") for i in range(3)] * 2
    one, two = random_edit(vlm, 1), random_edit(vlm, 2)
    edits = [None, one, two, one + two, None, two]
    prepared = vlm.prepare(examples)
    together = vlm.run(prepared, edits).rows
    texts = vlm.generate(prepared, edits, max_new_tokens=3)
    for example, edit, row, text in zip(examples, edits, together, texts, strict=True):
        alone = vlm.prepare([example])
        torch.testing.assert_close(row.logits_NV, vlm.run(alone, edit).rows[0].logits_NV, atol=1e-4, rtol=1e-4)
        assert text == vlm.generate(alone, edit, max_new_tokens=3)[0]
    with pytest.raises(EditError, match="2 edits were given for 6 rows"):
        vlm.run(prepared, [one, two])


def test_pictures_are_encoded_anew_after_an_edit_of_the_encoder(vlm: VLM, picture):
    names = list(vlm.weights.named(vlm.parts.modules("all", ["connector"]), matrices_only=True))
    shapes = {name: tensor.shape for name, tensor in vlm.weights.base()}
    edit = Edit(base=vlm.fingerprint, ops=(WeightOp.deltas({name: torch.randn(shapes[name]) for name in names}),))
    prepared = vlm.prepare([Example("what ?", picture(1), "red")])
    before = vlm.run(prepared).rows[0].logits_NV
    edited = vlm.run(prepared, edit).rows[0].logits_NV
    again = vlm.run(prepared).rows[0].logits_NV
    assert not torch.allclose(before, edited, atol=1e-4)
    assert torch.equal(before, again)


def test_bare_for_a_while(vlm: VLM, picture):
    """Without all that is in force, then with it as before: in its order, and still to be taken back one by one."""
    examples = [Example("what ?", picture(seed), "red") for seed in (1, 2, 3)]
    prepared = vlm.prepare(examples)
    plain, live = vlm.run(prepared).rows[0].logits_NV, weights_of(vlm)
    value, other = (random_edit(vlm, seed) for seed in (0, 0))  # of the same tensors, a value among them
    handles = [vlm.apply(one) for one in (value, Edit(vlm.fingerprint, (shift(vlm, 1),)), other)]
    edited, weights = vlm.run(prepared).rows[0].logits_NV, weights_of(vlm)
    in_force = vlm.active_edits
    with vlm.bare():
        assert vlm.active_edits == ()
        assert_untouched(vlm, live)
        assert torch.equal(vlm.run(prepared).rows[0].logits_NV, plain)
    assert vlm.active_edits == in_force
    assert_untouched(vlm, weights)
    assert torch.equal(vlm.run(prepared).rows[0].logits_NV, edited)
    with vlm.without(StateOp):
        some = vlm.run(prepared).rows[0].logits_NV
        assert not torch.equal(some, edited) and not torch.equal(some, plain)
    for handle in handles:
        handle.undo()
    assert_untouched(vlm, live)
    assert torch.equal(vlm.run(prepared).rows[0].logits_NV, plain)


def test_stacks_are_for_one_model(llava: VLM):
    with pytest.raises(EditError, match="different models"):
        Edit(base="a", ops=()) + Edit(base="b", ops=())


def edits_of_all_kinds(vlm: VLM, examples: Sequence[Example]) -> list[Edit]:
    """Changes of weights in all forms, changes of states, routes, given answers, and stacks of these."""
    weights = [random_edit(vlm, seed) for seed in range(5)]
    picture = Key(picture=vlm.prepare(examples[:1]).rows[0].content)
    question = Key(question=examples[1].question)
    ops = [
        (shift(vlm, 0),),
        (shift(vlm, 2), shift(vlm, 1)),
        (RouteOp(picture, (shift(vlm, 1), *weights[0].ops)),),
        (RouteOp(question, (RouteOp(picture, (AnswerOp("red"),)), *weights[1].ops)),),
        (RouteOp(Key(question=examples[2].question), (AnswerOp("no"),)),),
    ]
    others = [Edit(base=vlm.fingerprint, ops=one) for one in ops]
    return [*weights, *others, weights[2] + others[1], others[2] + weights[3]]


def shift(vlm: VLM, layer: int, place: int = 2) -> StateOp:
    """Random vectors on two visual tokens."""
    drawn = torch.randn(2, len(vlm.parts.norm.weight), generator=torch.Generator().manual_seed(layer))
    return StateOp(layer, torch.tensor([0, place]), drawn)


def folded(live: dict[str, Any], base: dict[int, torch.Tensor], edits: Sequence[Edit]) -> dict[int, torch.Tensor]:
    """Every parameter with the edits' own changes of weights, reckoned by hand; by identity, since some are tied."""
    values = dict(base)
    for op in (op for edit in edits for op in edit.ops if isinstance(op, WeightOp)):
        for name, change in op.changes.items():
            one, *more = change.tensors
            key = id(live[name])
            values[key] = one if change.form == "value" else values[key] + (one @ more[0] if more else one)
    return values


class Bystander:
    """Somebody else's hooks: they count calls, and break off the next one when they are told to."""

    def __init__(self, vlm: VLM) -> None:
        self.calls, self.breaks = 0, False
        inner, last = vlm.parts.layers[1], vlm.parts.layers[-1]
        self.handles = [
            inner.register_forward_hook(self._see),
            inner.register_forward_pre_hook(self._see),
            last.register_forward_hook(self._see),
        ]

    def _see(self, *_: object) -> None:
        self.calls += 1
        if self.breaks:
            raise ZeroDivisionError


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_operations_over_all_families(family: str, tiny: Callable[..., VLM], picture: Callable[..., Any]):
    """Whatever is applied and undone in whatever order, and whatever goes wrong meanwhile, nothing of it is left."""
    assert OPERATIONS * len(FAMILIES) > 1000
    vlm = tiny(family)
    examples = [
        Example("what colour is the cup ?", picture(1), "red"),
        Example("is there a dog ?", picture(1), "no , there is a cat"),
        Example("who wrote the song", None, "nobody"),
    ]
    prepared = vlm.prepare(examples)
    alone = hooks_of(vlm)
    bystander = Bystander(vlm)
    weights, hooks = weights_of(vlm), hooks_of(vlm)
    logits = [row.logits_NV for row in vlm.run(prepared).rows]
    live: dict[str, Any] = dict(vlm.weights.base())
    base = {id(parameter): parameter.detach().clone() for parameter in live.values()}
    edits = edits_of_all_kinds(vlm, examples)
    matrix = next(name for name, parameter in live.items() if parameter.dim() == 2)
    far = Edit(base=vlm.fingerprint, ops=(shift(vlm, 1), shift(vlm, 3, place=9999)))
    misfit = Edit(base=vlm.fingerprint, ops=(*edits[0].ops, WeightOp.deltas({matrix: torch.ones(2)})))
    dice = random.Random(family)
    failures: list[Exception] = []

    def run_by_row(first: Sequence[Edit | None] = (None, *edits), breaks: bool = False) -> None:
        """Rows with edits of their own; the first one's perhaps cannot be carried out, a hook perhaps breaks off."""
        mine = [dice.choice(first), *(dice.choice([None, *edits]) for _ in examples[1:])]
        bystander.breaks = breaks
        for run in (vlm.run, partial(vlm.generate, max_new_tokens=2)):
            try:
                run(prepared, mine)
            except (EditError, ZeroDivisionError) as error:
                failures.append(error)
        bystander.breaks = False

    def fail() -> None:
        """A block that is left by an exception; an edit of another shape; one of another model."""
        with suppress(ZeroDivisionError), vlm.using(dice.choice(edits)), vlm.using(dice.choice(edits)):
            raise ZeroDivisionError
        with pytest.raises(EditError):
            vlm.apply(misfit)
        with pytest.raises(FingerprintError):
            vlm.apply(Edit(base="0" * 32, ops=()))

    disturbances = cycle([fail, run_by_row, partial(run_by_row, [far]), partial(run_by_row, breaks=True)])
    held: list[Active] = []
    gone: list[Active] = []
    for step in range(OPERATIONS):
        if held and dice.random() < 0.5:
            gone.append(held.pop(dice.randrange(len(held))))
            gone[-1].undo()
        else:
            held.append(vlm.apply(dice.choice(edits)))
        if gone and dice.random() < 0.2:
            dice.choice(gone).undo()  # a second time: nothing happens
        if step % 4 == 0:
            next(disturbances)()
        assert vlm.active_edits == tuple(handle.edit.id for handle in held)
        assert hooks_of(vlm) == hooks
        if step % 10 == 0:
            values = folded(live, base, [handle.edit for handle in held])
            for parameter in live.values():
                torch.testing.assert_close(parameter.detach(), values[id(parameter)], atol=1e-5, rtol=1e-5)
    dice.shuffle(held)
    for handle in held:
        handle.undo()
    assert [type(error) for error in failures] == [EditError, EditError, ZeroDivisionError, ZeroDivisionError] * 4
    assert_untouched(vlm, weights)
    assert not vlm.weights._pristine
    assert hooks_of(vlm) == hooks
    before = bystander.calls
    for again in (prepared, vlm.prepare(examples)):
        rows = vlm.run(again).rows
        assert all(torch.equal(row.logits_NV, one) for row, one in zip(rows, logits, strict=True))
    assert bystander.calls >= before + 2 * len(bystander.handles)
    for handle in bystander.handles:
        handle.remove()
    assert hooks_of(vlm) == alone
