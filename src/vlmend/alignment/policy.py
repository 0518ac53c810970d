"""What is trained, as one module: from a batch of pairs to its loss, and what is worth knowing of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from vlmend.alignment.adapters import Trained
from vlmend.alignment.collate import Batch, preflight, token_log_probs
from vlmend.alignment.objectives import Objective
from vlmend.alignment.reference import References
from vlmend.alignment.sharded import in_pieces
from vlmend.errors import VlmendError
from vlmend.models.recompute import recomputing
from vlmend.models.vlm import VLM

__all__ = ["Policy"]

_ROUNDING = 1e-5  # of a token's log-probability, where the reference was asked in other batches
_ROUNDING_CUDA = 1e-3  # where sums may also be taken in another order


class Policy(nn.Module):
    """The model with what is trained of it, and the reference beside it.

    Its parameters are those that are trained; the model's own are not among them, so that nothing else is moved,
    synchronised or saved.

    Args:
        vlm: the model.
        trained: what is trained of it.
        objective: what is minimised.
        references: what the reference said; ``None`` to run the model without what is trained.
        recompute: run layers again on the way back, and keep less of them.
        fresh: whether nothing has been learnt yet, so that the first margins must be 0.
    """

    def __init__(
        self,
        vlm: VLM,
        trained: Trained,
        objective: Objective,
        references: References | None,
        *,
        recompute: bool = False,
        fresh: bool = True,
    ) -> None:
        super().__init__()
        self.trained = trained
        self._vlm = vlm
        self._objective = objective
        self._references = references
        self._recompute = recompute
        self._unchecked = fresh
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean loss of a batch's pairs.

        Raises:
            VlmendError: the first batch is not what it should be (see `preflight`), or its margins are not 0.
        """
        if self._unchecked:
            preflight(self._vlm, batch)
        said, before = self._said(batch), self._said_before(batch)
        if self._unchecked and before is not None:
            self._check_equal(batch, said, before)
        self._unchecked = False
        pairs = batch.answers(said, before)
        parts = self._objective.parts(pairs)
        loss = torch.stack(parts).sum(0).mean()
        with torch.no_grad():
            self._note({str(term): part.mean() for term, part in zip(self._objective.terms, parts, strict=True)})
            if self._objective.needs_reference and pairs.rejected is not None:
                margins_B = pairs.margins_B
                self._note({"margin": margins_B.mean(), "accuracy": (margins_B > 0).float().mean()})
        self._count += 1
        # Gradients are summed piece by piece, or over processes: all must have all, those of layers too that look at
        # pictures and are not run for pairs without one.
        if (in_pieces(self) or not self._vlm.parts.in_stream) and torch.is_grad_enabled():
            loss = loss + 0.0 * torch.stack([one.sum() for one in self.trained.parameters()]).sum()
        return {"loss": loss}

    def _said(self, batch: Batch) -> list[Tensor]:
        grad = torch.is_grad_enabled()
        again = recomputing(self._vlm.parts) if self._recompute and grad else nullcontext()
        with again:
            return token_log_probs(self._vlm.run(batch.prepared, grad=grad))

    def _said_before(self, batch: Batch) -> list[Tensor] | None:
        if not self._objective.needs_reference:
            return None
        if self._references is not None:
            return self._references.of(batch, self._vlm.device)
        with torch.no_grad(), self.trained.left_out():
            return token_log_probs(self._vlm.run(batch.prepared))

    def _check_equal(self, batch: Batch, said: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        """That policy and reference say the same of every answer, whichever side of a pair it is."""
        apart = [float((one - other).detach().abs().max()) for one, other in zip(said, before, strict=True)]
        most = max(apart)
        side, at = divmod(apart.index(most), len(batch))
        device = self._vlm.device.type
        exact = self._references is None and device == "cpu"  # the same sums in the same order
        if not exact and torch.is_autocast_enabled(device):
            return  # whatever is rounded to bfloat16 differs by more than a wrong reference might
        allowed = 0.0 if exact else _ROUNDING if device == "cpu" else _ROUNDING_CUDA
        if self._vlm.model.dtype == torch.float32 and most > allowed:
            raise VlmendError(
                f"before the first step the policy differs from the reference by {most:.2g} nats at a token of the "
                f"{batch.sides[side]} answer of pair '{batch.pairs[at].id}': the reference is not of this model"
            )

    def _note(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value

    def means(self) -> dict[str, Tensor]:
        """What the batches since the last call were like, on average: of each term its loss, and of pairs their margins
        (h+ - h-, in nats) and the share of those above 0."""
        found = {name: total / max(self._count, 1) for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return found
