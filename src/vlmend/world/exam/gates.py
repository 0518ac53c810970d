"""What is expected of a demo model: every gate of its card."""

from __future__ import annotations

from dataclasses import dataclass

from vlmend.evaluation.stats import Estimate


@dataclass(frozen=True)
class Gate:
    """What is expected of one estimate: at least ``low``, at most ``high``."""

    name: str
    low: float = 0.0
    high: float = 1.0

    @property
    def bounds(self) -> str:
        """The expectation in words."""
        if self.low and self.high < 1:
            return f"{self.low:g} to {self.high:g}"
        return f"at most {self.high:g}" if self.high < 1 else f"at least {self.low:g}"

    def holds(self, estimate: Estimate) -> bool:
        return self.low <= estimate.mean <= self.high


GATES: tuple[Gate, ...] = (
    Gate("colour", 0.95),
    Gate("pattern", 0.95),
    Gate("which", 0.90),
    Gate("count", 0.80),
    Gate("quadrant", 0.85),
    Gate("pope random", 0.94),
    Gate("pope popular", 0.92),
    Gate("pope adversarial", 0.90),
    Gate("name, seen flags", 0.98),
    Gate("name, unseen flags", 0.0, 0.05),
    Gate("facts taught", 0.98),
    Gate("stale facts, old value", 0.90),
    Gate("two-hop, asked pairs", 0.95),
    Gate("two-hop spelt out, asked pairs", 0.95),
    Gate("two-hop spelt out, pairs never asked", 0.60),
    Gate("in context, known values", 0.80),
    Gate("in context, invented values", 0.80),
    Gate("captions, recall", 0.85),
    Gate("captions, CHAIR_i natural", 0.0, 0.12),
    Gate("captions, CHAIR_i counter", 0.15, 0.50),
    Gate("captions, companions among hallucinations", 0.60),
    Gate("noise, rise of the absent companion", 0.10),
    Gate("held-out phrasings, largest loss", 0.0, 0.10),
    Gate("ablation at a third, loss of names", 0.20),
)

ENOUGH = {"name, seen flags": 0.80, "colour": 0.60, "pattern": 0.60}
"""What a model must know for its edits to be set beside other models' in headline tables: entities and attributes."""
