"""What the numbers among editors' settings can be. A field says so by its type, and `editor` and the command line hold
it to that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from vlmend.errors import EditError, UnknownNameError

__all__ = ["Amount", "Count", "Number", "Rate", "Share", "Size", "check_names", "check_settings", "problem_of"]

Count = Annotated[int, Field(ge=0)]
"""How often or how many, where none is a choice."""

Size = Annotated[int, Field(ge=1)]
"""How many there are of what must be there: a rank, a width, a batch."""

Rate = Annotated[float, Field(gt=0, lt=math.inf)]
"""A learning rate, or what else must be above 0."""

Amount = Annotated[float, Field(ge=0)]
"""A weight, or a bound."""

Share = Annotated[float, Field(ge=0, le=1)]
"""Of a whole."""

Number = Annotated[float, Field(allow_inf_nan=False)]
"""Of either sign."""

_NUMBERS = (Amount, Count, Number, Rate, Share, Size)


def check_names(kind: type[Any], settings: Iterable[str], whose: str) -> None:
    """Refuse names that no field of a dataclass has.

    Raises:
        UnknownNameError: one of them; names ``whose`` it is not, and lists what there is.
    """
    known = [field.name for field in fields(kind)]
    for name in settings:
        if name not in known:
            raise UnknownNameError(f"hyper-parameter of {whose}", name, known)


def check_settings(kind: type[Any], settings: Mapping[str, Any], whose: str) -> None:
    """Refuse numbers that fields of a dataclass cannot be.

    Raises:
        EditError: one of them; names it and ``whose`` it is.
    """
    hints = get_type_hints(kind, include_extras=True)
    for name, value in settings.items():
        if not any(one in _NUMBERS for one in (hints[name], *get_args(hints[name]))):
            continue
        try:
            TypeAdapter[Any](hints[name]).validate_python(value)
        except ValidationError as error:
            raise EditError(f"setting '{name}' of {whose}: {problem_of(error, value)}") from error


def problem_of(error: ValidationError, value: Any) -> str:
    """What a value should be, in one clause, and what it is."""
    wanted = error.errors()[0]["msg"].partition(", unable")[0]
    return f"{wanted.replace('Input should', 'it should', 1)}, not {value!r}"
