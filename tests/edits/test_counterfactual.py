"""A second, small model that answers what is in the scope of its edits: routes, memories, batches, and its decoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import said_by_forced_runs
from vlmend import VLM, Edit, Example
from vlmend.editors.serac_network import Network
from vlmend.edits.compact import compact
from vlmend.edits.counterfactual import CounterfactualOp
from vlmend.edits.decoder import decode, padded
from vlmend.edits.named import under
from vlmend.edits.prompts import PromptOp
from vlmend.edits.routes import AnswerOp, Key, RouteOp
from vlmend.edits.scope import keys_for
from vlmend.edits.speaker import Fact, say
from vlmend.errors import EditError, PromptError
from vlmend.models.intervene import LogitsOperation, first_stage

HEADS = 4


def network(vlm: VLM, picture, seed: int = 0) -> dict[str, torch.Tensor]:
    """Assets that know nothing, but tell what is asked from all else, and say something."""
    prepared = vlm.prepare([Example("what ?", picture(0))])
    (query,) = vlm.queries(prepared)
    assert query.visual_SD is not None
    torch.manual_seed(seed)
    made = Network(query.table_VD.shape[1], query.visual_SD.shape[1], 32, 16, (1, 2), float(query.table_VD.std()))
    for parameter in made.speaker.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tensors = dict(made.requires_grad_(False).state_dict())
    return tensors | {"scope.sharpness": torch.tensor(4000.0), "scope.middle": torch.tensor(0.999)}


def op_for(vlm: VLM, assets, asked: list[Example], **settings) -> CounterfactualOp:
    prepared = vlm.prepare(asked)
    queries = vlm.queries(prepared)
    keys = keys_for(queries, under("scope.", assets), HEADS)
    facts = tuple(Fact(query.words_K, row.target_N) for query, row in zip(queries, prepared.rows, strict=True))
    return CounterfactualOp(assets, HEADS, keys, facts, **{"bar": 0.5, **settings})


def told(vlm: VLM, op: CounterfactualOp, place: int, example: Example) -> torch.Tensor:
    """What the counterfactual model has to say to an example of one of its edits."""
    prepared = vlm.prepare([example])
    (query,), said_N = vlm.queries(prepared), prepared.rows[0].target_N[:-1]
    return say([(op.facts[place], query, said_N)], under("speaker.", op.assets), HEADS)[0]


def logits(vlm: VLM, examples: list[Example], edits=None) -> list[torch.Tensor]:
    return [row.logits_NV for row in vlm.run(vlm.prepare(examples), edits).rows]


def edit(vlm: VLM, *ops) -> Edit:
    return Edit(vlm.fingerprint, ops)


@pytest.fixture
def asked(picture) -> list[Example]:
    return [
        Example("what colour ?", picture(1), "red"),
        Example("how many birds ?", picture(1), "three birds"),
        Example("how many birds ?", picture(2), "two"),
        Example("how many birds ?", None, "a song"),
    ]


def test_each_query_gets_its_own_edit_and_others_the_model(vlm: VLM, asked, picture) -> None:
    """Hard: the counterfactual model's logits in scope, the model's bit for bit where not."""
    op = op_for(vlm, network(vlm, picture), asked)
    assert isinstance(op, LogitsOperation)
    now = logits(vlm, asked, edit(vlm, op))
    for place, (example, mine) in enumerate(zip(asked, now, strict=True)):
        torch.testing.assert_close(mine, told(vlm, op, place, example), atol=1e-5, rtol=1e-5)
    away = [
        Example("what colour ?", picture(2), "red"),
        Example("who is it ?", picture(1), "red"),
        Example("what colour ?", None, "red"),
        Example("what colour ?", picture(1, (28, 40)), "red and blue"),
    ]
    for mine, base in zip(logits(vlm, away, edit(vlm, op)), logits(vlm, away), strict=True):
        assert torch.equal(mine, base)
    said = vlm.generate(vlm.prepare(away), max_new_tokens=4)
    assert vlm.generate(vlm.prepare(away), edit(vlm, op), max_new_tokens=4) == said


def test_soft_is_a_mixture(llava: VLM, asked, picture) -> None:
    assets = network(llava, picture) | {"scope.sharpness": torch.tensor(1.0), "scope.middle": torch.tensor(0.0)}
    op = op_for(llava, assets, asked[:1], route="soft")
    (query,) = llava.queries(llava.prepare(asked[:1]))
    certain = op.mixing(query).score
    assert certain == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))))  # it agrees with itself
    (base_NV,), (now_NV,) = logits(llava, asked[:1]), logits(llava, asked[:1], edit(llava, op))
    told_NV = told(llava, op, 0, asked[0])
    mixture_NV = (1 - certain) * base_NV.softmax(-1) + certain * told_NV.softmax(-1)
    torch.testing.assert_close(now_NV, mixture_NV.log(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("route", ["hard", "soft"])
def test_every_row_has_its_own(vlm: VLM, asked, picture, route) -> None:
    """In one batch, as alone: of different edits, of none, with and without a picture; forced and in generation."""
    assets = network(vlm, picture)
    edits = [edit(vlm, op_for(vlm, assets, [one], route=route)) for one in asked]
    mine = [edits[0], edits[1] + edits[2], None, edits[3]]
    together = logits(vlm, asked, mine)
    texts = vlm.generate(vlm.prepare(asked), mine, max_new_tokens=4)
    for example, one, row_NV, text in zip(asked, mine, together, texts, strict=True):
        torch.testing.assert_close(row_NV, logits(vlm, [example], one)[0], atol=2e-5, rtol=1e-4)
        assert text == vlm.generate(vlm.prepare([example]), one, max_new_tokens=4)[0]
    base = logits(vlm, asked)
    assert [bool((a - b).abs().max() > 1e-2) for a, b in zip(together, base, strict=True)] == [True, True, False, True]
    said = said_by_forced_runs(vlm, asked[1], edits[1], tokens=4)
    assert vlm.generate(vlm.prepare(asked[1:2]), edits[1], max_new_tokens=4) == [said]


def test_several_in_force_are_one_memory(llava: VLM, asked, picture) -> None:
    """The edit counts in whose scope a query is most, whichever operation it is in; of equal ones the last."""
    assets = network(llava, picture)
    each = [op_for(llava, assets, [one]) for one in asked]
    whole = edit(llava, op_for(llava, assets, asked))
    for order in (each, each[::-1]):
        for mine, together in zip(logits(llava, asked, edit(llava, *order)), logits(llava, asked, whole), strict=True):
            assert torch.equal(mine, together)
    again = op_for(llava, assets, [replace(asked[0], answer="blue")])
    with llava.using(edit(llava, each[0])), llava.using(edit(llava, again)):
        (now_NV,) = logits(llava, asked[:1])
    assert torch.equal(now_NV, logits(llava, asked[:1], edit(llava, again))[0])
    assert not torch.equal(now_NV, logits(llava, asked[:1], edit(llava, each[0]))[0])


def test_several_pictures(vlm: VLM, picture) -> None:
    both = Example("which is larger ?", (picture(1), picture(2, (40, 28))), "a cat")
    try:
        vlm.prepare([both])
    except PromptError:
        pytest.skip("it takes one picture")
    op = op_for(vlm, network(vlm, picture), [both])
    torch.testing.assert_close(logits(vlm, [both], edit(vlm, op))[0], told(vlm, op, 0, both), atol=1e-5, rtol=1e-5)
    turned = replace(both, image=(picture(2, (40, 28)), picture(3)))
    assert torch.equal(logits(vlm, [turned], edit(vlm, op))[0], logits(vlm, [turned])[0])


def test_with_other_operations(llava: VLM, asked, picture) -> None:
    """Texts before a question are no part of it; a given answer is given; routes lead to it."""
    op = op_for(llava, network(llava, picture), asked[:1])
    (mine_NV,) = logits(llava, asked[:1], edit(llava, op))
    assert torch.equal(mine_NV, logits(llava, asked[:1], edit(llava, PromptOp("it is dark . "), op))[0])
    assert llava.generate(llava.prepare(asked[:1]), edit(llava, AnswerOp("blue"), op)) == ["blue"]
    routed = edit(llava, RouteOp(Key(question="who ?"), (op,)))
    assert torch.equal(logits(llava, asked[:1], routed)[0], logits(llava, asked[:1])[0])
    assert torch.equal(logits(llava, asked[:1], edit(llava, RouteOp(Key(), (op,))))[0], mine_NV)


def test_it_acts_behind_the_model(llava: VLM, asked, picture) -> None:
    """What is known of the rows below need not be run again, and gradients reach the model through a mixture."""
    op = op_for(llava, network(llava, picture), asked[:1], route="soft")
    assert first_stage([op], llava.weights) >= 2 * len(llava.parts.layers)
    assert llava.acts_on(edit(llava, op), llava.prepare(asked[:1]).rows[0])
    weight = llava.parts.norm.weight
    assert isinstance(weight, torch.nn.Parameter)
    weight.requires_grad_(True)
    try:
        row = llava.run(llava.prepare(asked[:1]), edit(llava, op), grad=True).rows[0]
        (grad,) = torch.autograd.grad(row.logits_NV.log_softmax(-1)[0, row.target_N[0]], weight)
    finally:
        weight.requires_grad_(False)
    assert bool(torch.isfinite(grad).all())


def test_saved_and_loaded(llava: VLM, asked, picture, tmp_path) -> None:
    """The assets are stored once, however many operations share them."""
    assets = network(llava, picture)
    routes = ("hard", "soft", "hard", "soft")
    ops = [op_for(llava, assets, [one], route=route) for one, route in zip(asked, routes, strict=True)]
    mine = edit(llava, *ops)
    back = Edit.load(mine.save(tmp_path / "edit"))
    assert back.id == mine.id
    for one, other in zip(logits(llava, asked, mine), logits(llava, asked, back), strict=True):
        assert torch.equal(one, other)
    once = edit(llava, op_for(llava, assets, asked[:1])).save(tmp_path / "once")
    sizes = [(folder / "edit.safetensors").stat().st_size for folder in (tmp_path / "edit", once)]
    assert sizes[0] < 1.1 * sizes[1]


def test_padding_and_what_comes_later_change_nothing() -> None:
    torch.manual_seed(0)
    layers = dict(Network(8, 8, 16, 8, (1, 2), 1.0).speaker.state_dict())
    tensors = {name: torch.randn(x.shape) * 0.3 for name, x in layers.items()}
    long, short = torch.randn(6, 16), torch.randn(3, 16)
    together, real = padded([long, short])
    assert real.tolist() == [[True] * 6, [False] * 3 + [True] * 3]
    made = decode(together, real, tensors, HEADS)
    alone = decode(*padded([short]), tensors, HEADS)
    torch.testing.assert_close(made[1, 3:], alone[0], atol=1e-5, rtol=1e-5)
    changed = torch.cat([long[:5], torch.randn(1, 16)])
    torch.testing.assert_close(decode(*padded([changed]), tensors, HEADS)[0, :5], made[0, :5], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made[0, :5], long[:5])


def test_refused(llava: VLM, asked, picture) -> None:
    op = op_for(llava, network(llava, picture), asked)
    with pytest.raises(EditError, match="2 facts have 4 and 4 keys"):
        replace(op, facts=op.facts[:2])
    with pytest.raises(EditError, match="no route 'wide'; there are: hard, soft"):
        replace(op, route="wide")
    with pytest.raises(EditError, match="the edit reads pictures of width"):
        op.check(4, 7)


def test_operations_of_one_model_become_one(llava: VLM, picture) -> None:
    asked = [Example("what colour ?", picture(1), "red"), Example("how many ?", picture(2), "two")]
    whole = op_for(llava, network(llava, picture), asked)
    parts = [
        replace(whole, keys=whole.keys[place : place + 1], facts=whole.facts[place : place + 1]) for place in (0, 1)
    ]
    (one,) = compact(edit(llava, *parts)).ops
    for mine, other in zip(
        logits(llava, asked, edit(llava, one)), logits(llava, asked, edit(llava, whole)), strict=True
    ):
        assert torch.equal(mine, other)
    apart = edit(llava, parts[0], replace(parts[1], route="soft"))
    assert compact(apart) is apart
