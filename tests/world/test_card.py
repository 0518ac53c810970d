"""The model card says what was measured, gate by gate."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from vlmend.errors import DataError
from vlmend.evaluation.stats import Estimate, wilson
from vlmend.world.card import Examined, read_exam, write_card
from vlmend.world.exam import GATES
from vlmend.world.exam.describing import SIGMAS


def estimates(share: float) -> dict[str, Estimate]:
    made = {gate.name: wilson(round(share * 200), 200) for gate in GATES}
    for sigma in SIGMAS:
        made[f"noise {sigma}, recall"] = wilson(180 - round(80 * sigma), 200)
        made[f"noise {sigma}, absent companion named"] = wilson(40 + round(50 * sigma), 200)
    for layer in range(8):
        made[f"ablation, entering layer {layer}"] = wilson(20 * layer, 200)
    return made | {"ablation, none": wilson(200, 200), "place": wilson(190, 200)}


def test_the_card_lists_every_gate_with_its_verdict(tmp_path: Path) -> None:
    card = write_card(tmp_path, Examined(200, 4, estimates(0.3), None), Examined(50, 4, estimates(0.4), None))
    lines = card.read_text(encoding="utf-8").splitlines()
    for gate in GATES:
        (line,) = [one for one in lines if one.startswith(f"| {gate.name} |")]
        assert f"| {gate.bounds} |" in line
        assert ("passed" in line) == (gate.low <= 0.3 <= gate.high)
    assert any(one.startswith("| place | 200 | 0.950") for one in lines)
    assert all(one.endswith("| 0.400 |") for one in lines if one.startswith("| colour |"))
    assert sum(one.endswith("| another seed |") for one in lines) == 2
    assert "another seed" not in write_card(tmp_path, Examined(200, 4, estimates(0.3), None)).read_text(
        encoding="utf-8"
    )
    for figure in ("noise.png", "layers.png"):
        assert Image.open(tmp_path / figure).width > 400


def test_gates_have_two_sides() -> None:
    by_name = {gate.name: gate for gate in GATES}
    counter = by_name["captions, CHAIR_i counter"]
    assert [counter.holds(wilson(n, 100)) for n in (5, 30, 80)] == [False, True, False]
    assert by_name["name, unseen flags"].holds(wilson(0, 100))
    assert not by_name["name, unseen flags"].holds(wilson(50, 100))


def test_what_is_no_examination_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    whole = {"n": 5, "seed": 1, "recipe": None, "estimates": {g.name: asdict(wilson(3, 5)) for g in GATES}}
    path.write_text(json.dumps(whole))
    assert read_exam(path).estimates["colour"] == wilson(3, 5)
    del whole["estimates"]["count"]  # type: ignore[attr-defined]
    for content in ("[]", "{", json.dumps(whole)):
        path.write_text(content)
        with pytest.raises(DataError, match=r"other\.json"):
            read_exam(path)
