"""Trials of attributions on the demo world, where what is true is known.

Each section tries one kind of claim and returns what it found line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlmend.models.vlm import VLM
from vlmend.world.attribution.agreement import agreement
from vlmend.world.attribution.asking import Finding, Trial
from vlmend.world.attribution.causes import causes
from vlmend.world.attribution.editing import editing
from vlmend.world.attribution.pointing import pointing
from vlmend.world.attribution.randomised import randomised
from vlmend.world.attribution.taking import taking

__all__ = ["SECTIONS", "Finding", "Trial", "tried"]

Section = Callable[[VLM, Trial], list[Finding]]

SECTIONS: dict[str, Section] = {
    "pointing": pointing,
    "weights": randomised,
    "removal": taking,
    "agreement": agreement,
    "errors": causes,
    "editing": editing,
}
"""Name -> what is tried."""


def tried(
    vlm: VLM, trial: Trial, sections: Sequence[str] = tuple(SECTIONS), on_section: Callable[[str], None] | None = None
) -> dict[str, list[Finding]]:
    """What the chosen sections find, by section."""
    out: dict[str, list[Finding]] = {}
    for name in sections:
        if on_section:
            on_section(name)
        out[name] = SECTIONS[name](vlm, trial)
    return out
