"""Texts in front of all, pictures too: the same as when they are written there, and run once for all that is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import vlmend
from conftest import FAMILIES, said_by_forced_runs
from vlmend import VLM, Edit, Example, WeightOp
from vlmend.edits.neurons import NeuronOp
from vlmend.edits.prompts import PromptOp, RecallOp
from vlmend.edits.states import StateOp
from vlmend.errors import EditError, PromptError
from vlmend.models import beginnings
from vlmend.models.trace import called_through

OPENING = " ".join(f"so the cup at {place} is {colour} ." for place in range(6) for colour in ("red", "blue")) + "\n\n"
TEXT, LEAD = "new fact : the cup is red\n", "prompt : "
OP = PromptOp(TEXT, LEAD, OPENING)
FIRST = ("blip2", "blip2_llama", "instructblip")  # have their picture before all words
# Every token of the prompt sees all of it, and its pictures are put in front: nothing can be shared.
WHOLE = ("paligemma",)
NOT_GENERATED = (*WHOLE, "gemma3")  # its cache forgets what is far back


def edit(vlm: VLM, *ops) -> Edit:
    return Edit(base=vlm.fingerprint, ops=ops)


@pytest.fixture
def examples(picture):
    return [
        Example("what colour is the cup ?", picture(1), "red"),
        Example("what colour is the cup ?", picture(2), "no , it is blue"),
        Example("who wrote the song", None, "nobody"),
        Example("what is in <image> ?", picture(1), "a cat"),
        Example("<image> what is in it ?", picture(1), "a cat"),
    ]


def run(vlm: VLM, prepared, edits=None, **how) -> list[torch.Tensor]:
    return [row.logits_NV for row in vlm.run(prepared, edits, **how).rows]


def alike(some, others) -> None:
    for one, other in zip(some, others, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def unshared(vlm: VLM, prepared):
    """The same rows, with nothing that is known to be an opening."""
    return replace(prepared, rows=tuple(replace(row, opened=0) for row in prepared.rows))


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*FIRST}))
def test_it_stands_first_and_is_run_once(family, tiny, examples, tmp_path):
    """In every family, teacher-forced and generated, the same as without what is known of openings."""
    vlm = tiny(family)
    mine = Edit.load(edit(vlm, OP).save(tmp_path / "edit"))
    with vlm.using(mine):
        prepared = vlm.prepare(examples)
    for row, example in zip(prepared.rows, examples, strict=True):
        assert row.prompt.index(OPENING.strip()) < row.prompt.index(TEXT.strip())
        assert (row.opening, row.before, row.question) == (OPENING, TEXT + LEAD, example.question)
        assert not bool(row.visual_T[: row.opened].any())
        opened = vlm.tokenizer.decode(row.ids_T[: row.opened])
        assert "".join(opened.split()).endswith("".join(OPENING.split())) == (family not in WHOLE or not row.pictures)
    plain = unshared(vlm, prepared)
    plain = replace(plain, rows=tuple(replace(row, plain=None, before="", opening="") for row in plain.rows))
    wanted = run(vlm, plain)
    alike(run(vlm, prepared, mine), wanted)
    with counted(vlm) as counts:
        alike(run(vlm, prepared, mine), wanted)
        alike(run(vlm, vlm.prepare(examples), mine), wanted)  # other rows, which nothing is kept with
    longest = max(len(row.ids_T) + len(row.target_N) for row in prepared.rows)
    assert (max(counts) == longest) == (family in WHOLE)
    said = vlm.generate(plain, max_new_tokens=4)
    assert vlm.generate(prepared, mine, max_new_tokens=4) == said
    with counted(vlm) as counts:
        assert vlm.generate(prepared, mine, max_new_tokens=4) == said
    assert (max(counts) < longest - 40) == (family not in NOT_GENERATED)
    assert said[0] == said_by_forced_runs(vlm, examples[0], mine, tokens=4)
    base = run(vlm, vlm.prepare(examples))
    each = [mine, *[None] * (len(examples) - 1)]
    alike(run(vlm, vlm.prepare(examples), each), [wanted[0], *base[1:]])
    alike(run(vlm, prepared), base)


@contextmanager
def counted(vlm: VLM) -> Iterator[list[int]]:
    """Within the block the numbers of tokens for which the lowest layer is run, call by call."""
    counts: list[int] = []

    def way(forward, states, *args, **named):
        counts.append(states.shape[-2])
        return forward(states, *args, **named)

    with called_through(vlm.parts.layers[0], way):
        yield counts


@pytest.mark.parametrize("family", FIRST)
def test_a_model_that_has_its_picture_first(family, tiny, examples):
    """It says so; where no picture is asked about, the text stands first."""
    vlm = tiny(family)
    mine = edit(vlm, OP)
    with pytest.raises(PromptError, match="takes its picture before all words"):
        vlm.run(vlm.prepare(examples[:1]), mine)
    (row,) = run(vlm, vlm.prepare(examples[2:3]), mine)
    written = replace(examples[2], question=OPENING + TEXT + LEAD + examples[2].question)
    alike([row], run(vlm, vlm.prepare([written])))


def test_it_is_run_anew_when_weights_change(llava: VLM, examples):
    """And known again when they are as they were; what acts beside the layers' own neurons is told apart."""
    mine, prepared = edit(llava, OP), llava.prepare(examples)
    base = run(llava, prepared, mine)
    names = llava.weights.named(llava.parts.modules([0], ["mlp.down"]), matrices_only=True)
    changed = edit(llava, WeightOp.deltas({name: torch.ones_like(weight) / 20 for name, weight in names.items()}))
    width = len(llava.parts.norm.weight)
    neuron = NeuronOp(0, torch.ones(1, width) / 10, torch.ones(1), torch.ones(1, width) / 5)
    for other in (changed, edit(llava, neuron)):
        with llava.using(other):
            rows = llava.prepare(examples)
            shared = run(llava, rows, mine)
            with llava.using(mine):
                alike(shared, run(llava, unshared(llava, llava.prepare(examples))))
                assert llava.generate(rows, max_new_tokens=3) == llava.generate(unshared(llava, rows), max_new_tokens=3)
        assert not torch.allclose(shared[0], base[0], atol=1e-3)
    alike(run(llava, prepared, mine), base)


