"""The model card says what was measured, gate by gate."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vlmend.evaluation.stats import Estimate, wilson
from vlmend.world.card import Examined, write_card
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
    for figure in ("noise.png", "layers.png"):
        assert Image.open(tmp_path / figure).width > 400


def test_gates_have_two_sides() -> None:
    by_name = {gate.name: gate for gate in GATES}
    counter = by_name["captions, CHAIR_i counter"]
    assert [counter.holds(wilson(n, 100)) for n in (5, 30, 80)] == [False, True, False]
    assert by_name["name, unseen flags"].holds(wilson(0, 100))
    assert not by_name["name, unseen flags"].holds(wilson(50, 100))
