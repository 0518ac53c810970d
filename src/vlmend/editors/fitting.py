"""What editors that fit by gradient share: the loss of the corrected answers, and the descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.errors import EditError
from vlmend.models.outputs import RunOutput

__all__ = ["answer_loss", "descend"]


def answer_loss(output: RunOutput) -> Tensor:
    """Mean over rows of the mean negative log-likelihood of their targets, end tokens included, in nats."""
    losses = [functional.cross_entropy(row.logits_NV, row.target_N) for row in output.rows]
    return torch.stack(losses).mean()


def descend(
    parameters: Sequence[Tensor],
    loss_of: Callable[[], Tensor],
    *,
    steps: int,
    lr: float,
    stop_loss: float = 0.0,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Minimise a loss over parameters in place, by AdamW without weight decay.

    Args:
        parameters: leaves that require a gradient.
        loss_of: the loss at their present values.
        steps: at most so many.
        lr: learning rate.
        stop_loss: stop when the loss is below it; 0 to take all steps.
        after_step: called after each step, to project the parameters where they must be.

    Raises:
        EditError: the loss or a parameter is not finite, or no parameter has a part in the loss or there is none.
    """
    if not parameters:
        raise EditError("nothing is to be fitted: there is no matrix in the modules that are named")
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    for _ in range(steps):
        loss = loss_of()
        _check(lr, loss)
        if not loss.requires_grad:  # layers that only look at pictures, for a question without one
            raise EditError("nothing that is to be fitted has a part in the answer")
        if float(loss.detach()) < stop_loss:
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        after_step()
    _check(lr, *parameters)


def _check(lr: float, *tensors: Tensor) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise EditError(f"the fit diverged: a smaller learning rate than {lr} is needed")
