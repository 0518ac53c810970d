"""What editors there are and what can be set of them, in the words of their own docstrings."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vlmend.editors.base import CONTROLS, EDITORS, editor_class
from vlmend.editors.settings import Amount, Count, Number, Rate, Share, Size
from vlmend.editors.training import TRAINABLE, Trainable, trainable_class
from vlmend.models.parts import LayerSpec

__all__ = ["Listed", "Setting", "listed", "settings_of_editor", "settings_of_training"]

_WORDS: tuple[tuple[Any, str], ...] = (
    (Amount, "number from 0"),
    (Count, "whole number from 0"),
    (Number, "number"),
    (Rate, "number above 0"),
    (Share, "share, 0 to 1"),
    (Size, "whole number from 1"),
    (bool, "true or false"),
    (int, "whole number"),
    (float, "number"),
    (str, "text"),
    (NoneType, "null"),
)
"""What a type takes, in words."""

_LAYERS = "layers: names, indices or depths"
_ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """One setting: its name, what it takes, its default as it is typed, and what it is."""

    name: str
    takes: str
    default: str
    about: str


@dataclass(frozen=True)
class Listed:
    """One registered editor: its name, what it does, whether it must be trained, and whether it is but a control."""

    name: str
    about: str
    trained: bool
    control: bool


def listed() -> list[Listed]:
    """All editors, the controls last."""
    return [Listed(name, _about(name), name in TRAINABLE, name in CONTROLS) for name in (*EDITORS, *CONTROLS)]


def settings_of_editor(name: str) -> list[Setting]:
    """What can be set of a registered editor.

    Raises:
        UnknownNameError: nothing is registered under that name.
    """
    return _settings(editor_class(name))


def settings_of_training(name: str) -> list[Setting]:
    """What can be set of an editor's training; nothing, of one that is not trained."""
    return _settings(trainable_class(name)) if name in TRAINABLE else []


def _about(name: str) -> str:
    """The first line about an editor: its file's, which begins with its name, else its class's."""
    kind = editor_class(name)
    first = (sys.modules[kind.__module__].__doc__ or "").partition("\n")[0]
    before, _, after = first.partition(": ")
    return _plain(after if before.lower() == name else (kind.__doc__ or "").partition("\n")[0])


def _settings(kind: type[Any]) -> list[Setting]:
    told: dict[str, str] = {}
    for one in (Trainable, *reversed(kind.__mro__)):  # a field that only points to another class is told there
        told |= {name: about for name, about in _attributes(one.__doc__ or "") if not about.startswith("see ")}
    hints = get_type_hints(kind, include_extras=True)
    return [
        Setting(field.name, _takes(hints[field.name]), _default(field), told.get(field.name, ""))
        for field in fields(kind)
    ]


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """The entries of a docstring's section of attributes."""
    _, _, section = docstring.partition("Attributes:\n")
    for names, about in _ENTRY.findall(re.sub("^ {4}", "", section.split("\n\n")[0], flags=re.MULTILINE)):
        for name in names.split(", "):
            yield name, _plain(about)


def _plain(text: str) -> str:
    return " ".join(text.replace("``None``", "null").replace("``", "").split())


def _takes(hint: Any) -> str:
    """What a type takes, in words."""
    if words := [words for kind, words in _WORDS if kind == hint]:
        return words[0]
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, parts))
    if get_origin(hint) in (Union, UnionType):
        layers = get_args(LayerSpec)
        some = {*layers} <= {*parts}
        rest = [_takes(part) for part in parts if not (some and part in layers)]
        return " or ".join([*([_LAYERS] if some else []), *rest])
    if get_origin(hint) is tuple:
        return f"list of {_takes(parts[0])}" if parts[-1] is ... else f"list of {len(parts)}"
    return str(getattr(hint, "__name__", hint)).lower()


def _default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "must be given"
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return json.dumps(value, ensure_ascii=False)
