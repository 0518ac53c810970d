"""lte: Learning to Edit, a model that was taught to take what it is told before a question for true, and told it.

Jiang et al., *Learning to Edit: Aligning LLMs with Knowledge Editing*, ACL 2024, arXiv 2402.11905, section 3. A model
is taught once, on other edits, to answer by an edit's descriptor ("[Updated Information] ...") where the question is in
its scope, and as ever where it is not (`lte_training`). An edit is then its descriptor, put before every question, and
trains nothing. Of many edits the ``top`` likest to what is asked are put (section 3.2: three of them), however little
like they are.

Here what was taught are low-rank factors, B A with B [out, r] and A [r, in], that every edit brings along: they are in
force for all questions, as published, and once, however many of these edits are. Beyond the paper: likeness is of
questions and of pictures (`vlmend.edits.prompts.RecallOp`), by the model's own embeddings; and with ``least`` what is
less like than that is put before no question, which a descriptor's words alone cannot tell from one in scope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.settings import Number, Size
from vlmend.editors.shelf import Shelved, Trained
from vlmend.edits.edit import Edit
from vlmend.edits.ops import WeightOp
from vlmend.edits.prompts import RecallOp
from vlmend.errors import EditError, EditFormatError
from vlmend.models.prompts import MARKER
from vlmend.models.tensors import fingerprint
from vlmend.models.vlm import VLM

__all__ = ["LTE", "descriptor"]


@dataclass(frozen=True)
class LTE(Shelved[tuple[WeightOp, str, str]]):
    """Learning to Edit as an editor.

    Attributes:
        weights: folder of factors that were trained for the model, or of several such folders; ``None`` for those
            that come with the package.
        top: how many edits' descriptors are put before a question, at most.
        least: only those at least so like, from -2 to 2 (`RecallOp`); ``None`` (as published) for any.
    """

    name: ClassVar[str] = "lte"

    weights: str | None = None
    top: Size = 3
    least: Number | None = None

    @torch.no_grad()
    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Write the requests' descriptors, and how they are found; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target, ``top`` is less than 1, or there are no weights for
                the model.
        """
        check_cases(cases)
        if self.top < 1:
            raise EditError(f"top is {self.top}; at least one edit must be told of")
        taught, template, lead = self.shelved(vlm)
        asked = vlm.prepare([case.request for case in cases])
        texts = tuple(descriptor(template, case) for case in cases)
        return edit_of(self, vlm, cases, [taught, RecallOp(texts, vlm.keys(asked), self.top, self.least, lead)])

    def read(self, trained: Trained, vlm: VLM) -> tuple[WeightOp, str, str]:
        return _change(trained), str(trained.facts["told"]), str(trained.facts["lead"])


def descriptor(template: str, case: EditCase) -> str:
    """What is told of an edit.

    Raises:
        EditError: the template does not name the answer, or names what an edit does not have.
    """
    question = case.request.question
    if MARKER in question:  # its places of pictures are no places in another question
        question = " ".join(question.replace(MARKER, " ").split())
    try:
        text = template.format(question=question, answer=(case.request.answer or "").strip())
    except (KeyError, IndexError, ValueError) as error:
        raise EditError(f"a descriptor has places for {{question}} and {{answer}} alone: {template!r}") from error
    if "{answer}" not in template:
        raise EditError(f"a descriptor must have a place for the {{answer}}: {template!r}")
    return text


def _change(trained: Trained) -> WeightOp:
    """The factors as a change of weights that all edits share, out of what was saved.

    Raises:
        EditFormatError: these are no factors.
    """
    try:
        names: Any = trained.facts["names"]
        factors = {
            str(name): (trained.tensors[f"left.{at}"], trained.tensors[f"right.{at}"]) for at, name in enumerate(names)
        }
        return WeightOp.low_rank(factors, shared=fingerprint(trained.tensors.items()))
    except (KeyError, TypeError, EditError) as error:
        raise EditFormatError(f"the weights for '{trained.editor}' are no factors: {error}") from error
