"""A diagnosis as a folder: one HTML page that needs nothing else, and its figures as files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmend.models.pictures import open_picture, save_picture
from vlmend.report import figures, pictures
from vlmend.report.diagnosis_figures import modules_figure, share_figure
from vlmend.report.overlay import overlay
from vlmend.report.page import asset, page
from vlmend.report.words import printable
from vlmend.runs import whole

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from PIL import Image

    from vlmend.attribution.diagnosis import Diagnosis, Map

__all__ = ["Sheet", "fill", "headline", "likely", "render", "sheets", "suspicion"]

SVG = "image/svg+xml"
NAMES = {"perturbation": "noise", "integrated-gradients": "gradients"}
SIGNED = {"integrated-gradients"}
"""Methods whose scores speak for or against; the others' say how much."""

_FEWEST = 1e-4


@dataclass(frozen=True)
class Sheet:
    """One heat map over one picture.

    Attributes:
        row: which of the diagnosis' maps it belongs to.
        method: by name.
        layer: where noise entered or whose states were looked at; ``None`` for the encoder's patches.
        picture: which of the example's.
        image: the heat over it.
        pixels: whether it is small, and enlarged with hard pixels.
        signed: whether it can speak against the target.
        largest: the largest score by size.
        floor: what is smaller is rounding.
        peak: the middle of the place with the highest score, in pixels of the picture.
    """

    row: int
    method: str
    layer: int | None
    picture: int
    image: Image.Image
    pixels: bool
    signed: bool
    largest: float
    floor: float
    peak: tuple[float, float]

    @property
    def name(self) -> str:
        """As a file name."""
        layer = "" if self.layer is None else f"-layer-{self.layer}"
        picture = f"-picture-{self.picture}" if self.picture else ""
        return f"map-{self.row}-{self.method}{layer}{picture}.png"

    @property
    def caption(self) -> str:
        """What stands below it."""
        where = "encoder patches" if self.layer is None else f"layer {self.layer}"
        return f"{NAMES.get(self.method, self.method)}, {where}"

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it but rounding."""
        return self.largest < self.floor


def sheets(diagnosis: Diagnosis) -> list[Sheet]:
    """Every heat map over every picture of the example."""
    return [sheet for row, one in enumerate(diagnosis.maps) for sheet in _sheets(diagnosis, row, one)]


def _sheets(diagnosis: Diagnosis, row: int, maps: Map) -> Iterator[Sheet]:
    for attribution in maps.attributions:
        scale = max(float(attribution.scores.abs().max()), attribution.floor)  # of all its layers and pictures
        for layer in attribution.axes.get("layer", (None,)):
            one = attribution if layer is None else attribution.at(layer=layer)
            for index, given in enumerate(diagnosis.example.pictures):
                picture, heat_HW = open_picture(given), one.heat(index)
                yield Sheet(
                    row=row,
                    method=one.method,
                    layer=None if layer is None else int(layer),
                    picture=index,
                    image=overlay(picture, heat_HW, signed=one.method in SIGNED, largest=scale),
                    pixels=pictures.is_pixel_art(picture),
                    signed=one.method in SIGNED,
                    largest=float(heat_HW.nan_to_num(0.0).abs().max()),
                    floor=one.floor,
                    peak=one.peak(index),
                )


def fill(folder: Path, diagnosis: Diagnosis, shown: list[Sheet], facts: Mapping[str, str], command: str) -> Path:
    """Write the page and, in `figures`, its figures.

    Returns:
        The path of the page.

    Raises:
        WriteError: a file cannot be written; the file before it, if any, is still there.
    """
    place = folder / "figures"
    for name, figure in _figures(diagnosis, figures.LIGHT).items():
        for ending in ("png", "svg"):
            figures.save(figure, place / f"{name}.{ending}")
    for sheet in shown:
        save_picture(sheet.image, place / sheet.name)
    path = folder / "diagnosis.html"
    with whole(path) as part:
        part.write_text(render(diagnosis, shown, facts, command), encoding="utf-8")
    return path


def render(diagnosis: Diagnosis, shown: list[Sheet], facts: Mapping[str, str], command: str) -> str:
    """The whole page as text."""
    light, dark = (
        {name: pictures.encode(SVG, figures.svg(figure, theme)) for name, figure in _figures(diagnosis, theme).items()}
        for theme in (figures.LIGHT, figures.DARK)
    )
    return page(
        "diagnosis.html.j2",
        style=asset("report.css") + asset("diagnosis.css"),
        diagnosis=diagnosis,
        pictures=[_embedded(open_picture(one)) for one in diagnosis.example.pictures],
        sheets=[(sheet, _embedded(sheet.image)["src"]) for sheet in shown],
        light=light,
        dark=dark,
        headline=headline(diagnosis),
        suspicion=suspicion(diagnosis),
        likely=likely,
        printable=printable,
        facts=facts,
        command=command,
    )


def _figures(diagnosis: Diagnosis, theme: figures.Theme) -> dict[str, Figure]:
    modules = {one.method: modules_figure(one, theme) for one in diagnosis.modules}
    return {"share": share_figure(diagnosis, theme), **modules}


def _embedded(image: Image.Image) -> dict[str, object]:
    return {"src": pictures.data_uri(image), "pixels": pictures.is_pixel_art(image)}


def headline(diagnosis: Diagnosis) -> str:
    """What was found, in a sentence or two."""
    each = " a token" if any(len(one.tokens) > 1 for one in diagnosis.answers) else ""
    first = diagnosis.answers[0]
    if len(diagnosis.answers) > 1:
        other = diagnosis.answers[1].text
        seen, grey = (_times(value) for value in (diagnosis.seen, diagnosis.grey))
        says = f"“{first.text}” is {seen} as likely as “{other}”{each} with the picture, {grey} with a grey one"
        of = "odds"
    else:
        seen, grey = likely(diagnosis.seen), likely(diagnosis.grey)
        says = f"“{first.text}” has a probability of {seen}{each} with the picture, {grey} with a grey one"
        of = "probability"
    if diagnosis.seen <= diagnosis.grey:
        return printable(f"{says}: the picture does not speak for it, the prior does.")
    prior = diagnosis.prior_share
    return printable(f"{says}: of its {of} the picture gives {100 * (1 - prior):.0f} %, the prior {100 * prior:.0f} %.")


def suspicion(diagnosis: Diagnosis) -> list[str]:
    """Which kind of error the model's own answer would be, and the evidence: a line, or none."""
    cause = diagnosis.cause
    return [] if cause is None else [printable(f"If “{cause.answer}” is wrong, it is {cause.kind}: {cause.why}.")]


def likely(log_prob: float) -> str:
    """A probability in per cent."""
    share = math.exp(log_prob)
    if share < _FEWEST:
        return "under 0.01 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _times(log_odds: float) -> str:
    times = math.exp(min(log_odds, 50.0))
    return f"{times:,.0f} times" if times >= 10 else f"{times:.2g} times"
