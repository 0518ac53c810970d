"""The examination of a demo model on scenes that no training has seen.

Each section asks one kind of thing and returns estimates by name; ``GATES`` says what is expected of which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlmend.evaluation.stats import Estimate
from vlmend.models.vlm import VLM
from vlmend.world.exam.asking import Settings
from vlmend.world.exam.describing import captions
from vlmend.world.exam.gates import ENOUGH, GATES, Gate
from vlmend.world.exam.knowledge import context, entities, facts
from vlmend.world.exam.layers import layers
from vlmend.world.exam.scenes import held_out, pope, scenes

__all__ = ["ENOUGH", "GATES", "SECTIONS", "Gate", "Settings", "examine"]

Section = Callable[[VLM, Settings], dict[str, Estimate]]
SECTIONS: dict[str, Section] = {
    "scenes": scenes,
    "pope": pope,
    "entities": entities,
    "facts": facts,
    "context": context,
    "captions": captions,
    "layers": layers,
    "held_out": held_out,
}


def examine(
    vlm: VLM,
    settings: Settings,
    sections: Sequence[str] = tuple(SECTIONS),
    on_section: Callable[[str], None] | None = None,
) -> dict[str, Estimate]:
    """Every estimate of the chosen sections, by name."""
    out: dict[str, Estimate] = {}
    for name in sections:
        if on_section:
            on_section(name)
        out |= SECTIONS[name](vlm, settings)
    return out
