"""UltraEdit: its closed form, held against the normal equations and against a plain reading of the paper."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlmend import VLM, Edit, editor
from vlmend.editors.changing import Layers
from vlmend.editors.gradients import gradients_of
from vlmend.editors.ultraedit import UltraEdit, shift
from vlmend.edits.compact import compact
from vlmend.edits.left import Moments, MomentsOp
from vlmend.errors import EditError


@given(tokens=st.integers(1, 9), width=st.integers(1, 12), out=st.integers(1, 12), seed=st.integers(0, 999))
def test_the_small_system_has_the_solution_of_the_normal_equations(tokens, width, out, seed):
    maker = torch.Generator().manual_seed(seed)
    h, h_hat, v_hat = (torch.randn(tokens, size, generator=maker, dtype=torch.float64) for size in (width, width, out))
    left, right = shift(h, h_hat, v_hat, eta=0.3, ridge=0.7)
    wanted = -0.3 * h_hat.norm(dim=-1, keepdim=True) ** 2 * v_hat
    whole = torch.linalg.solve(h.T @ h + 0.7 * torch.eye(width, dtype=torch.float64), h.T @ wanted).T
    torch.testing.assert_close(left @ right, whole, rtol=1e-9, atol=1e-9)
    rank = min(tokens, width)
    assert (left.shape, right.shape) == ((out, rank), (rank, width))


def test_an_edit_is_the_papers_step_at_the_answers_tokens(llava: VLM, cases):
    method = UltraEdit(layers=[1, 2], modules=("mlp.down",), eta=0.01, ridge=2.0)
    (op,) = method.fit(llava, cases[:2]).ops
    linears = Layers.found(llava, [1, 2], ("mlp.down",)).linears
    assert set(op.names) == set(linears)
    rows = [llava.prepare([case.request]) for case in cases[:2]]
    each = [dict(gradients_of(llava, row, linears, [""]))[0] for row in rows]
    counts = [len(row.rows[0].target_N) for row in rows]
    for name in linears:
        sides = []
        for side in ("inputs_TI", "deltas_TO"):
            every = [getattr(gradients[name], side).double() for gradients in each]
            mean, deviation = torch.cat(every).mean(0), torch.cat(every).var(0, correction=0).sqrt()
            own = torch.cat([rows[len(rows) - count :] for rows, count in zip(every, counts, strict=True)])
            sides.append((own, (own - mean) / (deviation + 1e-7)))
        (h, h_hat), (_, v_hat) = sides
        wanted = torch.stack([-0.01 * float(one @ one) * other for one, other in zip(h_hat, v_hat, strict=True)])
        whole = torch.linalg.solve(h.T @ h + 2.0 * torch.eye(h.shape[1]), h.T @ wanted).T
        change = op.changes[name]
        assert change.form == "low_rank"
        assert change.tensors[0].shape[1] == sum(counts)
        made = change.fold(torch.zeros(change.shape)).double()
        torch.testing.assert_close(made, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "modules"), [("llava", "connector"), ("llava", "vision"), ("blip2", "connector")])
def test_before_the_decoder_the_step_is_made_at_every_token(tiny, cases, name, modules):
    """There is no answer's token there; all that have a gradient are moved."""
    vlm = tiny(name)
    edit = UltraEdit(modules=(modules,), eta=0.01, ridge=2.0).fit(vlm, cases[:1])
    linears = Layers.found(vlm, "late", (modules,)).linears
    prepared = vlm.prepare([cases[0].request])
    gradients = dict(gradients_of(vlm, prepared, linears, [""]))[0]
    assert any(len(one.inputs_TI) > len(prepared.rows[0].target_N) for one in gradients.values())
    (op,) = edit.ops
    for at, one in gradients.items():
        h, v = one.inputs_TI.double(), one.deltas_TO.double()
        h_hat, v_hat = ((x - x.mean(0)) / (x.std(0, correction=0) + 1e-7) for x in (h, v))
        wanted = -0.01 * h_hat.square().sum(-1, keepdim=True) * v_hat
        whole = torch.linalg.solve(h.T @ h + 2.0 * torch.eye(h.shape[1]), h.T @ wanted).T
        made = op.changes[at].fold(torch.zeros(op.changes[at].shape)).double()
        torch.testing.assert_close(made, whole, rtol=2e-2, atol=1e-3 * float(whole.abs().max()))


@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5), width=st.integers(1, 4), seed=st.integers(0, 999))
def test_moments_of_parts_joined_are_those_of_the_whole(sizes, width, seed):
    maker = torch.Generator().manual_seed(seed)
    parts = [3 + 10 * torch.randn(size, width, generator=maker) for size in sizes]
    joined = reduce(Moments.joined, map(Moments.of, parts))
    whole = torch.cat(parts)
    assert joined.count == len(whole)
    if len(whole):
        torch.testing.assert_close(joined.mean_W, whole.mean(0), rtol=1e-4, atol=1e-4)
        wanted = (whole - whole.mean(0)) / (whole.std(0, correction=0) + 1.0)
        torch.testing.assert_close(joined.normalised(whole, 1.0), wanted, rtol=1e-3, atol=1e-3)


def test_a_life_of_edits_is_measured_as_one(llava: VLM, cases, tmp_path):
    """The second edit's statistics are those of both requests; saved, loaded, compacted, they are the same."""
    method = UltraEdit(layers=[2], lifelong=True)
    first = method.fit(llava, cases[:1])
    assert [op.kind for op in first.ops] == ["weight", "moments"]
    loaded = Edit.load(first.save(tmp_path / "first"))
    with llava.using(loaded):
        second = method.fit(llava, cases[1:2])
        apart = UltraEdit(layers=[2]).fit(llava, cases[1:2])
    assert not torch.equal(*(edit.ops[0].changes[name].tensors[0] for edit in (second, apart)
                             for name in edit.ops[0].names))  # fmt: skip
    assert len(apart.ops) == 1
    (pair,), (other,) = (tuple(edit.ops[1].moments.values()) for edit in (first, second))
    together = compact(first + second)
    (found,) = (tuple(op.moments.values()) for op in together.ops if isinstance(op, MomentsOp))
    for side in (0, 1):
        assert found[0][side].count == pair[side].count + other[side].count
    linears = Layers.found(llava, [2], ("mlp.down",)).linears
    ((_, gradients),) = gradients_of(llava, llava.prepare([cases[0].request]), linears, [""])
    (gradient,) = gradients.values()
    torch.testing.assert_close(pair[0].mean_W, gradient.inputs_TI.mean(0), rtol=1e-4, atol=1e-5)


def test_mistakes(llava: VLM, cases):
    for wrong in ({"eta": 0.0}, {"ridge": -1.0}):
        with pytest.raises(EditError, match=r"above 0|greater than 0"):
            editor("ultraedit", **wrong).fit(llava, cases[:1])
