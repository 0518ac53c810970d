"""The same edits under several rulers: published protocols, free generation, gains, and gains where the model
recognises what a probe rests on. Editors that mend nothing in earnest show what a ruler can be misled by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure

from vlmend.evaluation.overall import SCORES, OverallScore, overall
from vlmend.evaluation.protocols import DEFAULT, LEGACY, VISEDIT, Protocol
from vlmend.report.figures import LIGHT, Theme, look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vlmend.evaluation.proof import Proof
    from vlmend.evaluation.record import ProbeRecord
    from vlmend.evaluation.stats import Estimate

__all__ = ["RULERS", "Ruled", "ruled", "rulers_figure"]

ROW = 0.7
"""Height of an editor's line in inches: five marks stand in it, one below the other."""


def _after(protocol: Protocol) -> OverallScore:
    """A protocol's score after the edit, over MMEdit's five metrics."""
    return OverallScore(protocol.title, SCORES["published"].parts, lambda record: protocol.score(record)[1])


def _where_recognised(record: ProbeRecord) -> float | None:
    return None if record.recognised is False else SCORES["gain"].value(record)


_GAIN = replace(SCORES["gain"], title="Gain over the base, near misses among the probes")

RULERS: tuple[OverallScore, ...] = (
    replace(_after(LEGACY), title="EasyEdit's score"),
    replace(_after(VISEDIT), title="VisEdit's score"),
    replace(_after(DEFAULT), title="Free generation"),
    _GAIN,
    replace(_GAIN, title="The same, where recognised", value=_where_recognised),
)
"""From the kindest to the strictest. All are means over kinds of probes; questions are put as they were measured."""

_SAYS = (
    "the right answer is fed in, and its tokens that are likeliest count; locality: 1 or 10 likeliest as before",
    "the right answer is fed in, and its tokens that are likeliest count; locality: tokens as before",
    "own answers that are right; locality: own answers as before",
    "after less before; near misses: another question on the picture, the question on another or none",
    "only probes that rest on nothing the unedited model gets wrong",
)
"""What each counts, in a line of the figure."""


@dataclass(frozen=True)
class Ruled:
    """One editor under every ruler of `RULERS`, in their order."""

    method: str
    scores: tuple[Estimate, ...]


def ruled(proofs: Sequence[Proof]) -> list[Ruled]:
    """Every editor, the best by gain over the base first."""
    each = [Ruled(proof.method, tuple(overall(proof.records, ruler) for ruler in RULERS)) for proof in proofs]
    place = RULERS.index(_GAIN)
    return sorted(each, key=lambda one: -(one.scores[place].mean if one.scores[place].n else float("-inf")))


def rulers_figure(proofs: Sequence[Proof], theme: Theme = LIGHT) -> Figure:
    """One line an editor, one mark a ruler; bars are 95 % intervals."""
    each = ruled(proofs)
    with rc_context(style(theme)):
        figure = Figure(figsize=(8.4, 2.9 + ROW * len(each)), layout="constrained")
        axes = figure.subplots()
        axes.set_title("The same edits under five rulers", loc="left", pad=24)
        about = "Each a mean over kinds of probes; bars are 95 % intervals. Doing nothing is 0 in gains, not in scores."
        axes.annotate(about, (0, 1), (0, 9), "axes fraction", "offset points", color=theme.faint, fontsize=10)
        for row, one in enumerate(each):
            _row(axes, row, one, labelled=row == 0)
        axes.set_ylim(len(each) - 0.5, -0.5)
        axes.set_yticks(range(len(each)), [one.method for one in each])
        low = min((score.low for one in each for score in one.scores if score.n), default=0.0)
        axes.set_xlim(min(-0.03, low - 0.03), 1.03)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
        axes.axvline(0, color=theme.grid, zorder=0)
        axes.grid(axis="x", zorder=0)
        axes.tick_params(length=0)
        figure.legend(loc="outside lower left", frameon=False, fontsize=10, labelspacing=0.7)
    return figure


def _row(axes: Axes, row: int, one: Ruled, *, labelled: bool) -> None:
    known = [score.mean for score in one.scores if score.n]
    if known:
        axes.plot([min(known), max(known)], [row, row], color="0.6", lw=1.0, alpha=0.6, zorder=1)
    for place, (ruler, says, score) in enumerate(zip(RULERS, _SAYS, one.scores, strict=True)):
        label = f"{ruler.title}\n{says}" if labelled else None
        y = row + 0.18 * (place - (len(RULERS) - 1) / 2)
        colour, marker = look(place)
        if score.n:
            axes.plot([score.low, score.high], [y, y], color=colour, lw=2.4, alpha=0.3, zorder=2)
        mean = [score.mean] if score.n else []
        axes.plot(mean, [y] * len(mean), marker, ls="none", ms=6, color=colour, label=label, zorder=3)
