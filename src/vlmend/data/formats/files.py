"""Reading the JSON lists that most formats are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmend.errors import DataError

__all__ = ["json_records"]


def json_records(path: Path) -> list[Any]:
    """The list in a JSON file.

    Raises:
        DataError: the file cannot be read, is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", path=path) from error
    if not isinstance(content, list):
        raise DataError(f"a list of records was expected, not {type(content).__name__}", path=path)
    return content
