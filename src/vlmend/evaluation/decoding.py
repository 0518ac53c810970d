"""How a model's answers are decoded where it is measured: greedily, or by a training-free peer of what is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from vlmend.alignment.vcd import VCD
from vlmend.data.records import Example
from vlmend.errors import UnknownNameError
from vlmend.models.outputs import Reply
from vlmend.models.vlm import VLM

__all__ = ["DECODINGS", "Decoding", "Greedy", "decoding", "settings_of"]


class Decoding(Protocol):
    """Makes answers."""

    def replies(self, vlm: VLM, asked: Sequence[Example], *, max_new_tokens: int) -> list[Reply]:
        """Answers to examples, with the edits in force."""
        ...


@dataclass(frozen=True)
class Greedy:
    """The likeliest token, each time."""

    def replies(self, vlm: VLM, asked: Sequence[Example], *, max_new_tokens: int) -> list[Reply]:
        """Answers to examples, with the edits in force."""
        return vlm.replies(vlm.prepare(asked), max_new_tokens=max_new_tokens)


DECODINGS: Mapping[str, Callable[..., Greedy | VCD]] = {"greedy": Greedy, "vcd": VCD}
"""Name -> class, whose fields are its settings."""


def decoding(name: str, settings: Mapping[str, Any]) -> Greedy | VCD:
    """A way of decoding by its name.

    Raises:
        UnknownNameError: there is none of that name, or it has no such setting.
        VlmendError: a setting has a value that cannot be.
    """
    if name not in DECODINGS:
        raise UnknownNameError("decoding", name, DECODINGS)
    usual = DECODINGS[name]()
    for setting in settings:
        if setting not in (names := [one.name for one in fields(usual)]):
            raise UnknownNameError(f"setting of decoding '{name}'", setting, names)
    return DECODINGS[name](**settings)


def settings_of(way: Greedy | VCD) -> dict[str, Any]:
    """What tells a decoding from others, as plain JSON values."""
    name = next(name for name, kind in DECODINGS.items() if kind is type(way))
    return {"name": name, **asdict(way)}
