"""A correction as a value: frozen, reversible, made of declarative operations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vlmend.edits.ops import Op, WeightOp
from vlmend.edits.packing import packed, within
from vlmend.errors import EditError

__all__ = ["Edit", "EditRequest", "library_versions", "stacked"]

_LIBRARIES = ("vlmend", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class EditRequest:
    """What an edit was asked to do: the case, its question, its target, what the model said, and its pictures' files
    ("" for a picture that was never a file)."""

    case: str
    question: str
    target: str
    rejected: str | None = None
    images: tuple[str, ...] = ()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that an edit's numbers depend on."""
    return {name: _version(name) for name in _LIBRARIES}


_version = cache(version)  # it reads files


@dataclass(frozen=True, eq=False)
class Edit:
    """A correction of one model, made by whatever method.

    It holds all that is needed to apply it to a freshly loaded model; ``with vlm.using(edit):`` puts it in force and
    takes it back bit for bit.

    Attributes:
        base: fingerprint of the model it was made for.
        ops: its operations, in order.
        requests: what it was asked to do.
        method, settings: what made it, and with which hyper-parameters.
        model: the name that its model was loaded as.
        fitted_on: ids of the edits that were in force when it was made.
        chosen: what the method chose itself where its settings say "auto", and why, as plain JSON values.
        proof: the scores measured when it was made, as plain JSON values.
        versions: of the libraries that made it.
    """

    base: str
    ops: tuple[Op, ...]
    requests: tuple[EditRequest, ...] = ()
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    model: str = ""
    fitted_on: tuple[str, ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict[str, Any])
    proof: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=library_versions)

    @property
    def id(self) -> str:
        """A hash of what it does: the base and the operations' tensors, not how they came about."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        listed, tensors = packed(self.ops)
        digest = hashlib.blake2b(self.base.encode(), digest_size=8)
        digest.update(json.dumps(listed, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def __add__(self, other: Edit) -> Edit:
        """Both edits as one: the operations of this, then those of the other; changes of weights that both share, once.

        Raises:
            EditError: they are for different models.
        """
        if self.base != other.base:
            raise EditError(f"edits for different models ({self.base}, {other.base}) cannot be stacked")
        return replace(
            self,
            ops=(*self.ops, *(op for op in other.ops if not self._shares(op))),
            requests=self.requests + other.requests,
            method=self.method if self.method == other.method else f"{self.method}+{other.method}",
            settings=self.settings if self.settings == other.settings else {},
            chosen=self.chosen if self.chosen == other.chosen else {},
            fitted_on=tuple(dict.fromkeys((*self.fitted_on, *other.fitted_on))),
            proof=None,
        )

    def _shares(self, op: Op) -> bool:
        """Whether an operation is a change of weights that many edits hold, this among them."""
        names = [own.shared for own in self.ops if isinstance(own, WeightOp)]
        return isinstance(op, WeightOp) and op.shared is not None and op.shared in names

    def with_proof(self, proof: Mapping[str, Any]) -> Edit:
        """The same edit with the scores measured for it."""
        return replace(self, proof=dict(proof))

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it changes, by their names on disk, each once."""
        ops = (op for op in within(self.ops) if isinstance(op, WeightOp))
        return tuple(dict.fromkeys(name for op in ops for name in op.names))

    def save(self, folder: Path | str) -> Path:
        """Write ``edit.json`` and ``edit.safetensors``; see `vlmend.edits.store`."""
        from vlmend.edits.store import save

        return save(self, folder)

    @classmethod
    def load(cls, folder: Path | str) -> Edit:
        """Read an edit that was saved; see `vlmend.edits.store`."""
        from vlmend.edits.store import load

        return load(folder)


def stacked(edits: Sequence[Edit]) -> Edit:
    """Several edits as one, in their order.

    Raises:
        EditError: there are none, or they are for different models.
    """
    if not edits:
        raise EditError("there is no edit to stack")
    total = edits[0]
    for edit in edits[1:]:
        total = total + edit
    return total
