"""An operation with many changes of visual states, of which each prompt gets the one that is about it, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from vlmend.edits.functions import FunctionOp
from vlmend.edits.ops import Op, alike, kept, outlived
from vlmend.edits.recall import Keys, agreement, keys_of
from vlmend.edits.states import StateOp
from vlmend.errors import EditError

__all__ = ["MemoryOp"]

Entry = StateOp | FunctionOp


@dataclass(frozen=True, eq=False)
class MemoryOp(Op):
    """Lets the entry act whose key a prompt agrees with most (`vlmend.edits.recall`); below a bar it abstains.

    The prompt's key is read off the states that a decoder layer makes of its words and its picture, and the entries
    act behind the same layer. Where it abstains, and in a row without a picture, nothing changes, bit for bit. Since
    the key reads the question, a prompt is run whole where rows that share a picture else begin together.

    Attributes:
        layer: index of the decoder layer.
        reader: what `keys_of` is given; shared with other operations, not copied, and not to be changed.
        heads: what `keys_of` is given.
        keys: of the entries, one each.
        entries: changes of visual states behind the layer.
        bar: the least agreement.

    Raises:
        EditError: the numbers of keys and entries differ, or an entry acts behind another layer.
    """

    kind: ClassVar[str] = "memory"
    reads_question: ClassVar[bool] = True

    layer: int
    reader: Mapping[str, Tensor]
    heads: int
    keys: Keys
    entries: tuple[Entry, ...]
    bar: float

    def __post_init__(self) -> None:
        counts = (len(self.keys.asked_NC), len(self.keys.seen_NC), len(self.entries))
        if len(set(counts)) > 1:
            raise EditError(f"a memory of {counts[2]} entries has {counts[0]} and {counts[1]} keys")
        if astray := [entry.layer for entry in self.entries if entry.layer != self.layer]:
            raise EditError(f"the memory behind layer {self.layer} has an entry that acts behind layer {astray[0]}")
        object.__setattr__(self, "reader", {name: tensor.detach().cpu() for name, tensor in self.reader.items()})
        object.__setattr__(self, "keys", Keys(kept(self.keys.asked_NC), kept(self.keys.seen_NC)))

    @property
    def inner(self) -> tuple[Op, ...]:
        return self.entries

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with other layers or another width.

        Raises:
            EditError: says which.
        """
        if not 0 <= self.layer < layers:
            raise EditError(f"the edit acts after layer {self.layer}; the model has {layers} layers")
        if len(self.reader["norm.weight"]) != width:
            raise EditError(
                f"the edit reads states of width {len(self.reader['norm.weight'])}, the model's have {width}"
            )
        for entry in self.entries:
            entry.check(layers, width)

    def recalled(self, states_TD: Tensor, visual_T: Tensor) -> int | None:
        """The place of the entry that a prompt with these states gets; ``None`` to abstain."""
        visual_T = visual_T.to(states_TD.device)
        if not len(self.entries) or not visual_T.any() or visual_T.all():
            return None
        reader = {name: tensor.to(states_TD.device) for name, tensor in self.reader.items()}
        asked = read_off(states_TD, visual_T, reader, self.heads)
        stored = Keys(self.keys.asked_NC.to(states_TD.device), self.keys.seen_NC.to(states_TD.device))
        agreed_N = agreement(asked, stored)[0]
        best = int(agreed_N.argmax())
        return best if float(agreed_N[best]) >= self.bar else None

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        """The states of one prompt as the entry that it recalls changes them."""
        place = self.recalled(states_TD, visual_T)
        return states_TD if place is None else self.entries[place].change(states_TD, visual_T)

    def joined(self, other: Op) -> Op | None:
        """One memory of both's entries, if their keys are read alike: of all of them the best acts, and of two with the
        same key the later one."""
        if not isinstance(other, MemoryOp) or not alike(self.reader, other.reader):
            return None
        if (self.layer, self.heads, self.bar) != (other.layer, other.heads, other.bar):
            return None
        own = outlived(*((keys.asked_NC, keys.seen_NC) for keys in (self.keys, other.keys)))
        entries = (*(self.entries[at] for at in own), *other.entries)
        return replace(self, keys=self.keys[own] + other.keys, entries=entries)

    def fields(self) -> dict[str, Any]:
        return {"layer": self.layer, "heads": self.heads, "bar": self.bar}

    def tensors(self) -> dict[str, Tensor]:
        read = {f"reader/{name}": tensor for name, tensor in self.reader.items()}
        return {"asked": self.keys.asked_NC, "seen": self.keys.seen_NC, **read}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        reader = {n.removeprefix("reader/"): tensor for n, tensor in tensors.items() if n.startswith("reader/")}
        entries = tuple(op for op in inner if isinstance(op, Entry))
        keys = Keys(tensors["asked"], tensors["seen"])
        return cls(int(fields["layer"]), reader, int(fields["heads"]), keys, entries, float(fields["bar"]))


def read_off(states_TD: Tensor, visual_T: Tensor, reader: Mapping[str, Tensor], heads: int) -> Keys:
    """The key of one prompt, out of its states behind a layer; it has words and a picture."""
    words_KD, visual_SD = states_TD[~visual_T].float(), states_TD[visual_T].float()
    whole = [torch.ones(1, len(some), dtype=torch.bool, device=some.device) for some in (words_KD, visual_SD)]
    return keys_of(words_KD[None], whole[0], visual_SD[None], whole[1], reader, heads)
