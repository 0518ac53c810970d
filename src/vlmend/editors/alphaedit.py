"""alphaedit: the same as memit where nothing else looks: in the null space of what must stay.

Fang et al., *AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models*, ICLR 2025, arXiv 2410.02355,
section 3; how targets are found and spread is in `closed_form.py`. P projects on the eigenvectors of C, the mean of
k k^T [I, I] over a reference, with the smallest eigenvalues: of all that the reference's keys have, they hold next to
nothing. Changes live there alone, and leave also what edits in force were made of, K_p [N, I], as it is (equation 14):

    M  =  P (P K_p^T K_p P + lambda)^-1 P.

The paper takes the eigenvalues below 0.01, in units that are those of its models; here ``share`` says how much of C's
trace the space may hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.editors.closed_form import ClosedForm
from vlmend.editors.settings import Amount, Rate
from vlmend.errors import EditError

__all__ = ["AlphaEdit", "null_space"]


@dataclass(frozen=True)
class AlphaEdit(ClosedForm):
    """AlphaEdit as an editor; further settings are those of `ClosedForm`.

    Attributes:
        share: how much of the reference's keys, in squared norm, may lie in the space that changes.
        ridge: lambda, against the squared norms of keys.
    """

    name: ClassVar[str] = "alphaedit"

    share: Amount = 0.02
    ridge: Rate = 0.1

    def free(self, moments_II: Tensor, keys_NI: Tensor) -> Tensor:
        """M of the module's equation.

        Raises:
            EditError: a setting is out of its range, or no direction is free.
        """
        if not 0 < self.share < 1 or self.ridge <= 0:
            raise EditError("share of alphaedit lies between 0 and 1, and ridge above 0")
        basis_IS = null_space(moments_II, self.share)
        if not basis_IS.shape[1]:
            raise EditError(f"no direction holds less than {self.share:g} of what keys are: a larger share is needed")
        inside_NS = keys_NI @ basis_IS
        gram_SS = inside_NS.T @ inside_NS
        gram_SS += self.ridge * torch.eye(len(gram_SS), dtype=gram_SS.dtype, device=gram_SS.device)
        return basis_IS @ torch.linalg.solve(gram_SS, basis_IS.T)


def null_space(moments_II: Tensor, share: float) -> Tensor:
    """Eigenvectors of moments, [I, S]: those with the smallest eigenvalues, which hold ``share`` of their sum."""
    values_I, vectors_II = torch.linalg.eigh(moments_II)
    held_I = values_I.clamp(min=0).cumsum(0) / values_I.clamp(min=0).sum()
    return vectors_II[:, held_I <= share]
