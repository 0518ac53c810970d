"""What an attribution is: scores with named axes, and where in the pictures they lie."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vlmend.errors import AttributionError, UnknownNameError
from vlmend.models.layout import Box, Place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vlmend.models.pictures import Picture

__all__ = ["PLACE", "Attribution", "Completeness", "Label"]

PLACE = "place"
"""The axis whose entries lie somewhere in the pictures."""

Label = str | int
"""What an entry of an axis is called: an index, or a name."""


@dataclass(frozen=True)
class Completeness:
    """Whether parts make up the whole.

    Attributes:
        expected: what they should add up to.
        found: what they add up to.
    """

    expected: float
    found: float

    @property
    def error(self) -> float:
        """How far off they are, as a share of what is expected."""
        return abs(self.found - self.expected) / max(abs(self.expected), 1e-12)


@dataclass(frozen=True, eq=False)
class Attribution:
    """What an answer was traced back to.

    Attributes:
        method: name of the method.
        settings: its hyper-parameters.
        scores: float32, one axis for each of ``axes``.
        axes: name -> labels, in the order of the axes of ``scores``. "layer" has indices of decoder layers, "module"
            and "group" have names, "place" has indices into ``places``.
        target: what was asked after: the answer, its tokens and their ids, and its value.
        model: what the model was loaded as.
        question: what it was asked.
        edits: ids of the edits that were in force.
        places: where each entry of the axis "place" lies.
        sizes: width and height of each picture, in pixels.
        rest: what belongs to none of the axes, by name.
        completeness: whether scores and rest make up the whole, where the method says so.
        floor: a score that is smaller than this, by size, is rounding and says nothing.
        notes: what the reader must know: another path taken, something left out.
        details: what else the method found.
    """

    method: str
    settings: dict[str, Any]
    scores: Tensor
    axes: dict[str, tuple[Label, ...]]
    target: dict[str, Any]
    model: str
    question: str
    edits: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    rest: dict[str, float] = field(default_factory=dict[str, float])
    completeness: Completeness | None = None
    floor: float = 0.0
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        expected = tuple(len(labels) for labels in self.axes.values())
        if tuple(self.scores.shape) != expected:
            raise AttributionError(f"scores of shape {tuple(self.scores.shape)} do not fit the axes {self.axes.keys()}")
        if not torch.isfinite(self.scores).all():
            raise AttributionError(f"{self.method}: scores for {self.question!r} are not finite")

    def at(self, **labels: Label) -> Attribution:
        """Only what stands at some labels; their axes are gone. ``at(layer=3, module="mlp")``.

        Raises:
            UnknownNameError: there is no such axis or label.
        """
        scores, axes = self.scores, dict(self.axes)
        for name, label in labels.items():
            index = self._axis(name, axes)
            if label not in axes[name]:
                raise UnknownNameError(name, str(label), map(str, axes[name]))
            scores = scores.select(index, axes.pop(name).index(label))
        return replace(self, scores=scores, axes=axes)

    def total(self, *names: str) -> Attribution:
        """Sums over some axes.

        Raises:
            UnknownNameError: there is no such axis.
        """
        scores, axes = self.scores, dict(self.axes)
        for name in names:
            scores = scores.sum(self._axis(name, axes))
            del axes[name]
        return replace(self, scores=scores, axes=axes)

    def mean(self, *names: str) -> Attribution:
        """Means over some axes.

        Raises:
            UnknownNameError: there is no such axis.
        """
        count = 1
        for name in names:
            count *= len(self.axes.get(name, ()))
        added = self.total(*names)
        return replace(added, scores=added.scores / count)

    def _axis(self, name: str, axes: dict[str, tuple[Label, ...]]) -> int:
        if name not in axes:
            raise UnknownNameError("axis of this attribution", name, axes)
        return list(axes).index(name)

    @property
    def over_places(self) -> Tensor:
        """Scores over places alone: [P]. An axis with one label need not be chosen.

        Raises:
            AttributionError: there are no places, or other axes have to be chosen first.
        """
        if PLACE not in self.axes:
            raise AttributionError(f"{self.method} has no map: its axes are {', '.join(self.axes) or 'none'}")
        open_ = [name for name, labels in self.axes.items() if name != PLACE and len(labels) > 1]
        if open_:
            chosen = f"at({open_[0]}={self.axes[open_[0]][0]!r})"
            raise AttributionError(f"choose from {', '.join(open_)} before making a map, as in {chosen}, or mean(...)")
        return self.scores.flatten()

    def heat(self, picture: int = 0) -> Tensor:
        """The scores over one of the original pictures: [height, width].

        A pixel has the mean of the places that show it; NaN where none does (what the processor cropped).

        Raises:
            AttributionError: there is no such picture, or no map (`over_places`).
        """
        scores_P = self.over_places
        width, height = self._size(picture)
        total_HW, count_HW = torch.zeros(height, width), torch.zeros(height, width)
        for score, place in zip(scores_P.tolist(), self.places, strict=True):
            if place.picture == picture and place.box is not None:
                left, top, right, bottom = _pixels(place.box)
                total_HW[top:bottom, left:right] += score
                count_HW[top:bottom, left:right] += 1
        return total_HW / count_HW

    def peak(self, picture: int = 0) -> tuple[float, float]:
        """The middle of the place with the highest score: across and down, in pixels of the original picture.

        Raises:
            AttributionError: there is no such picture, or no map (`over_places`).
        """
        self._size(picture)
        scores = self.over_places.tolist()
        here = [
            (score, place.box) for score, place in zip(scores, self.places, strict=True) if place.picture == picture
        ]
        shown = [(score, box) for score, box in here if box is not None]
        if not shown:
            raise AttributionError(f"nothing of picture {picture} is seen by the model")
        left, top, right, bottom = max(shown, key=lambda one: one[0])[1]
        return (left + right) / 2, (top + bottom) / 2

    def _size(self, picture: int) -> tuple[int, int]:
        if not 0 <= picture < len(self.sizes):
            raise AttributionError(f"there is no picture {picture}: the example has {len(self.sizes)}")
        return self.sizes[picture]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        whole = self.completeness
        return {
            "method": self.method,
            "settings": self.settings,
            "model": self.model,
            "question": self.question,
            "target": self.target,
            "edits": list(self.edits),
            "axes": {name: list(labels) for name, labels in self.axes.items()},
            "scores": self.scores.tolist(),
            "rest": self.rest,
            "completeness": None if whole is None else {**dataclasses.asdict(whole), "error": whole.error},
            "floor": self.floor,
            "places": [{"picture": p.picture, "box": None if p.box is None else list(p.box)} for p in self.places],
            "sizes": [list(size) for size in self.sizes],
            "notes": list(self.notes),
            "details": self.details,
        }

    def plot(self, picture: Picture | None = None, index: int = 0) -> Figure:
        """A figure: heat maps where there is an axis of places, else bars or a table of colours.

        Args:
            picture: what heat is laid over; without one it stands alone.
            index: which of the example's pictures that is.

        Raises:
            AttributionError: too many axes or panels for a figure.
        """
        from vlmend.attribution.plots import draw

        return draw(self, picture, index)


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """The pixels whose middles lie in a box: first and last plus one, across and down."""
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)
