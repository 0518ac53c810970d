"""`vlmend world cooperation`: a table or a document of pairs of edits, and a run folder that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlmend.evaluation.cooperation import STATES


def test_the_command(vlmend_cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ("world", "cooperation", "demo", "--editors", "parrot", "--n", 2, "--out", out)
    outcome = vlmend_cli(*given, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["pairs"] == 2
    states = {one["state"]: one for one in outcome.document["editors"]["parrot"]}
    assert set(states) == set(STATES)
    assert states["unedited"]["seen"]["mean"] is None  # a share of no edits
    records = (out / "records.jsonl").read_bytes()
    again = vlmend_cli(*given)
    assert "of 2 pairs" in again.stdout
    assert again.stdout.splitlines()[-1] == str(out)
    assert (out / "records.jsonl").read_bytes() == records
    assert vlmend_cli(*given, "--seed", 8).is_a_users_mistake(str(out), "seed=7, not 8")
    assert vlmend_cli(*given, "--n", 1).is_a_users_mistake(str(out), "pairs=4 records, not 2 records")
