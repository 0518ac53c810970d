"""Figures of attributions: heat maps over the original picture, bars of layers and modules, tables of colours.

Colours and fonts are whatever matplotlib is set to, so that a report draws them in its own style.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from vlmend.attribution.result import PLACE, Attribution
from vlmend.errors import AttributionError
from vlmend.models.pictures import open_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vlmend.models.pictures import Picture

__all__ = ["draw"]

_PANELS = 12
_COLUMNS = 4
_ROUNDING = 1e-3


def draw(attribution: Attribution, picture: Picture | None = None, index: int = 0) -> Figure:
    """A figure of an attribution.

    Args:
        attribution: scores over places, or with one or two axes.
        picture: what the heat is laid over; without one it stands alone.
        index: which of the example's pictures that is.

    Raises:
        AttributionError: more than two axes, or more panels than a figure holds: choose with ``at`` or ``mean``.
    """
    if PLACE in attribution.axes:
        return _maps(attribution, picture, index)
    if len(attribution.axes) > 2:
        raise AttributionError(f"a figure has two axes at most; choose from {', '.join(attribution.axes)} with at(...)")
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    names = list(attribution.axes)
    if len(names) == 2 and len(attribution.axes[names[1]]) > 3:
        _table(figure, axes, attribution)
    else:
        _bars(axes, attribution)
    axes.set_title(_title(attribution), loc="left")
    return figure


def _title(attribution: Attribution) -> str:
    said = " − ".join("".join(tokens).strip() for tokens in attribution.target["tokens"])
    return f"{attribution.method}: {said}"


def _bars(axes: Axes, attribution: Attribution) -> None:
    """One group of bars for each label of the first axis."""
    names = list(attribution.axes)
    if not names:
        raise AttributionError("there is nothing to draw: the scores have no axes")
    labels = attribution.axes[names[0]]
    series = attribution.axes[names[1]] if len(names) == 2 else ("",)
    columns = attribution.scores.reshape(len(labels), len(series)).T.tolist()
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(zip(series, columns, strict=True)):
        shift = (number - (len(series) - 1) / 2) * width
        axes.bar([place + shift for place in range(len(labels))], values, width, label=str(name))
    axes.axhline(0, linewidth=0.8, color="grey")
    axes.set_xticks(range(len(labels)), [str(label) for label in labels])
    axes.set_xlabel(names[0])
    axes.set_ylabel(attribution.target["of"].replace("_", " "))
    if len(series) > 1:
        axes.legend(frameon=False)


def _table(figure: Figure, axes: Axes, attribution: Attribution) -> None:
    """Colours: the first axis to the right, the second downwards."""
    across, down = attribution.axes.values()
    largest = float(attribution.scores.abs().max()) or 1.0
    image = axes.imshow(attribution.scores.T.numpy(), cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    axes.set_xticks(range(len(across)), [str(label) for label in across])
    axes.set_yticks(range(len(down)), [str(label) for label in down])
    axes.set_xlabel(next(iter(attribution.axes)))
    figure.colorbar(image, ax=axes)


def _maps(attribution: Attribution, picture: Picture | None, index: int) -> Figure:
    """One panel for each choice of the other axes' labels."""
    others = {name: labels for name, labels in attribution.axes.items() if name != PLACE}
    choices: list[dict[str, Any]] = [
        dict(zip(others, labels, strict=True)) for labels in itertools.product(*others.values())
    ]
    if len(choices) > _PANELS:
        raise AttributionError(f"{len(choices)} maps are too many for a figure; choose with at(...) or mean(...)")
    columns = min(len(choices), _COLUMNS)
    rows = -(-len(choices) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    ground = None if picture is None else open_picture(picture)
    signed = float(attribution.scores.min()) < -_ROUNDING * float(attribution.scores.max())
    # One scale for all panels, and none that shows rounding at full colour.
    largest = max(float(attribution.scores.abs().max()), attribution.floor) or 1.0
    for axes, choice in itertools.zip_longest(panels, choices):
        axes.set_axis_off()
        if choice is None:
            continue
        chosen = attribution.at(**choice)
        heat_HW = chosen.heat(index).numpy()
        if ground is not None:
            axes.imshow(ground)
        axes.imshow(
            heat_HW,
            cmap="RdBu_r" if signed else "inferno",
            vmin=-largest if signed else 0.0,
            vmax=largest,
            alpha=1.0 if ground is None else 0.55,
        )
        title = ", ".join(f"{name} {label}" for name, label in choice.items())
        nothing = float(chosen.scores.abs().max()) < attribution.floor
        axes.set_title(f"{title} (nothing)" if nothing else title, loc="left")
    figure.suptitle(_title(attribution))
    return figure
