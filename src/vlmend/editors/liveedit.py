"""liveedit: a lifelong memory of low-rank experts, found by what is seen and weighed by what is asked.

Chen et al., *Lifelong Knowledge Editing for Vision Language Models with Low-Rank Mixture-of-Experts*, CVPR 2025, arXiv
2411.15432, section 3. A trained generator makes an expert of an edit in one run of its picture, question and answer;
edits in force are a pool of experts, of which each prompt gets those that it is about (`vlmend.edits.experts`). Nothing
is descended when an edit is made, and the model stays as it is. How generator and routing are trained:
`liveedit_training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.liveedit_network import LiveEditNetwork
from vlmend.editors.shelf import Shelved, Trained
from vlmend.editors.vead_placed import check_pictures_asked, request_states
from vlmend.edits.edit import Edit
from vlmend.edits.experts import Experts, ExpertsOp
from vlmend.errors import EditFormatError
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["LiveEdit", "edited"]


@dataclass(frozen=True, eq=False)
class _Read:
    """Trained weights, and the layer they are for."""

    network: LiveEditNetwork
    layer: int

    @classmethod
    def of(cls, trained: Trained) -> _Read:
        """Out of what was saved.

        Raises:
            EditFormatError: these are no weights of such a network.
        """
        try:
            network = LiveEditNetwork.sized(trained.tensors, int(trained.facts["heads"]))
            return cls(network, int(trained.facts["layer"]))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())  # torch's take several lines
            raise EditFormatError(f"the weights for '{trained.editor}' are no experts': {why}") from error


@dataclass(frozen=True)
class LiveEdit(Shelved[_Read]):
    """LiveEdit as an editor.

    Attributes:
        weights: folder of a network that was trained for the model, or of several such folders; ``None`` for those
            that come with the package.
    """

    name: ClassVar[str] = "liveedit"

    weights: str | None = None

    @torch.no_grad()
    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """An expert for each request; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target or no picture, or there are no weights for the model.
        """
        check_cases(cases)
        check_pictures_asked(cases)
        read = self.shelved(vlm)
        network = read.network.to(vlm.device)
        pool: Experts | None = None
        with vlm.without(ExpertsOp):  # prompts are read before an expert acts
            for case in cases:
                row, (states_TD,) = request_states(vlm, case, [read.layer])
                one = network.experts(states_TD[: edited(row)].float(), *shown(row, states_TD.device))
                pool = one if pool is None else pool + one
        assert pool is not None, "there are cases"
        return edit_of(self, vlm, cases, [ExpertsOp(read.layer, network.reader(), network.heads, pool)])

    def read(self, trained: Trained, vlm: VLM) -> _Read:
        return _Read.of(trained)


def edited(row: Row) -> int:
    """How many of a request's tokens an expert is made of: its prompt and its answer, without what closes the turn."""
    return len(row.ids_T) + row.answer_length


def shown(row: Row, device: torch.device) -> tuple[torch.Tensor, int]:
    """Which of these are visual, and how many are the prompt's."""
    visual_T = torch.cat([row.visual_T, row.visual_T.new_zeros(row.answer_length)])
    return visual_T.to(device), len(row.ids_T)
