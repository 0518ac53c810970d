"""Trained adapters of `vead` in their places: what makes the operations of an edit out of its request's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from vlmend.data.records import EditCase
from vlmend.editors.shelf import Trained
from vlmend.editors.vead_adapter import Adapter
from vlmend.edits.functions import FunctionOp
from vlmend.edits.named import under
from vlmend.errors import EditError, EditFormatError
from vlmend.models.above import states_of
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["Placed", "Reads", "adapters_of", "check_pictures_asked", "request_states", "signal"]

Reads = Literal["all", "words"]
"""What an adapter reads of an edit: all of picture, prompt and answer (as published), or prompt and answer alone."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A trained adapter behind a layer.

    Attributes:
        layer: index of the decoder layer.
        adapter: the adapter; its weights stay as they are.
        reads: what it reads of an edit.
    """

    layer: int
    adapter: Adapter
    reads: Reads

    @cached_property
    def _shared(self) -> dict[str, Tensor]:
        """The same tensors for all its edits."""
        return self.adapter.states_side()

    def tensors(self, states_TD: Tensor, row: Row) -> dict[str, Tensor]:
        """What `vlmend.edits.attend` needs for the edit of a request's row, out of its states behind the layer."""
        own = self.adapter.to(states_TD.device).edit_side(*signal(states_TD, row, self.reads))
        return self._shared | own

    def operation(self, tensors: Mapping[str, Tensor]) -> FunctionOp:
        """The edit with these tensors."""
        return FunctionOp(self.layer, len(tensors["norm.weight"]), "attend", tensors, {"heads": self.adapter.heads})


def adapters_of(trained: Trained) -> tuple[Placed, ...]:
    """The adapters that were saved, from the lowest layer up.

    Raises:
        EditFormatError: these are no weights of adapters.
    """
    try:
        heads, reads = int(trained.facts["heads"]), trained.facts["reads"]
        return tuple(
            Placed(int(layer), Adapter.sized(under(f"{layer}.", trained.tensors), heads), reads)
            for layer in trained.facts["layers"]
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise EditFormatError(f"the weights for '{trained.editor}' are no adapter's: {error}") from error


def check_pictures_asked(cases: Sequence[EditCase]) -> None:
    """Refuse requests that ask about no picture.

    Raises:
        EditError: names the case.
    """
    if blind := [case.id for case in cases if case.request.image is None]:
        raise EditError(f"case '{blind[0]}' has no picture, whose visual states could be changed")


def request_states(vlm: VLM, case: EditCase, layers: Sequence[int]) -> tuple[Row, list[Tensor]]:
    """The row of a case's request, and its states behind some layers, prompt and target: [T, D] each.

    Raises:
        EditError: the model is not asked, as an edit in force answers in its place.
    """
    prepared = vlm.prepare([case.request])
    states = states_of(vlm, prepared, layers)
    if not states:
        raise EditError(f"an edit in force answers case '{case.id}' without asking the model")
    return prepared.rows[0], [states_1TD[0] for states_1TD in states]


def signal(states_TD: Tensor, row: Row, reads: Reads) -> tuple[Tensor, int]:
    """What an adapter reads of an edit, out of its row's states, [L, D]; and which of it is the last prompt token."""
    end = len(row.ids_T) + row.answer_length
    if reads == "all":
        return states_TD[:end], len(row.ids_T) - 1
    words_T = ~torch.cat([row.visual_T, row.visual_T.new_zeros(row.answer_length)]).to(states_TD.device)
    return states_TD[:end][words_T], int((~row.visual_T).sum()) - 1
