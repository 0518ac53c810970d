"""What the published evaluators make of made-up answers (tests/fixtures/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def golden(fixtures: Path) -> dict[str, Any]:
    """Benchmark -> inputs and published numbers."""
    return json.loads((fixtures / "hallucination.json").read_text(encoding="utf-8"))
