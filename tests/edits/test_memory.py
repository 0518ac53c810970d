"""Many changes of visual states under keys, of which a prompt gets one or none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmend import Edit, Example
from vlmend.editors.vead_memory_training import KeyReader
from vlmend.edits.compact import compact
from vlmend.edits.memory import MemoryOp, read_off
from vlmend.edits.recall import Keys, agreement, keys_of
from vlmend.edits.states import StateOp
from vlmend.errors import EditError
from vlmend.models.starting import states_behind

LAYER, HEADS = 1, 4


@pytest.fixture(scope="module")
def reader(tiny) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    width = len(tiny("llava").parts.norm.weight)
    return dict(KeyReader(width, 32, 16).requires_grad_(False).state_dict())


def key(vlm, reader, example: Example) -> Keys:
    prepared = vlm.prepare([example])
    with torch.no_grad():
        (states_1TD,) = states_behind(vlm.parts, [LAYER], lambda: vlm.run(prepared))
        return read_off(states_1TD[0][: len(prepared.rows[0].ids_T)], prepared.rows[0].visual_T, reader, HEADS)


def entry(vlm, seed: int) -> StateOp:
    width = len(vlm.parts.norm.weight)
    draw = torch.Generator().manual_seed(seed)
    return StateOp(LAYER, torch.arange(3), torch.randn(3, width, generator=draw))


def memory(vlm, reader, asked: list[Example], bar: float = 0.999) -> MemoryOp:
    keys = [key(vlm, reader, example) for example in asked]
    stored = Keys(torch.cat([one.asked_NC for one in keys]), torch.cat([one.seen_NC for one in keys]))
    return MemoryOp(LAYER, reader, HEADS, stored, tuple(entry(vlm, seed) for seed in range(len(asked))), bar)


def logits(vlm, example: Example, *ops) -> torch.Tensor:
    edit = Edit(vlm.fingerprint, ops) if ops else None
    return vlm.run(vlm.prepare([replace(example, answer="red")]), edit).rows[0].logits_NV


@pytest.fixture
def asked(picture) -> list[Example]:
    return [Example("what colour ?", picture(1)), Example("how many ?", picture(1)), Example("how many ?", picture(2))]


def test_each_prompt_gets_its_own_and_others_none(llava, reader, asked, picture) -> None:
    op = memory(llava, reader, asked)
    for place, example in enumerate(asked):
        assert torch.equal(logits(llava, example, op), logits(llava, example, entry(llava, place)))
    for other in (Example("what colour ?", picture(2)), Example("who is it ?", picture(3)), Example("how many ?")):
        assert torch.equal(logits(llava, other, op), logits(llava, other))


def test_a_batch_of_different_prompts(llava, reader, asked) -> None:
    """Padding takes no part in a key."""
    op = memory(llava, reader, asked)
    rows = [replace(one, answer="red") for one in (*asked, Example("how many ?"))]
    rows[0] = replace(rows[0], answer="red and green and blue")
    together = llava.run(llava.prepare(rows), Edit(llava.fingerprint, (op,)))
    for row, example in zip(together.rows, rows, strict=True):
        alone = llava.run(llava.prepare([example]), Edit(llava.fingerprint, (op,))).rows[0]
        torch.testing.assert_close(row.logits_NV, alone.logits_NV, atol=1e-4, rtol=0)


def test_in_generation_as_teacher_forced(llava, reader, asked) -> None:
    op = memory(llava, reader, asked)
    for place, example in enumerate(asked):
        prepared = llava.prepare([example])
        alone = Edit(llava.fingerprint, (entry(llava, place),))
        recalled = Edit(llava.fingerprint, (op,))
        assert llava.generate(prepared, recalled, max_new_tokens=5) == llava.generate(prepared, alone, max_new_tokens=5)


def test_saved_and_loaded(llava, reader, asked, tmp_path) -> None:
    """The reader is stored once, and so is a tensor that entries share."""
    op = memory(llava, reader, asked)
    edit = Edit(llava.fingerprint, (op, replace(op, bar=0.5)))
    back = Edit.load(edit.save(tmp_path / "edit"))
    assert back.id == edit.id
    for example in asked:
        assert torch.equal(logits(llava, example, *edit.ops), logits(llava, example, *back.ops))
    size = (tmp_path / "edit" / "edit.safetensors").stat().st_size
    once = Edit(llava.fingerprint, (op,)).save(tmp_path / "once")
    assert size < 1.2 * (once / "edit.safetensors").stat().st_size


def test_one_memory_after_another(llava, reader, asked) -> None:
    """Each recalls by itself, as it did when it was made."""
    first, second = (Edit(llava.fingerprint, (memory(llava, reader, some),)) for some in (asked[:1], asked[1:]))
    both = first + second
    assert torch.equal(logits(llava, asked[0], *both.ops), logits(llava, asked[0], *first.ops))
    assert torch.equal(logits(llava, asked[1], *both.ops), logits(llava, asked[1], *second.ops))


def test_memories_with_one_reader_become_one(llava, reader, asked, tmp_path) -> None:
    whole = memory(llava, reader, asked)
    parts = [
        replace(whole, keys=whole.keys[place : place + 1], entries=whole.entries[place : place + 1])
        for place in range(3)
    ]
    Edit(llava.fingerprint, (parts[0],)).save(
        tmp_path / "kept"
    )  # its reader is read as other tensors of the same values
    loaded = Edit.load(tmp_path / "kept").ops[0]
    (one,) = compact(Edit(llava.fingerprint, (loaded, *parts[1:]))).ops
    for example in asked:
        assert torch.equal(logits(llava, example, one), logits(llava, example, whole))
    other = replace(parts[1], bar=0.5)
    anew = replace(parts[2], reader={name: tensor + 1.0 for name, tensor in reader.items()})
    apart = Edit(llava.fingerprint, (parts[0], other, anew, entry(llava, 7)))
    assert compact(apart) is apart


def test_agreement_is_the_lesser_of_two() -> None:
    one = Keys(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    others = Keys(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert agreement(one, others).tolist() == [[0.0, pytest.approx(0.6)]]


def test_padding_changes_no_key(reader) -> None:
    width = len(reader["norm.weight"])
    words, visual = torch.randn(1, 4, width), torch.randn(1, 9, width)
    whole = keys_of(words, torch.ones(1, 4).bool(), visual, torch.ones(1, 9).bool(), reader, HEADS)
    padded_words = torch.cat([torch.randn(1, 2, width), words], 1)
    padded_visual = torch.cat([torch.randn(1, 3, width), visual], 1)
    masks = torch.tensor([[False] * 2 + [True] * 4]), torch.tensor([[False] * 3 + [True] * 9])
    again = keys_of(padded_words, masks[0], padded_visual, masks[1], reader, HEADS)
    torch.testing.assert_close(whole.asked_NC, again.asked_NC)
    torch.testing.assert_close(whole.seen_NC, again.seen_NC)


def test_refused(llava, reader, asked) -> None:
    op = memory(llava, reader, asked)
    with pytest.raises(EditError, match="a memory of 2 entries has 3 and 3 keys"):
        replace(op, entries=op.entries[:2])
    with pytest.raises(EditError, match="the memory behind layer 0 has an entry that acts behind layer 1"):
        replace(op, layer=0)
    with pytest.raises(EditError, match="the edit acts after layer 1; the model has 1 layers"):
        op.check(1, len(reader["norm.weight"]))
    with pytest.raises(EditError, match="the edit reads states of width"):
        op.check(4, 7)
