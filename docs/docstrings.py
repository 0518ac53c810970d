"""How mkdocstrings reads our docstrings: several names with one explanation become one entry each."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_TOGETHER = re.compile(r"^( +)(\w+(?:, \w+)+): (.+(?:\n\1 +.+)*)$", flags=re.MULTILINE)


def apart(text: str) -> str:
    """A docstring in which ``a, b: what they are`` is two entries."""

    def entries(found: re.Match[str]) -> str:
        indent, names, explanation = found.groups()
        return "\n".join(f"{indent}{name}: {explanation}" for name in names.split(", "))

    return _TOGETHER.sub(entries, text)


class Names(Extension):
    """Applies `apart` to every docstring."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe for all that it finds."""
        if obj.docstring is not None:
            obj.docstring.value = apart(obj.docstring.value)
