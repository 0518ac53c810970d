"""What an attribution is, what makes one, and the registry of methods. A new method is one file here and one line in
`METHODS`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from vlmend.attribution.target import OWN, Clean, Measure, Target, asked, described
from vlmend.data.records import EditCase, Example
from vlmend.errors import AttributionError, UnknownNameError
from vlmend.models.layout import Box, Place
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vlmend.models.pictures import Picture

__all__ = ["METHODS", "PLACE", "Attribution", "Attributor", "Completeness", "Label", "attribute", "attributor", "made"]

METHODS = {
    "contributions": "vlmend.attribution.contributions:Contributions",
    "decomposition": "vlmend.attribution.decomposition:Decomposition",
    "integrated-gradients": "vlmend.attribution.integrated_gradients:IntegratedGradients",
    "knockout": "vlmend.attribution.knockout:Knockout",
    "logit-lens": "vlmend.attribution.logit_lens:LogitLens",
    "patching": "vlmend.attribution.patching:Patching",
    "perturbation": "vlmend.attribution.perturbation:Perturbation",
}
"""Name -> where its class is; loaded when it is asked for."""

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


@runtime_checkable
class Attributor(Protocol):
    """Makes attributions. A method's hyper-parameters are the fields of its frozen dataclass."""

    name: ClassVar[str]

    def attribute(self, vlm: VLM, example: Example, target: Target = OWN) -> Attribution:
        """Trace an answer back; the model is left bit for bit as it was.

        Raises:
            AttributionError: the method cannot say anything about this model, example or target.
        """
        ...


def attributor(name: str, **settings: Any) -> Attributor:
    """A registered method with the given hyper-parameters; the others keep their defaults.

    Raises:
        UnknownNameError: no method of that name, or it has no such hyper-parameter.
    """
    if name not in METHODS:
        raise UnknownNameError("attribution method", name, METHODS)
    module, attribute = METHODS[name].split(":")
    kind: Any = getattr(importlib.import_module(module), attribute)
    known = [one.name for one in dataclasses.fields(kind)]
    for setting in settings:
        if setting not in known:
            raise UnknownNameError(f"hyper-parameter of attribution method '{name}'", setting, known)
    return kind(**settings)


def attribute(
    vlm: VLM,
    example: Asked | EditCase,
    method: str | Attributor = "decomposition",
    target: Target = OWN,
    **settings: Any,
) -> Attribution:
    """Why the model answers as it does, with the edits in force.

    Args:
        vlm: a loaded model.
        example: a question with or without pictures; of an edit case its request is taken.
        method: name of a method, or one ready made.
        target: what to ask after; the model's own next token if it is left out. The example's own answer is not looked
            at.
        settings: the method's hyper-parameters, if it is given by name.

    Raises:
        UnknownNameError: no method of that name, or it has no such hyper-parameter.
        AttributionError: the method cannot say anything about this model, example or target.
        PromptError: the example cannot be turned into this model's input.
    """
    chosen = attributor(method, **settings) if isinstance(method, str) else method
    return chosen.attribute(vlm, asked(example), target)


def made(
    by: Attributor,
    vlm: VLM,
    cleans: Sequence[Clean],
    target: Target,
    of: Measure,
    scores: Tensor,
    axes: dict[str, tuple[Label, ...]],
    **more: Any,
) -> Attribution:
    """The attribution that a method made of some runs."""
    settings: Any = dataclasses.asdict(by)  # pyright: ignore[reportArgumentType]
    row = cleans[0].strand.row
    return Attribution(
        method=by.name,
        settings={name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
        scores=scores.detach().float().cpu(),
        axes=axes,
        target={**dataclasses.asdict(target), **described(vlm, cleans, of)},
        model=vlm.name,
        question=row.question,
        edits=vlm.active_edits,
        sizes=row.sizes,
        **more,
    )


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """The pixels whose middles lie in a box: first and last plus one, across and down."""
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, max(right, left + 1), max(bottom, top + 1)
