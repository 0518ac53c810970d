"""memit and alphaedit: their arithmetic by hand, what they leave alone, and what is kept for later edits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmend import FT, VLM, Edit, EditCase, Example
from vlmend.data.formats import plain
from vlmend.editors.alphaedit import AlphaEdit, null_space
from vlmend.editors.closed_form import spread
from vlmend.editors.memit import MEMIT
from vlmend.edits.compact import compact
from vlmend.edits.left import KeysOp
from vlmend.edits.ops import WeightOp
from vlmend.errors import EditError


def test_one_key_by_hand():
    """M = 1: dW = r k^T / (1 + |k|^2); with k = (3, 4) and r = (26, 0) it is (26, 0) (3, 4) / 26."""
    left, right = spread(torch.tensor([[26.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.eye(2))
    torch.testing.assert_close(left @ right, torch.tensor([[3.0, 4.0], [0.0, 0.0]]))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(2, 7), st.integers(1, 4), st.integers(0, 1000))
def test_it_is_the_solution_of_the_normal_equations(n, i, o, seed):
    """dW (lambda C + K^T K) = R^T K, MEMIT's equation 14, for any number of keys."""
    maker = torch.Generator().manual_seed(seed)
    keys, shares, seen = (torch.randn(*s, generator=maker).double() for s in ((n, i), (n, o), (3 * i, i)))
    moments = seen.T @ seen / len(seen)
    left, right = spread(shares, keys, MEMIT(covariance=0.5).free(moments, keys[:0]))
    torch.testing.assert_close(left @ right @ (0.5 * moments + keys.T @ keys), shares.T @ keys, atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(3, 8), st.integers(0, 1000))
def test_alphaedit_changes_nothing_of_the_reference_and_little_of_earlier_edits(n, i, seed):
    """The reference fills all directions but two: what W makes of it stays; of earlier keys, what a ridge leaves."""
    maker = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(i, i, generator=maker).double()).Q
    seen = torch.randn(4 * i, i - 2, generator=maker).double() @ basis[:, 2:].T
    keys, shares = (torch.randn(n, s, generator=maker).double() for s in (i, 3))
    editor = AlphaEdit(share=1e-9, ridge=1e-6)
    change = torch.linalg.multi_dot(spread(shares, keys, editor.free(seen.T @ seen / len(seen), keys[:0])))
    assert float((seen @ change.T).abs().max()) < 1e-6
    assert float(change.abs().max()) > 1e-6
    earlier = 1e3 * basis[:, :1].T  # one of the two directions that are free
    later = torch.linalg.multi_dot(spread(shares, keys, editor.free(seen.T @ seen / len(seen), earlier)))
    assert float((earlier @ later.T).norm()) < 1e-2 * max(1.0, float((earlier @ change.T).norm()))


def test_null_space_holds_its_share():
    moments = torch.diag(torch.tensor([6.0, 3.0, 0.6, 0.4]))
    assert null_space(moments, 0.05).shape == (4, 1)
    assert null_space(moments, 0.11).shape == (4, 2)
    torch.testing.assert_close(null_space(moments, 0.11).abs(), torch.eye(4)[:, [3, 2]])


def edit(vlm: VLM, *ops) -> Edit:
    return Edit(base=vlm.fingerprint, ops=ops)


def test_keys_act_on_nothing_and_are_saved_and_joined(tiny, cases, tmp_path):
    vlm: VLM = tiny("llava")
    name = next(iter(vlm.weights.linears(vlm.parts.modules([1], ["mlp.down"]))))
    maker = torch.Generator().manual_seed(0)
    width = dict(vlm.weights.base())[name].shape[1]
    ops = [KeysOp({name: torch.randn(width - 1, width, generator=maker)}) for _ in range(3)]
    asked = vlm.prepare([cases[0].request])
    saved = Edit.load(edit(vlm, *ops).save(tmp_path / "keys"))
    assert torch.equal(vlm.run(asked).rows[0].logits_NV, vlm.run(asked, saved).rows[0].logits_NV)
    (one,) = compact(saved).ops
    assert isinstance(one, KeysOp)
    rows = torch.cat([op.keys[name] for op in ops])
    assert len(one.keys[name]) == width
    torch.testing.assert_close(one.keys[name].T @ one.keys[name], rows.T @ rows, atol=1e-3, rtol=1e-3)
    with vlm.using(saved):
        assert len(vlm.ops_in_force) == 3
    assert not vlm.ops_in_force
    other = KeysOp({"another": torch.zeros(1, 4)})
    assert ops[0].joined(other) is None
    with pytest.raises(EditError, match=r"\[N, I\] is expected"):
        KeysOp({name: torch.zeros(3)})


