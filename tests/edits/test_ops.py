from __future__ import annotations

import pytest
import torch

from vlmend.edits.ops import Change, WeightOp
from vlmend.errors import EditError


def test_forms_fold_as_they_say():
    base = torch.arange(6.0).reshape(2, 3)
    dense = torch.ones(2, 3)
    left, right = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    assert torch.equal(WeightOp.deltas({"w": dense}).fold("w", base), base + 1)
    assert torch.equal(WeightOp.low_rank({"w": (left, right)}).fold("w", base), base + left @ right)
    assert torch.equal(WeightOp.values({"w": dense}).fold("w", base), dense)
    assert torch.equal(base, torch.arange(6.0).reshape(2, 3))


def test_norms():
    base = torch.zeros(2, 2)
    assert Change("delta", (torch.full((2, 2), 2.0),)).norm() == pytest.approx(4.0)
    assert Change("low_rank", (torch.ones(2, 1), torch.ones(1, 2))).norm() == pytest.approx(2.0)
    assert Change("value", (torch.full((2, 2), 3.0),)).norm(base) == pytest.approx(6.0)
    with pytest.raises(EditError, match="needs the base"):
        Change("value", (base,)).norm()


def test_a_change_is_a_copy():
    """What its maker does with the tensor later does not reach the edit."""
    tensor = torch.zeros(2)
    op = WeightOp.deltas({"w": tensor})
    tensor += 1
    assert torch.equal(op.changes["w"].tensors[0], torch.zeros(2))


@pytest.mark.parametrize(
    ("form", "tensors"),
    [
        ("delta", (torch.zeros(1), torch.zeros(1))),
        ("low_rank", (torch.zeros(2, 2), torch.zeros(3, 2))),
        ("low_rank", (torch.zeros(2), torch.zeros(2))),
        ("other", (torch.zeros(2),)),
    ],
)
def test_refusals(form, tensors):
    with pytest.raises(EditError):
        Change(form, tensors)


def test_shapes_are_checked():
    with pytest.raises(EditError, match=r"'w' has shape \(2,\), the tensor \(3,\)"):
        WeightOp.deltas({"w": torch.zeros(2)}).fold("w", torch.zeros(3))