def test_with_changes_at_the_picture(llava: VLM, examples, monkeypatch):
    """Rows whose picture an edit changes go on from the opening too, and are changed where their picture is."""
    places, layer = torch.arange(3), 1
    op = StateOp(layer, places, torch.ones(3, len(llava.parts.norm.weight)))
    both, prepared = edit(llava, OP, op), llava.prepare(examples[:2])
    with llava.using(edit(llava, OP)):
        plain = unshared(llava, llava.prepare(examples[:2]))
        wanted = run(llava, plain, edit(llava, op))
        assert not torch.allclose(wanted[0], run(llava, plain)[0], atol=1e-3)
    for how in ({}, {"keep_beginnings": True}, {"keep_beginnings": True}, {"keep": {llava.last_shared_stage}}):
        alike(run(llava, prepared, both, **how), wanted)


def test_of_many_openings_those_used_last_are_kept(llava: VLM, examples, monkeypatch):
    monkeypatch.setattr(beginnings, "_OPENINGS", 200)
    prepared = llava.prepare(examples)
    some = [edit(llava, replace(OP, opening=f"{place} {OPENING}")) for place in range(3)]
    wanted = [run(llava, prepared, one) for one in some]
    for one, found in zip(some * 2, wanted * 2, strict=True):
        alike(run(llava, prepared, one), found)
        assert sum(begun.tokens for begun in llava._begun._openings._kept.values()) <= 200
    assert llava._begun._openings._kept


def test_of_several_the_likest_brings_its_own_opening(llava: VLM, examples):
    keys = llava.keys(llava.prepare(examples[:2]))
    op = RecallOp(("one\n", "two\n"), keys, 1, None, LEAD, ("a b c\n", "d e f\n"))
    back = RecallOp.rebuilt(op.fields(), op.tensors(), ())
    with llava.using(edit(llava, back)):
        rows = llava.prepare(examples[:2]).rows
    assert [(row.opening, row.before) for row in rows] == [("a b c\n", "one\n" + LEAD), ("d e f\n", "two\n" + LEAD)]
    with pytest.raises(EditError, match="1 openings do not fit 2 texts"):
        RecallOp(("one", "two"), keys, 1, None, LEAD, ("a",))
    with pytest.raises(EditError, match="has <image> in it"):
        PromptOp(TEXT, LEAD, "so <image>")


def test_the_place_of_a_picture_whose_mark_begins_as_what_follows(picture):
    """`<image><user>...`: where a template puts the picture first, its place is known by its mark."""
    (row,) = vlmend.load("demo-llava").prepare([Example("so <image> what is this?", picture(1))]).rows
    assert "so <image> what is this?" in row.prompt
