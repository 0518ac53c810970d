"""Texts before the question: the same as when they are written into it, and which of several is put."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import FAMILIES, said_by_forced_runs
from vlmend import VLM, Edit, Example, WeightOp
from vlmend.edits.compact import compact
from vlmend.edits.compare import diff
from vlmend.edits.merge import merge
from vlmend.edits.prompts import PromptOp, RecallOp
from vlmend.edits.routes import AnswerOp, Key, RouteOp
from vlmend.errors import EditError, PromptError
from vlmend.models.prompts import put_before
from vlmend.models.trace import capture

TEXT, LEAD = "new fact : the cup is red\n", "prompt : "
OP = PromptOp(TEXT, LEAD)


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


def askable(vlm: VLM, examples) -> list[Example]:
    """Those that a model can be asked with a text before them: some take their picture before all words."""
    found = []
    for example in examples:
        try:
            vlm.prepare([written(example)])
            found.append(example)
        except PromptError:
            assert example.question == "what is in <image> ?"
    return found


def written(example: Example, text: str = TEXT + LEAD) -> Example:
    return replace(example, question=put_before(text, example.question))


def logits(vlm: VLM, examples, edits=None) -> list[torch.Tensor]:
    return [row.logits_NV for row in vlm.run(vlm.prepare(examples), edits).rows]


def alike(some, others) -> None:
    for one, other in zip(some, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_where_a_text_is_put():
    assert put_before("so ", "what ?") == "so what ?"
    assert put_before("so ", "<image>\nwhat ?") == "<image>\nso what ?"
    assert put_before("so ", "<image> <image> what ?") == "<image> <image> so what ?"
    assert put_before("so ", " is <image> red ?") == "so  is <image> red ?"


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_as_if_it_were_written_into_the_question(family, tiny, examples, picture, tmp_path):
    """In every family: teacher-forced and generated, alone and beside rows that have none, and undone."""
    vlm = tiny(family)
    examples = askable(vlm, examples)
    try:
        both = Example("<image> <image> which is red ?", (picture(1), picture(2, (40, 28))), "the first")
        vlm.prepare([both])
        examples.append(both)
    except PromptError as error:
        assert "takes one picture" in str(error)
    mine = edit(vlm, OP)
    mine = Edit.load(mine.save(tmp_path / "edit"))
    base, wanted = logits(vlm, examples), logits(vlm, [written(example) for example in examples])
    alike(logits(vlm, examples, mine), wanted)
    assert not torch.allclose(base[0], wanted[0], atol=1e-3)
    prepared = vlm.prepare(examples)
    said = vlm.generate(prepared, mine, max_new_tokens=4)
    assert said == vlm.generate(vlm.prepare([written(example) for example in examples]), max_new_tokens=4)
    assert said[0] == said_by_forced_runs(vlm, examples[0], mine, tokens=4)
    each = [mine, *[None] * (len(examples) - 1)]
    alike([row.logits_NV for row in vlm.run(prepared, each).rows], [wanted[0], *base[1:]])
    with vlm.using(mine):
        inside = vlm.prepare(examples)
        alike([row.logits_NV for row in vlm.run(prepared).rows], wanted)
        alike([row.logits_NV for row in vlm.run(inside).rows], wanted)
        assert all(row.before == TEXT + LEAD and TEXT.strip() in row.prompt for row in inside.rows)
    alike([row.logits_NV for row in vlm.run(inside).rows], base)
    assert all(map(torch.equal, [row.logits_NV for row in vlm.run(prepared).rows], base))


def test_pictures_are_encoded_once_and_rows_prepared_once(llava: VLM, examples):
    prepared = llava.prepare(examples[:2])
    with capture({"vision": llava.parts.vision}) as calls:
        llava.run(prepared)
        llava.run(prepared, edit(llava, OP))
        llava.generate(prepared, edit(llava, OP), max_new_tokens=1)
    assert len(calls) == 1
    again = llava.following(prepared.rows[0], "blue")
    llava.run(replace(prepared, rows=(again,)), edit(llava, OP))
    assert len(prepared.told.prompts) == 2
    assert len(prepared.told.rows) == 3


def test_kept_states_are_those_of_the_row_with_its_text(llava: VLM, examples):
    """What was kept of a row is not taken for the row with a text, in any way of keeping it."""
    few, mine = examples[:3], edit(llava, OP)
    wanted, prepared = logits(llava, [written(example) for example in few]), llava.prepare(few)
    stages = {llava.last_shared_stage, 4}
    for how in ({"keep": stages}, {"keep": {llava.last_shared_stage}}, {"first": 4}, {"keep_beginnings": True}):
        base = [row.logits_NV for row in llava.run(prepared, **how).rows]
        for _ in range(2):
            alike([row.logits_NV for row in llava.run(prepared, mine, **how).rows], wanted)
            alike([row.logits_NV for row in llava.run(prepared, **how).rows], base)
    assert llava.first_stage(mine.ops) == 0
    assert llava.acts_on(mine, prepared.rows[0])


def test_routes_see_the_question_as_it_was_asked(llava: VLM, examples):
    inner = RouteOp(Key(question=examples[0].question), (PromptOp("so "), AnswerOp("no")))
    prepared = llava.prepare(examples)
    assert llava.generate(prepared, edit(llava, OP, inner), max_new_tokens=4)[:2] == ["no", "no"]
    mine = edit(llava, OP, RouteOp(Key(question=examples[0].question), (PromptOp("so "),)))
    wanted = [written(one, f"{TEXT}so {LEAD}" if at < 2 else TEXT + LEAD) for at, one in enumerate(examples)]
    alike(logits(llava, examples, mine), logits(llava, wanted))
    with llava.using(mine):
        assert llava.prepare(examples).rows[0].question == examples[0].question


def test_answers_in_the_models_place_are_given_as_ever(llava: VLM, examples):
    alike(
        logits(llava, examples, edit(llava, OP, AnswerOp("red"))), logits(llava, examples, edit(llava, AnswerOp("red")))
    )


def test_several_texts_follow_each_other(llava: VLM, examples):
    mine = edit(llava, OP) + edit(llava, PromptOp("so it is . ", "now : "))
    alike(logits(llava, examples, mine), logits(llava, [written(e, f"{TEXT}so it is . now : ") for e in examples]))


def test_what_is_told_of_an_edit(llava: VLM, tmp_path):
    mine = edit(llava, OP, RecallOp(("so",), torch.zeros(1, 2, 4)))
    assert diff(mine, mine).others == (("prompt", "recall"),) * 2
    with pytest.raises(EditError, match="operations of kind prompt, recall cannot be merged"):
        merge(llava, [mine], tmp_path / "merged")
    with pytest.raises(EditError, match="keys have width 4, the model's states"):
        llava.run(llava.prepare([Example("what ?", None, "so")]), mine)


@pytest.mark.parametrize(
    ("op", "problem"),
    [
        (lambda: PromptOp(" "), "a text to be put before the question is empty"),
        (lambda: PromptOp("so <image>"), "has <image> in it, and no picture"),
        (lambda: RecallOp((), torch.zeros(0, 2, 4)), "is empty"),
        (lambda: RecallOp(("so",), torch.zeros(1, 4)), r"keys of shape \(1, 4\) do not fit 1 texts"),
        (lambda: RecallOp(("so",), torch.zeros(1, 2, 4), top=0), "top is 0"),
    ],
)
def test_refusals(op, problem):
    with pytest.raises(EditError, match=problem):
        op()


def recall(vlm: VLM, examples, **settings) -> RecallOp:
    texts = tuple(f"text {place} . " for place in range(len(examples)))
    return RecallOp(texts, vlm.keys(vlm.prepare(examples)), lead="so : ", **settings)


def told(vlm: VLM, op: RecallOp, example: Example) -> str:
    with vlm.using(edit(vlm, op)):
        return vlm.prepare([example]).rows[0].before


def test_what_is_likest_is_put_last(vlm: VLM, examples):
    """In unlike families: every entry is recalled by its own question and picture; a picture tells questions apart."""
    some = [examples[0], examples[1], examples[2], Example("is there a dog ?", examples[0].image)]
    op = recall(vlm, some, top=1)
    for place, example in enumerate(some):
        assert told(vlm, op, example) == f"text {place} . so : "
    own = vlm.keys(vlm.prepare(some))
    torch.testing.assert_close((own * own).sum((1, 2)), torch.tensor([2.0, 2.0, 1.0, 2.0]))
    three = told(vlm, replace(op, top=3), some[1])
    assert three.endswith("text 1 . so : ") and three.count("text") == 3
    alike(
        logits(vlm, [replace(some[1], answer="red")], edit(vlm, op)),
        logits(vlm, [replace(some[1], question=f"text 1 . so : {some[1].question}", answer="red")]),
    )


def test_of_equally_like_ones_the_first(llava: VLM, examples):
    op = recall(llava, [examples[0]] * 4, top=2)
    assert told(llava, op, examples[0]) == "text 1 . text 0 . so : "


def test_too_little_like_is_not_put(llava: VLM, examples):
    """Nor is a lead where nothing is put; the row is what it is without the operation."""
    op = recall(llava, examples[:2], top=1, least=1.999)
    assert told(llava, op, examples[1]) == "text 1 . so : "
    assert told(llava, op, examples[2]) == ""
    assert torch.equal(logits(llava, examples[2:3], edit(llava, op))[0], logits(llava, examples[2:3])[0])


def test_keys_of_a_row_with_a_text_are_those_of_the_row(tiny, examples):
    """Also where the encoder reads the question: what is recalled does not depend on what was put before."""
    vlm = tiny("instructblip")
    op = recall(vlm, examples[:3], top=1)
    with vlm.using(edit(vlm, op)):
        inside = vlm.prepare(examples[:3])
        assert all(map(torch.equal, vlm.keys(inside), op.keys_E2D))
        before = [row.before for row in inside.rows]
        vlm.run(inside)
    assert before == [f"text {place} . so : " for place in range(3)]


def test_of_many_edits_one_memory_is_left(llava: VLM, examples):
    """Joined they put what one with all texts puts; with another way of putting they stay two."""
    ops = [recall(llava, [example], top=1) for example in examples[:3]]
    ops = [replace(op, texts=(f"text {place} . ",)) for place, op in enumerate(ops)]
    stacked = edit(llava, ops[0]) + edit(llava, ops[1]) + edit(llava, ops[2])
    (one,) = compact(stacked).ops
    assert isinstance(one, RecallOp)
    for place, example in enumerate(examples[:3]):
        assert told(llava, one, example) == f"text {place} . so : "
    assert ops[0].joined(replace(ops[1], top=2)) is None
    opened = [replace(op, openings=(f"first {place} . ",)) for place, op in enumerate(ops)]
    assert ops[0].joined(opened[1]) is None
    both = opened[0].joined(opened[1])
    assert isinstance(both, RecallOp) and both.openings == ("first 0 . ", "first 1 . ")
    factors = WeightOp.deltas({"a": torch.zeros(2, 2)})
    assert factors.joined(factors) is None
    shared = WeightOp.low_rank({"a": (torch.ones(2, 1), torch.ones(1, 2))}, shared="x")
    assert shared.joined(replace(shared)) is shared


def test_a_shared_change_is_made_once(llava: VLM, examples, tmp_path):
    """Edits that hold the same change of weights, by its name: in force together, stacked, and in rows of one batch."""
    name, tensor = next(iter(llava.weights.named(llava.parts.modules([2], ["mlp.down"])).items()))
    factors = {name: (torch.ones(tensor.shape[0], 1), torch.ones(1, tensor.shape[1]) / 20)}
    one, two = (edit(llava, WeightOp.low_rank(factors, shared="x"), PromptOp(text)) for text in ("so ", "now "))
    few, weights = examples[:2], llava.weights.named(llava.parts.modules([2], ["mlp.down"]))
    once = edit(llava, WeightOp.low_rank(factors))
    with llava.using(once):
        wanted = weights[name].clone()
    with llava.using(one), llava.using(two):
        assert torch.equal(weights[name], wanted)
    both = Edit.load((one + two).save(tmp_path / "both"))
    assert [op.kind for op in both.ops] == ["weight", "prompt", "prompt"]
    with llava.using(both):
        assert torch.equal(weights[name], wanted)
    with llava.using(once), llava.using(edit(llava, WeightOp.low_rank(factors))):
        assert not torch.equal(weights[name], wanted)
    prepared = llava.prepare(few)
    together = [row.logits_NV for row in llava.run(prepared, [one, two]).rows]
    alike(together, [logits(llava, [e], mine)[0] for e, mine in zip(few, (one, two), strict=True)])
