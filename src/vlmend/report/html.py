"""The report as one HTML file that needs nothing else: style, pictures and figures are inside it."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape

from vlmend.report import figures, pictures
from vlmend.report.content import KINDS, MEASURES, Report, kind_of

if TYPE_CHECKING:
    from vlmend.report.content import EditorScores, Interval, Measure, Picture

__all__ = ["headline", "render", "write"]

SVG = "image/svg+xml"
HEADLINE = "free_exact"
GAINS = {
    "reliability": "corrected questions are answered right",
    "text_generality": "in other words",
    "image_generality": "on another picture",
}


def write(report: Report, path: Path) -> Path:
    """Render the report into `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(report), encoding="utf-8")
    return path


def render(report: Report) -> str:
    """The whole page as text."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            style=_asset("report.css"),
            measures=MEASURES,
            kind=kind_of,
            percent=_percent,
            bounds=_bounds,
            change=_change,
            embed=_embed,
            probe_kinds=_probe_kinds(report),
            figure_light=_figure(report, figures.LIGHT),
            figure_dark=_figure(report, figures.DARK),
            headlines=[headline(scores) for scores in report.editors],
        )
    )


def headline(scores: EditorScores) -> str:
    """What an editor did, in one sentence, counted by free generation."""
    rows = {row.kind: row.measures[HEADLINE] for row in scores.metrics if HEADLINE in row.measures}
    parts = [_says(rows[kind], words) for kind, words in GAINS.items() if kind in rows]
    kept = [measure.after for kind, measure in rows.items() if kind_of(kind).keeps]
    if kept:
        total = sum(value.n for value in kept)
        changed = total - sum(_hits(value) for value in kept)
        parts.append(f"{changed} of {total} unrelated answers changed")
    return f"{scores.editor}: " + "; ".join(parts) + "."


def _says(measure: Measure, words: str) -> str:
    before = "" if measure.before is None else f" (before: {_hits(measure.before)})"
    return f"{_hits(measure.after)} of {measure.after.n} {words}{before}"


def _hits(value: Interval) -> int:
    return 0 if math.isnan(value.mean) else round(value.mean * value.n)


def _probe_kinds(report: Report) -> list[str]:
    """The kinds of probe that occur, known ones first and in their order."""
    found = dict.fromkeys(probe.kind for card in report.cases for probe in card.probes)
    return [kind for kind in KINDS if kind in found] + [kind for kind in found if kind not in KINDS]


def _figure(report: Report, theme: figures.Theme) -> str:
    if not report.editors:
        return ""
    figure = figures.metrics_figure(report.editors, theme)
    return pictures.encode(SVG, figures.svg(figure, theme))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_asset),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return resources.files("vlmend.report").joinpath("templates", name).read_text(encoding="utf-8")


def _embed(picture: Picture | None, largest: int = pictures.LARGEST) -> dict[str, object] | None:
    if picture is None:
        return None
    image = pictures.open_picture(picture)
    return {"src": pictures.data_uri(image, largest), "pixels": pictures.is_pixel_art(image)}


def _percent(value: Interval | float) -> str:
    mean = value if isinstance(value, float | int) else value.mean
    return "–" if math.isnan(mean) else f"{100 * mean:.0f}"


def _bounds(value: Interval) -> str:
    return f"{100 * value.low:.0f}–{100 * value.high:.0f}"


def _change(measure: Measure) -> str:
    """Whether the interval says that the edit helped ("good"), hurt ("bad"), or neither ("")."""
    if measure.before is None:
        return "bad" if measure.after.high < 1 else ""
    if measure.after.low > measure.before.mean:
        return "good"
    return "bad" if measure.after.high < measure.before.mean else ""
