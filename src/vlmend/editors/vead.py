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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.shelf import Trained, trained_for
from vlmend.editors.vead_adapter import Adapter
from vlmend.edits.edit import Edit
from vlmend.edits.functions import FunctionOp
from vlmend.edits.ops import Op
from vlmend.edits.routes import Key, RouteOp
from vlmend.errors import EditError, EditFormatError
from vlmend.models.above import states_of
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["VEAD", "Reads", "adapters_of", "check_pictures_asked", "signal"]

Reads = Literal["all", "words"]
"""What an adapter reads of an edit: all of picture, prompt and answer (as published), or prompt and answer alone."""


@dataclass(frozen=True)
class VEAD:
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

    @classmethod
    def pretrained(cls, folder: Path | str | None = None) -> VEAD:
        """The editor with the weights in a folder; without one, with those that come with the package."""
        return cls(None if folder is None else str(folder))

    @torch.no_grad()
    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Run each request up to the edit layer and keep what the adapter reads of it; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target or no picture, or there is no adapter for the model.
        """
        check_cases(cases)
        check_pictures_asked(cases)
        adapters, reads = self._adapters(vlm)
        own = self.pictures == "own" or (self.pictures == "auto" and len(cases) > 1)
        ops: list[Op] = []
        for case in cases:
            prepared = vlm.prepare([case.request])
            row = prepared.rows[0]
            states = states_of(vlm, prepared, list(adapters))
            if not states:
                raise EditError(f"an edit in force answers case '{case.id}' without asking the model")
            made = [
                _operation(layer, adapter, states_1TD[0], row, reads)
                for (layer, adapter), states_1TD in zip(adapters.items(), states, strict=True)
            ]
            ops += [RouteOp(Key(picture=row.content), tuple(made))] if own else made
        return edit_of(self, vlm, cases, ops)

    def _adapters(self, vlm: VLM) -> tuple[Mapping[int, Adapter], Reads]:
        if vlm.fingerprint not in self._loaded:
            trained = trained_for(self.name, vlm, self.weights)
            self._loaded[vlm.fingerprint] = adapters_of(trained), trained.facts["reads"]
        return self._loaded[vlm.fingerprint]

    @cached_property
    def _loaded(self) -> dict[str, tuple[Mapping[int, Adapter], Reads]]:
        """Adapters that were read, by the fingerprint of their model: its edits share their tensors."""
        return {}


def check_pictures_asked(cases: Sequence[EditCase]) -> None:
    """Refuse requests that ask about no picture.

    Raises:
        EditError: names the case.
    """
    if blind := [case.id for case in cases if case.request.image is None]:
        raise EditError(f"case '{blind[0]}' has no picture, whose visual states could be changed")


def adapters_of(trained: Trained) -> Mapping[int, Adapter]:
    """Layer -> adapter, out of what was saved.

    Raises:
        EditFormatError: these are no weights of adapters.
    """
    try:
        return {
            int(layer): Adapter.sized(_under(f"{layer}.", trained.tensors), int(trained.facts["heads"]))
            for layer in trained.facts["layers"]
        }
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise EditFormatError(f"the weights for '{trained.editor}' are no adapter's: {error}") from error


def signal(states_TD: Tensor, row: Row, reads: Reads) -> tuple[Tensor, int]:
    """What an adapter reads of an edit, out of its row's states, [L, D]; and which of it is the last prompt token."""
    end = len(row.ids_T) + row.answer_length
    if reads == "all":
        return states_TD[:end], len(row.ids_T) - 1
    words_T = ~torch.cat([row.visual_T, row.visual_T.new_zeros(row.answer_length)]).to(states_TD.device)
    return states_TD[:end][words_T], int((~row.visual_T).sum()) - 1


def _operation(layer: int, adapter: Adapter, states_TD: Tensor, row: Row, reads: Reads) -> FunctionOp:
    adapter.to(states_TD.device)
    signal_LD, asked = signal(states_TD, row, reads)
    tensors = adapter.for_edit(signal_LD, asked)
    return FunctionOp(layer, signal_LD.shape[-1], "attend", tensors, {"heads": adapter.heads})


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
