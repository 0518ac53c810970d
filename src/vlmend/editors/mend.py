"""mend: Model Editor Networks with Gradient Decomposition, which learnt what to make of an edit's gradient.

Mitchell et al., *Fast Model Editing at Scale*, ICLR 2022, arXiv 2110.11309, section 3; for vision-language models
MMEdit, arXiv 2310.08475, section 4.1. The gradient of a request's loss at the edited layers, in factored form u [T, I]
and delta [T, O] (`gradients`), goes through a trained network (`mend_network`), and each weight W [O, I] gets beside it

    alpha * sum_t delta~_t u~_t^T

which is of rank T, the tokens that the loss depends on: the edit holds T * (I + O) numbers a layer and no matrix. The
edits of several requests are added, as in the paper. Making one is a run of the request forwards and backwards; the
network must have been trained for the model on other edits (`mend_training`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.changing import Changer
from vlmend.editors.mend_network import MENDNetwork
from vlmend.editors.shelf import Shelved, Trained
from vlmend.edits.edit import Edit
from vlmend.models.vlm import VLM

__all__ = ["MEND"]


@dataclass(frozen=True)
class MEND(Shelved[Changer[MENDNetwork]]):
    """MEND as an editor.

    Attributes:
        weights: folder of a network that was trained for the model, or of several such folders; ``None`` for those that
            come with the package.
    """

    name: ClassVar[str] = "mend"

    weights: str | None = None

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Run each request forwards and backwards, and its gradient through the network; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target, its answer depends on none of the layers, or there
                is no network for the model.
        """
        check_cases(cases)
        changer = self.shelved(vlm)
        made = changer.operation(vlm, cases, lambda _, gradients: changer.network(gradients))
        return edit_of(self, vlm, cases, [made])

    def read(self, trained: Trained, vlm: VLM) -> Changer[MENDNetwork]:
        return Changer[MENDNetwork].read(trained, vlm, partial(_sized, trained))


def _sized(trained: Trained, shapes: Mapping[str, tuple[int, int]]) -> MENDNetwork:
    return MENDNetwork.trained(trained.facts["groups"], shapes, trained.tensors)
