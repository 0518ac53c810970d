"""What becomes of edits: compared with others, and written into a plain checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import vlmend
from vlmend import FT, Edit, LoRA, VisualDelta, WeightOp
from vlmend.edits.compare import diff
from vlmend.edits.edit import EditRequest
from vlmend.edits.merge import merge
from vlmend.edits.states import StateOp
from vlmend.errors import EditError, FingerprintError


def test_merged_it_is_a_plain_model(vlm, cases, tmp_path):
    """Loaded without the edits it gives the logits of the model with them."""
    edits = [FT(steps=5, lr=5e-3).fit(vlm, cases[:1]), LoRA(steps=5, lr=2e-2).fit(vlm, cases[1:2])]
    prepared = vlm.prepare([case.request for case in cases])
    base, edited = (vlm.run(prepared, edit).rows for edit in (None, edits[0] + edits[1]))
    back = vlmend.load(merge(vlm, edits, tmp_path / "merged"))
    for before, now, then in zip(base, edited, back.run(back.prepare([c.request for c in cases])).rows, strict=True):
        torch.testing.assert_close(now.logits_NV, then.logits_NV, atol=1e-5, rtol=1e-5)
        assert float((before.logits_NV - then.logits_NV).abs().max()) > 1e-2
    assert back.fingerprint != vlm.fingerprint
    with pytest.raises(FingerprintError):
        back.apply(edits[0])


def test_what_cannot_be_merged(llava, cases, tmp_path):
    edit = VisualDelta(steps=1, keep_weight=0.0).fit(llava, cases[:1])
    with pytest.raises(EditError, match="kind route cannot be merged"):
        merge(llava, [edit], tmp_path / "merged")
    (tmp_path / "taken").mkdir()
    weight = FT(steps=1).fit(llava, cases[:1])
    with pytest.raises(EditError, match="exists"):
        merge(llava, [weight], tmp_path / "taken")
    (tmp_path / "file").write_text("x")
    with pytest.raises(EditError, match="cannot be written"):
        merge(llava, [weight], tmp_path / "file" / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_difference():
    ones, minus = torch.ones(2, 2), -torch.ones(2, 2)
    asked = [EditRequest(name, f"{name} ?", "yes") for name in "abc"]
    first = Edit("x", (WeightOp.deltas({"w": ones, "only": ones}), WeightOp.deltas({"w": ones})), tuple(asked[:2]))
    second = Edit(
        "x",
        (
            WeightOp.low_rank({"w": (minus[:, :1], ones[:1])}),
            WeightOp.values({"v": ones}),
            StateOp(0, torch.tensor([0]), ones[:1]),
        ),
        tuple(asked[1:]),
    )
    found = diff(first, second)
    assert found.same_base
    assert [(t.name, *t.norms, t.cosine) for t in found.tensors] == [
        ("only", 2.0, 0.0, None),
        ("w", 4.0, 2.0, pytest.approx(-1.0)),
    ]
    assert found.replaced == ("v",)
    assert found.others == ((), ("state",))
    assert found.only == ((asked[0],), (asked[2],))
    assert not diff(first, replace(second, base="y")).same_base