@pytest.mark.parametrize("editor", [MEMIT(drawn=8), AlphaEdit(drawn=8, share=0.3)])
@pytest.mark.parametrize("key", ["answer", "last", "visual"])
def test_states_move_to_where_they_are_wanted(tiny, cases, editor, key):
    """With one layer and next to no ridge the last layer hands on z at the keys, whatever tokens they are of."""
    vlm: VLM = tiny("llava")
    editor = replace(
        editor,
        layers=(1,),
        key=key,
        steps=3,
        **({"covariance": 1e-7} if isinstance(editor, MEMIT) else {"ridge": 1e-9, "share": 0.9999}),
    )
    asked = vlm.prepare([cases[0].request])
    linear = dict(editor._linears(vlm).values())
    wanted = editor._wanted(vlm, asked, 1)
    made = editor.fit(vlm, cases[:1])
    weights, keys = made.ops
    assert isinstance(weights, WeightOp) and isinstance(keys, KeysOp)
    assert list(weights.changes) == list(keys.keys) == list(linear)
    _, before = editor._keys(vlm, asked, next(iter(linear.values())), 1, [])
    _, after = editor._keys(vlm, asked, next(iter(linear.values())), 1, [weights])
    assert float((after - wanted).norm()) < 0.1 * float((before - wanted).norm())


def test_many_requests_are_one_regression(tiny, cases):
    vlm: VLM = tiny("llava")
    made = MEMIT(drawn=8, layers=(1, 2)).fit(vlm, cases)
    weights, keys = made.ops
    assert isinstance(weights, WeightOp) and isinstance(keys, KeysOp)
    count = sum(len(row.target_N) for row in vlm.prepare([case.request for case in cases]).rows)
    assert all(len(one) == count for one in keys.keys.values())
    assert all(change.tensors[1].shape[0] == count for change in weights.changes.values())


def test_the_reference_is_a_file_or_drawn(tiny, cases, tmp_path):
    vlm: VLM = tiny("llava")
    plain.write([EditCase("a", Example("who wrote the song ?", None, "nobody"))], tmp_path / "reference.jsonl")
    editor = AlphaEdit(reference=str(tmp_path / "reference.jsonl"), layers=(1,))
    (told,) = editor._moments(vlm, editor._linears(vlm)).values()
    (drawn,) = AlphaEdit(drawn=4, layers=(1,))._moments(vlm, editor._linears(vlm)).values()
    assert told.shape == drawn.shape
    assert not torch.allclose(told, drawn)
    row = vlm.prepare([Example("who wrote the song ?", None, "nobody")]).rows[0]
    assert int(torch.linalg.matrix_rank(told)) <= len(row.ids_T) + len(row.target_N)
    assert editor._moments(vlm, editor._linears(vlm))[1] is told


@pytest.mark.parametrize("editor", [MEMIT, AlphaEdit])
def test_the_reference_is_the_models_without_edits(tiny, cases, editor):
    """Whatever was in force when it was first asked, so that a sequence that is resumed is the same."""
    vlm: VLM = tiny("llava")
    strong = FT(layers="all", steps=5, lr=3e-2).fit(vlm, cases[1:2])
    fresh, used = editor(drawn=4), editor(drawn=4)
    with vlm.using(strong):
        used.fit(vlm, cases[2:3])
    assert used.fit(vlm, cases[:1]).id == fresh.fit(vlm, cases[:1]).id


@pytest.mark.parametrize(
    ("editor", "problem"),
    [
        (MEMIT(key="all"), "key of memit is answer, last, visual"),  # type: ignore[arg-type]
        (MEMIT(drawn=2, covariance=0), "covariance of memit must be above 0"),
        (AlphaEdit(drawn=2, share=1.5), "share of alphaedit lies between 0 and 1"),
        (AlphaEdit(drawn=2, share=1e-12), "no direction holds less than"),
        (MEMIT(module="mlp"), "module of memit is what hands on a layer's share: mlp.down or attn.out"),
        (AlphaEdit(module="head"), "module of alphaedit is what"),
        (AlphaEdit(reference="nowhere.jsonl"), "no reference at 'nowhere.jsonl'"),
    ],
)
def test_settings_that_are_none(tiny, cases, editor, problem):
    with pytest.raises(EditError, match=problem):
        editor.fit(tiny("llava"), cases[:1])


def test_a_picture_is_needed_for_visual_keys(tiny):
    with pytest.raises(EditError, match="case 'x' has no picture"):
        MEMIT(key="visual").fit(tiny("llava"), [EditCase("x", Example("who ?", None, "me"))])
