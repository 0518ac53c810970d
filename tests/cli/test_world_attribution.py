"""`vlmend world attribution`: a table or a document of what a trial finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vlmend.evaluation.stats import wilson
from vlmend.world.attribution import SECTIONS, Finding


def test_the_command(vlmend_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECTIONS, "pointing", lambda _vlm, trial: [Finding("a map", "hits", wilson(3, trial.n))])
    shown = vlmend_cli("world", "attribution", "demo", "--n", 4, "--only", "pointing", "--json").document
    (line,) = shown["sections"]["pointing"]
    assert (line["of"], line["measured"], line["n"], line["mean"]) == ("a map", "hits", 4, 0.75)
    assert line["low"] < 0.75 < line["high"]
    unknown = vlmend_cli("world", "attribution", "demo", "--only", "guessing")
    assert unknown.is_a_users_mistake("no section 'guessing'", "pointing")
