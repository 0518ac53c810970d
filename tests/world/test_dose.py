"""The dose study: one small model per dial and value, in a run folder that goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from transformers import SiglipVisionModel

from vlmend.world.dose import DESCRIBING, Trial, dose
from vlmend.world.train.backbones import Size
from vlmend.world.train.decoder import Schedule
from vlmend.world.train.tower import vision_config

TRIAL = Trial(
    pictures=40,
    align_steps=2,
    schedule=Schedule(((2, DESCRIBING),)),
    size=Size(width=32, layers=2, heads=2, ff=48, vocabulary=900),
    measured=4,
)


def test_every_dial_is_turned_once_and_a_second_start_measures_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmend.world.dose.DOSES", {"told": (0.0,), "text_share": (0.0, 2.0)})
    tower, tried = SiglipVisionModel(vision_config()).eval(), list[str]()
    records = dose(tower, tmp_path, TRIAL, tried.append)
    assert tried == ["none-1", "told-0", "text_share-0", "text_share-2"]
    assert [f"{r['dial']}-{r['value']:g}" for r in records] == tried
    for record in records:
        for name in ("CHAIR_i natural", "recall natural", "CHAIR_i counter", "recall counter"):
            assert set(record[name]) == {"n", "mean", "low", "high"}  # type: ignore[call-overload]
    assert Image.open(tmp_path / "dose.png").width > 400
    again = list[str]()
    assert dose(tower, tmp_path, TRIAL, again.append) == records
    assert not again
