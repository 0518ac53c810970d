"""vead-memory: many edits of `vead` in force at once, each for prompts that are about the same picture and question.

VisEdit's adapter (Chen et al., AAAI 2025, arXiv 2408.09916; `vlmend.editors.vead`) changes what is seen of any picture,
whatever is asked: of two edits in force both act everywhere. Here each edit has a key, which sees its picture *and* its
question (`vlmend.edits.recall`), and a prompt gets the one edit whose key it agrees with, or none (`MemoryOp`). The
keys' weights are learnt for a model (`vead_memory_training`) with near misses: another question about the same
picture, and the same question about another picture.

Since an edit so kept acts nowhere else, it can be driven further than what the adapter makes of it in one run: the keys
and values that it writes are the beginning of a descent on the request's own loss, which ends as soon as the target is
said with certainty. Where the adapter was right already that is at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.fitting import answer_loss, descend
from vlmend.editors.settings import Amount, Count, Number, Rate
from vlmend.editors.shelf import Shelved, Trained
from vlmend.editors.vead_adapter import Live
from vlmend.editors.vead_placed import Placed, adapters_of, check_pictures_asked, request_states
from vlmend.edits.edit import Edit
from vlmend.edits.functions import FunctionOp
from vlmend.edits.memory import MemoryOp, read_off
from vlmend.edits.named import under
from vlmend.edits.recall import Keys
from vlmend.errors import EditFormatError
from vlmend.models.vlm import VLM

__all__ = ["VEADMemory"]

_FITTED = ("key", "value")


@dataclass(frozen=True, eq=False)
class _Read:
    """Trained weights: the adapter, and what keys are read with."""

    placed: Placed
    reader: Mapping[str, Tensor]
    heads: int
    bar: float

    @classmethod
    def of(cls, trained: Trained) -> _Read:
        """Out of what was saved.

        Raises:
            EditFormatError: these are no weights of a memory.
        """
        try:
            facts: Mapping[str, Any] = trained.facts
            adapter = Trained("vead", trained.base, facts["adapter"], under("adapter.", trained.tensors), {})
            (placed,) = adapters_of(adapter)
            reader = under("reader.", trained.tensors)
            return cls(placed, reader, int(facts["heads"]), float(trained.tensors["bar"]))
        except (KeyError, TypeError, ValueError) as error:
            raise EditFormatError(f"the weights for '{trained.editor}' are no memory's: {error}") from error


@dataclass(frozen=True)
class VEADMemory(Shelved[_Read]):
    """A memory of visual edits as an editor.

    Attributes:
        weights: folder of keys and an adapter that were trained for the model, or of several such folders; ``None`` for
            those that come with the package.
        bar: how far a prompt must agree with an edit's key, up to 1; ``None``: as was best on the cases held out.
        steps: AdamW steps on the request, at most; 0 to keep what the adapter makes.
        lr: learning rate, as a multiple of the tensors' mean absolute value.
        stop_loss: stop when the loss is below it; 0 to take all steps.
    """

    name: ClassVar[str] = "vead-memory"

    weights: str | None = None
    bar: Number | None = None
    steps: Count = 100
    lr: Rate = 0.1
    stop_loss: Amount = 0.02

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """One memory with an entry for each request; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target or no picture, there are no weights for the model, or
                the fit diverges.
        """
        check_cases(cases)
        check_pictures_asked(cases)
        read = self.shelved(vlm)
        with vlm.without(MemoryOp):  # of all entries one acts
            made = [self._entry(vlm, case, read) for case in cases]
        keys = Keys(torch.cat([key.asked_NC for key, _ in made]), torch.cat([key.seen_NC for key, _ in made]))
        bar = read.bar if self.bar is None else self.bar
        memory = MemoryOp(read.placed.layer, read.reader, read.heads, keys, tuple(entry for _, entry in made), bar)
        return edit_of(self, vlm, cases, [memory])

    def _entry(self, vlm: VLM, case: EditCase, read: _Read) -> tuple[Keys, FunctionOp]:
        with torch.no_grad():
            row, (states_TD,) = request_states(vlm, case, [read.placed.layer])
            tensors = read.placed.tensors(states_TD, row)
            count = len(row.ids_T)
            reader = {name: tensor.to(states_TD.device) for name, tensor in read.reader.items()}
            key = read_off(states_TD[:count], row.visual_T.to(states_TD.device), reader, read.heads)
        return key, read.placed.operation(self._fitted(vlm, case, read.placed, tensors))

    def _fitted(self, vlm: VLM, case: EditCase, placed: Placed, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The edit's tensors after a descent from these."""
        prepared = vlm.prepare([case.request])
        here = {name: tensor.to(vlm.device) for name, tensor in tensors.items()}
        units = {name: here[name].abs().mean() for name in _FITTED}
        moves = {name: torch.zeros_like(here[name]).requires_grad_(True) for name in _FITTED}

        def moved() -> dict[str, Tensor]:
            return {name: here[name] + units[name] * move for name, move in moves.items()}

        def loss_of() -> Tensor:
            live = Live(placed.layer, {**here, **moved()}, placed.adapter.heads)
            return answer_loss(vlm.run(prepared, ops=[live], grad=True, first=vlm.first_stage([live])))

        descend(list(moves.values()), loss_of, steps=self.steps, lr=self.lr, stop_loss=self.stop_loss)
        return {**tensors, **{name: tensor.detach() for name, tensor in moved().items()}}

    def read(self, trained: Trained, vlm: VLM) -> _Read:
        return _Read.of(trained)
