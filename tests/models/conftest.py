"""Here, where models are dealt with, every family takes its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from conftest import FAMILIES, left_alone

if TYPE_CHECKING:
    from vlmend import VLM


@pytest.fixture(params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tiny: Callable[..., VLM]) -> Iterator[VLM]:
    """A loaded model of every family in turn; checked to be left bit for bit as it was."""
    yield from left_alone(tiny(request.param))
