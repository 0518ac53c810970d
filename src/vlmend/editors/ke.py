"""ke: KnowledgeEditor, a hyper-network that reads an edit and gates its gradient.

De Cao et al., *Editing Factual Knowledge in Language Models*, EMNLP 2021, arXiv 2104.08164, section 3; for
vision-language models MMEdit, arXiv 2310.08475, section 4.1. The network (`ke_network`) reads

    what the model says >> what it should say || the question

cut to 32 tokens, as the model's own embeddings [T, E], and says what the change of each edited weight is: its gradient
on the request, entry by entry times a matrix of rank 1, plus another one. It does not see the picture, but through the
gradient. As the gradient is kept in factored form the edit is of rank T + 1 and holds no matrix. The edits of several
requests are added. The network must have been trained for the model on other edits (`ke_training`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.changing import Changer
from vlmend.editors.ke_network import KENetwork
from vlmend.editors.shelf import Shelved, Trained
from vlmend.edits.edit import Edit
from vlmend.models.vlm import VLM

__all__ = ["KE", "words_of"]

_WORDS = 32  # tokens of an edit that are read, as published
_SAID = 16  # tokens of an answer of the model


@dataclass(frozen=True)
class KE(Shelved[Changer[KENetwork]]):
    """KnowledgeEditor as an editor.

    Attributes:
        weights: folder of a network that was trained for the model, or of several such folders; ``None`` for those that
            come with the package.
    """

    name: ClassVar[str] = "ke"

    weights: str | None = None

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Run each request forwards and backwards, and read it; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target, its answer depends on none of the layers, or there
                is no network for the model.
        """
        check_cases(cases)
        changer = self.shelved(vlm)
        made = changer.operation(vlm, cases, lambda case, found: changer.network(words_of(vlm, case), found))
        return edit_of(self, vlm, cases, [made])

    def read(self, trained: Trained, vlm: VLM) -> Changer[KENetwork]:
        return Changer[KENetwork].read(trained, vlm, partial(KENetwork.sized, tensors=trained.tensors))


@torch.no_grad()
def words_of(vlm: VLM, case: EditCase) -> Tensor:
    """What the network reads of an edit, embedded: [T, E], in float32.

    What the model says is what the case says it does; where it does not tell, the model is asked.
    """
    said = case.rejected or vlm.generate(vlm.prepare([case.request]), max_new_tokens=_SAID)[0]
    text = f"{said} >> {case.request.answer} || {case.request.question}"
    ids = vlm.tokenizer(text, add_special_tokens=False)["input_ids"][:_WORDS]
    return vlm.parts.embed(torch.tensor(ids, device=vlm.device)).float()
