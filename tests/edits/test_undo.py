"""Edits come and go in any order; what is left is bit for bit what it should be."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest
import torch

from conftest import assert_untouched, weights_of
from vlmend import VLM, Edit, Example, WeightOp
from vlmend.errors import EditError, FingerprintError


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
    fingerprint = vlm.fingerprint
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
    del vlm.__dict__["fingerprint"]
    assert vlm.fingerprint == fingerprint


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


def test_stacks_are_for_one_model(llava: VLM):
    with pytest.raises(EditError, match="different models"):
        Edit(base="a", ops=()) + Edit(base="b", ops=())
