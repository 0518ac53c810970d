"""The report as one HTML file that needs nothing else: style, pictures and figures are inside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    OOD_GENERALITY,
    PORTABILITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
)
from vlmend.editors.base import CONTROLS
from vlmend.evaluation.kinds import RELIABILITY, kind_of
from vlmend.models.pictures import open_picture
from vlmend.report import figures, pictures
from vlmend.report.comparison import compared, sections, together
from vlmend.report.content import MEASURES, Report, cards, cost_of, kinds_in
from vlmend.report.page import asset, page
from vlmend.report.words import bounds, gain, nats, percent
from vlmend.runs import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmend.evaluation.proof import Change, Proof
    from vlmend.evaluation.stats import Estimate
    from vlmend.report.content import CaseCard, Picture

__all__ = ["headline", "headlines", "render", "write"]

SVG = "image/svg+xml"
GAINS = {
    RELIABILITY: "corrected questions are answered right",
    TEXT_GENERALITY: "in other words",
    IMAGE_GENERALITY: "on another picture",
    OOD_GENERALITY: "in an unusual look",
    PORTABILITY: "follow-up questions",
}
FEW = 4
"""Editors that a page of the usual width has room for side by side."""
UNRELATED = (TEXT_LOCALITY, IMAGE_LOCALITY)


def write(report: Report, path: Path) -> Path:
    """Render the report into `path`, whole or not at all.

    Raises:
        WriteError: it cannot be written.
    """
    page = render(report)
    with whole(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def render(report: Report) -> str:
    """The whole page as text."""
    shown = cards(report)
    return page(
        "report.html.j2",
        report=report,
        cards=shown,
        style=asset("report.css"),
        many=len(report.proofs) > FEW,
        passed=_passed,
        measures=MEASURES,
        probe_kinds=_probe_kinds(shown),
        kind=kind_of,
        settings=_settings,
        cost=_cost,
        percent=percent,
        bounds=bounds,
        verdict_on=_verdict_on,
        embed=_embed,
        figure_light=_figure(report, figures.LIGHT),
        figure_dark=_figure(report, figures.DARK),
        lines=compared([proof.summary for proof in report.proofs]),
        sections=sections(report.proofs, report.groups),
        together=together(report.proofs),
        nats=nats,
        gain=gain,
        headlines=headlines(report.proofs),
    )


def headlines(proofs: Sequence[Proof]) -> list[str]:
    """A sentence for each editor; for controls only where there is nothing else."""
    editors = [proof for proof in proofs if proof.method not in CONTROLS]
    return [headline(proof) for proof in editors or proofs]


def headline(proof: Proof) -> str:
    """What an editor did, in one sentence, counted by free answers; teacher-forced where none were asked for."""
    found = {kind: one.free_exact if one.free_exact.after.n else one.tf_exact for kind, one in proof.summary.items()}
    parts = [_says(found[kind], words) for kind, words in GAINS.items() if kind in found]
    kept = {kind: change.after for kind, change in found.items() if kind_of(kind).keeps}
    far = [estimate for kind, estimate in kept.items() if kind in UNRELATED]
    near = [estimate for kind, estimate in kept.items() if kind not in UNRELATED]
    parts += [_changed(some, words) for some, words in ((far, "unrelated"), (near, "nearby")) if some]
    return f"{proof.method}: " + "; ".join(parts) + "."


def _says(change: Change, words: str) -> str:
    return f"{_hits(change.after)} of {change.after.n} {words} (before: {_hits(change.before)})"


def _changed(kept: Sequence[Estimate], which: str) -> str:
    total = sum(estimate.n for estimate in kept)
    changed = total - sum(_hits(estimate) for estimate in kept)
    return f"{changed} of {total} {which} answers changed"


def _hits(estimate: Estimate) -> int:
    return round(estimate.mean * estimate.n) if estimate.n else 0


def _settings(proof: Proof) -> str:
    """Settings in a line, those that are off left out."""
    return ", ".join(f"{name}={_plain(value)}" for name, value in proof.settings.items() if value is not None)


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return "+".join(_plain(item) for item in cast("Sequence[object]", value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cost(proof: Proof) -> str:
    cost = cost_of(proof)
    return f"{cost.seconds:.2f} s per edit · peak memory {cost.peak_mb:.0f} MB" if cost.edits else ""


def _probe_kinds(shown: Sequence[CaseCard]) -> list[str]:
    """The kinds of probe that occur, known ones first and in their order."""
    return kinds_in(probe.kind for card in shown for probe in card.probes)


def _passed(card: CaseCard, editor: int) -> int:
    """How many of a case's probes one editor's model answers as it should."""
    return sum(probe.after[editor].passed for probe in card.probes)


def _figure(report: Report, theme: figures.Theme) -> str:
    figure = figures.metrics_figure(report.proofs, theme)
    return pictures.encode(SVG, figures.svg(figure, theme))


def _embed(picture: Picture | None, largest: int = pictures.LARGEST) -> dict[str, object] | None:
    if picture is None:
        return None
    image = open_picture(picture)
    return {"src": pictures.data_uri(image, largest), "pixels": pictures.is_pixel_art(image)}


def _verdict_on(change: Change) -> str:
    """Whether the paired interval says that the edit helped ("good"), hurt ("bad"), or neither ("")."""
    if change.gain.low > 0:
        return "good"
    return "bad" if change.gain.high < 0 else ""
