"""vead: the Visual Edit Adapter, which changes what the decoder sees of any picture by what an edit is about.

Chen et al., *Attribution Analysis Meets Model Editing: Advancing Knowledge Correction in Vision Language Models with
VisEdit*, AAAI 2025, arXiv 2408.09916, section 4. An adapter sits behind one decoder layer (or several), in the middle
of the model, before the layers that read the picture. Making an edit is one run of the picture, the question and the
target up to that layer: their states E [L, D] there are what the adapter reads. With the edit in force it is added to
the states x [S, D] at a picture's tokens, whatever the picture,

    x + g * d,     d = cross-attention of x to E,     g = Influence Mapper of x and E's last prompt token in (0, 1)

(`vlmend.edits.attend` has the formulae, `vead_adapter` the weights). The adapter must have been trained for the model
on other edits (`vead_training`); the edit itself trains nothing, and no weight of the model changes.

Two consequences. A question without a picture is answered as before, bit for bit. And since a picture's tokens come
before the words, the change does not depend on what is asked: it is one change for all questions about a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.shelf import Shelved, Trained
from vlmend.editors.vead_placed import Placed, adapters_of, check_pictures_asked, request_states
from vlmend.edits.edit import Edit
from vlmend.edits.ops import Op
from vlmend.edits.routes import Key, RouteOp
from vlmend.models.vlm import VLM

__all__ = ["VEAD"]


@dataclass(frozen=True)
class VEAD(Shelved[tuple[Placed, ...]]):
    """The Visual Edit Adapter as an editor.

    Attributes:
        weights: folder of an adapter that was trained for the model, or of several such folders; ``None`` for those
            that come with the package.
        pictures: on which pictures an edit acts: "any" (as published), "own" (the request's alone), or "auto": any, but
            of an edit for several requests, each on its own picture, since adapters on one picture add up.
    """

    name: ClassVar[str] = "vead"

    weights: str | None = None
    pictures: Literal["auto", "any", "own"] = "auto"

    @torch.no_grad()
    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Run each request up to the edit layer and keep what the adapter reads of it; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target or no picture, or there is no adapter for the model.
        """
        check_cases(cases)
        check_pictures_asked(cases)
        adapters = self.shelved(vlm)
        own = self.pictures == "own" or (self.pictures == "auto" and len(cases) > 1)
        ops: list[Op] = []
        for case in cases:
            row, states = request_states(vlm, case, [one.layer for one in adapters])
            made = [one.operation(one.tensors(states_TD, row)) for one, states_TD in zip(adapters, states, strict=True)]
            ops += [RouteOp(Key(picture=row.content), tuple(made))] if own else made
        return edit_of(self, vlm, cases, ops)

    def read(self, trained: Trained, vlm: VLM) -> tuple[Placed, ...]:
        return adapters_of(trained)
