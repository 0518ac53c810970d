"""Edits one after another: each on top of the earlier ones, measured on the way, resumed where it was cut short."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from vlmend import FT, VLM, Example, WeightOp, editor
from vlmend.edits.compact import compact
from vlmend.edits.edit import Edit
from vlmend.edits.functions import FunctionOp
from vlmend.edits.routes import Key, RouteOp
from vlmend.edits.states import StateOp
from vlmend.errors import EditError
from vlmend.evaluation.editing import evaluate
from vlmend.evaluation.sequence import sequence
from vlmend.runs import Run

FIT = FT(steps=8, lr=5e-3)
SHORT = {"max_new_tokens": 5}


@pytest.fixture
def three(cases):
    return [replace(cases[index % len(cases)], id=f"case {index}") for index in range(3)]


@pytest.fixture
def held_out(picture):
    return {"beside": [Example("what is this ?", picture(7), "a dog"), Example("who wrote the song", None)]}


def timeless(points):
    return [{**asdict(point), "seconds_per_edit": 0, "seconds_per_query": 0} for point in points]


def test_every_edit_is_made_on_top_of_the_earlier_ones(llava: VLM, three, held_out):
    before = {name: tensor.clone() for name, tensor in llava.model.state_dict().items()}
    points = sequence(llava, FIT, three, at=(1, 3, 50), held_out=held_out, **SHORT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in llava.model.state_dict().items())
    assert [point.edits for point in points] == [1, 3]
    first = FIT.fit(llava, three[:1])
    with llava.using(first):
        second = FIT.fit(llava, three[1:2])
        with llava.using(second):
            third = FIT.fit(llava, three[2:])
    for point, together, some in ((points[0], first, three[:1]), (points[1], first + second + third, three)):
        proof = evaluate(llava, together, some, gains=False, **SHORT)
        for kind, summary in proof.metrics.items():
            assert point.retained[kind]["score"]["after"]["mean"] == summary["score"]["after"]["mean"]
        with llava.using(together):
            said = llava.generate(llava.prepare(held_out["beside"]), **SHORT)
        plain = llava.generate(llava.prepare(held_out["beside"]), **SHORT)
        same = [one == other for one, other in zip(said, plain, strict=True)]
        assert point.held_out["beside"]["unchanged"]["mean"] == sum(same) / 2
        assert point.held_out["beside"]["right_after"]["n"] == 1  # of the other no answer is known
    size = sum(t.numel() * t.element_size() for op in first.ops for t in op.tensors().values())
    assert [point.bytes_per_edit for point in points] == [size, size]
    assert all(point.finite and not point.failed for point in points)


class Stopped(Exception):
    pass


class Sharing:
    """Its edits have one adapter, and each a memory of its own."""

    name = "sharing"

    def __init__(self, width: int) -> None:
        self._width = width
        self._maker = torch.Generator().manual_seed(0)
        shapes = {"norm": (width,), "enter": (8, width), "query": (8, 8), "leave": (width, 8)}
        self._adapter = {f"{name}.weight": self._drawn(*shape) for name, shape in shapes.items()}
        self._adapter |= {f"{name}.bias": self._drawn(shape[0]) for name, shape in shapes.items()}

    def _drawn(self, *shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(shape, generator=self._maker)

    def fit(self, vlm, cases):
        memory = {name: torch.full((3, 8), float(len(vlm.ops_in_force))) for name in ("key", "value")}
        op = FunctionOp(1, self._width, "attend", {**self._adapter, **memory}, {"heads": 2})
        return Edit(vlm.fingerprint, (op,))


@pytest.mark.parametrize("kind", ["ft", "sharing"])
def test_a_run_that_was_cut_short_ends_with_the_same_numbers(llava: VLM, three, held_out, tmp_path, kind):
    """What edits share counts once in their bytes, before and after."""
    method = FIT if kind == "ft" else Sharing(len(llava.parts.norm.weight))
    sequence(llava, method, three, at=(1, 2, 3), asked=2, **SHORT)  # how the model can be run is known from now on
    whole = sequence(llava, method, three, at=(1, 2, 3), held_out=held_out, asked=2, **SHORT)
    folder = tmp_path / "run"
    steps = iter(range(3))

    def stop() -> None:
        if next(steps) == 1:
            raise Stopped

    given = {"at": (1, 2, 3), "held_out": held_out, "asked": 2, "folder": folder / "edits", **SHORT}
    with pytest.raises(Stopped), Run(folder, {}) as run:
        sequence(llava, method, three, log=run, progress=stop, **given)
    with Run(folder, {}) as run:
        assert [record["edits"] for record in run.records] == [1]
        resumed = sequence(llava, method, three, log=run, **given)
    assert timeless(resumed) == timeless(whole)
    if kind == "sharing":
        assert whole[0].bytes_per_edit > 2 * whole[2].bytes_per_edit
    assert json.loads(json.dumps(timeless(resumed))) == timeless(resumed)


def test_a_turn_of_several_cases_is_one_edit_of_all(llava: VLM, three, held_out, tmp_path):
    """Points are met at the end of the turn in which so many are made."""
    before = {name: tensor.clone() for name, tensor in llava.model.state_dict().items()}
    given = {"at": (1, 3), "turn": 2, "held_out": held_out, **SHORT}
    with Run(tmp_path / "run", {}) as run:
        points = sequence(llava, FIT, three, log=run, folder=tmp_path / "edits", **given)
    assert [point.edits for point in points] == [2, 3]
    first = FIT.fit(llava, three[:2])
    with llava.using(first):
        second = FIT.fit(llava, three[2:])
    proof = evaluate(llava, first + second, three, gains=False, **SHORT)
    for kind, summary in proof.metrics.items():
        assert points[-1].retained[kind]["score"]["after"]["mean"] == summary["score"]["after"]["mean"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in llava.model.state_dict().items())
    with Run(tmp_path / "run", {}) as run:  # nothing is left to do
        assert timeless(sequence(llava, FIT, three, log=run, folder=tmp_path / "edits", **given)) == timeless(points)
    with pytest.raises(EditError, match="a turn is of at least 1 case, not 0"):
        sequence(llava, FIT, three, turn=0)


def test_edits_of_weights_on_top_of_each_other_are_added_up_now_and_then(llava: VLM, three, monkeypatch):
    """How often makes no difference, and what is held in force is all that was made."""
    found = []
    for stacked in (1, 2, 16):
        monkeypatch.setattr("vlmend.evaluation.sequence._STACKED", stacked)
        found.append(sequence(llava, FIT, three, at=(2, 3), **SHORT))
    for points in found[1:]:
        for one, other in zip(points, found[0], strict=True):
            assert one.bytes_per_edit == other.bytes_per_edit
            for kind, summary in one.retained.items():
                assert summary["score"]["after"]["mean"] == other.retained[kind]["score"]["after"]["mean"]


def test_an_edit_that_cannot_be_made_is_counted(llava: VLM, three):
    class Fussy:
        name = "fussy"

        def fit(self, vlm, cases):
            if cases[0].id == "case 1":
                raise EditError("not this one")
            return FIT.fit(vlm, cases)

    (point,) = sequence(llava, Fussy(), three, at=(3,), **SHORT)
    assert (point.failed, point.edits) == (1, 3)
    first, last = sequence(llava, Fussy(), three[1:], at=(1, 2), **SHORT)
    assert (first.failed, first.edits, first.bytes_per_edit) == (1, 1, 0)
    nothing = evaluate(llava, Edit(llava.fingerprint, ()), three[1:2], gains=False, **SHORT)
    assert first.retained["reliability"]["score"]["after"] == nothing.metrics["reliability"]["score"]["after"]
    assert (last.failed, last.edits) == (1, 2)
    with pytest.raises(EditError, match="no point to measure"):
        sequence(llava, FIT, three, at=(5,), **SHORT)


def test_why_no_edit_could_be_made_is_said(llava: VLM, three):
    """At the only point, or where there has been one that measured no edit."""
    for points in ((2,), (1, 2, 3)):
        with pytest.raises(EditError, match=r"none of the first 2 edits .*: there is no reference at 'none.json'"):
            sequence(llava, editor("memit", reference="none.json"), three, at=points, **SHORT)


@pytest.mark.parametrize("asked", ["request", "held out"])
def test_a_model_that_says_no_numbers_is_not_finite(llava: VLM, three, held_out, asked):
    """Every number of the edit is one; those that the model makes of it are none, at one question."""
    (row,) = llava.prepare([three[0].request if asked == "request" else held_out["beside"][0]]).rows
    vectors = torch.full((1, len(llava.parts.norm.weight)), 3e38)
    twice = tuple(StateOp(layer, torch.tensor([0]), vectors) for layer in (0, 1))
    edit = Edit(llava.fingerprint, (RouteOp(Key(row.content, row.question), twice),))

    class Overflowing:
        name = "overflowing"

        def fit(self, vlm, cases):
            return edit

    (point,) = sequence(llava, Overflowing(), three, at=(1,), held_out=held_out, **SHORT)
    assert not point.finite


def test_compact_edits_do_the_same(llava: VLM, three):
    names = llava.weights.named(llava.parts.modules([0, 1], ["mlp.down"]), matrices_only=True)
    maker = torch.Generator().manual_seed(0)

    def noise(shape):
        return 0.1 * torch.randn(shape, generator=maker)

    low = {name: (noise((w.shape[0], 2)), noise((2, w.shape[1]))) for name, w in names.items()}
    dense = {name: noise(w.shape) for name, w in list(names.items())[:1]}
    state = StateOp(1, torch.tensor([0]), noise((1, len(llava.parts.norm.weight))))
    shared = WeightOp.low_rank(low, shared="of many")
    edit = Edit(llava.fingerprint, (WeightOp.low_rank(low), state, WeightOp.deltas(dense), shared))
    small = compact(edit)
    assert [op.kind for op in small.ops] == ["weight", "state", "weight"]
    prepared = llava.prepare([case.request for case in three])
    for mine, whole in zip(llava.run(prepared, small).rows, llava.run(prepared, edit).rows, strict=True):
        torch.testing.assert_close(mine.logits_NV, whole.logits_NV, atol=1e-4, rtol=1e-4)
    value = Edit(
        llava.fingerprint, (*edit.ops, WeightOp.values({next(iter(names)): noise(next(iter(names.values())).shape)}))
    )
    assert compact(value) is value
    assert compact(small) is small
