"""memit: requests written into the feed-forward parts of several layers at once, against what keys are like at large.

Meng et al., *Mass-Editing Memory in a Transformer*, ICLR 2023, arXiv 2210.07229; how it is done is in `closed_form.py`.
M there is (lambda C)^-1 [I, I] (equation 14): C is the mean of k k^T over a reference, and a direction that keys often
have is changed little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.editors.closed_form import ClosedForm
from vlmend.editors.settings import Rate
from vlmend.errors import EditError

__all__ = ["MEMIT"]

_LEAST = 1e-6  # added to C, in its largest eigenvalues: keys of few prompts do not fill the space


@dataclass(frozen=True)
class MEMIT(ClosedForm):
    """MEMIT as an editor; further settings are those of `ClosedForm`.

    Attributes:
        covariance: lambda, for how many keys the mean of the reference counts.
    """

    name: ClassVar[str] = "memit"

    covariance: Rate = 10.0

    def free(self, moments_II: Tensor, keys_NI: Tensor) -> Tensor:
        """(lambda C)^-1; keys of earlier edits have no part in it.

        Raises:
            EditError: lambda is not above 0.
        """
        if self.covariance <= 0:
            raise EditError("covariance of memit must be above 0")
        least = _LEAST * torch.linalg.matrix_norm(moments_II, 2)
        ridge_II = least * torch.eye(len(moments_II), dtype=moments_II.dtype, device=moments_II.device)
        return torch.linalg.inv(self.covariance * (moments_II + ridge_II))
