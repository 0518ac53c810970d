"""visual-exemplar: let one picture be seen a little like another, of which the model already says what it should.

Nothing is trained and no gradient descended. For a picture i with a request (x, y) an exemplar is another picture whose
right answer is y and to which the model says y itself, asked its own question and asked x. With the visual states h
[S, D] of i and e [S, D] of the exemplar, as a chosen decoder layer hands them on, the edit is

    h_s <- h_s + w (e_s - h_s)   at the places s of a region, 0 < w <= 1

The exemplar is scaled to the size of i, so that the same token shows the same part of either. A place's share in the
fall of the loss L, the mean negative log-likelihood of y, on the straight way from h to e is

    gain_s = - sum_j dL/dh_s (h + w_j (e - h)) . (e_s - h_s) / J,   w_j = (j - 1/2) / J

(integrated gradients along the blend, Sundararajan et al. 2017, arXiv 1703.01365, eq. 1: the gains add up to the
fall). The region is the smallest of some shares of the places, those of the largest gain first, that turns the answer
at w = 1; then the smallest w that still does is looked for by halving. Of the exemplars most like i the one is taken
that needs the smallest change. The edit is keyed to the picture's content: every other picture is untouched, bit for
bit.

That visual representations of middle and late layers carry the answer is what VisEdit found (Chen et al., AAAI 2025,
arXiv 2408.09916, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor

from vlmend.data.formats import read
from vlmend.data.records import EditCase, Example
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.fitting import answer_loss
from vlmend.editors.settings import Amount, Count, Size
from vlmend.edits.edit import Edit
from vlmend.edits.routes import Key, RouteOp
from vlmend.edits.states import StateOp
from vlmend.errors import EditError
from vlmend.models.parts import LayerSpec
from vlmend.models.pictures import content_hash, open_picture
from vlmend.models.prepared import Prepared
from vlmend.models.trace import capture
from vlmend.models.vlm import VLM

__all__ = ["VisualExemplar"]

_POINTS = 4  # J, on the way from one picture's states to the other's
_GIVE = "give a file of cases, or a folder of pictures in folders named after their answers, as 'exemplars'"


@dataclass(frozen=True)
class VisualExemplar:
    """Blending towards exemplars as an editor.

    Attributes:
        exemplars: where exemplars are looked for: a file of cases (image, question and right answer are read), or a
            folder with a folder of pictures for each answer, named after it.
        layers: after which decoder layers (names, indices or depths) the states are blended.
        shares: sizes of region that are tried, in their order, as shares of the picture's tokens.
        halvings: how often the interval of w is halved.
        stop_loss: the answer has turned when it is the likeliest and its loss is below this, in nats.
        asked: how many pictures of the right answer the model is asked about, those with the likest question first.
        used: how many exemplars are tried, those with the likest states first.
        missing: what to do for a request without exemplars: "refuse" it, or "leave" it as it is.
    """

    name: ClassVar[str] = "visual-exemplar"

    exemplars: str = ""
    layers: LayerSpec = 0.15
    shares: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    halvings: Count = 5
    stop_loss: Amount = 0.1
    asked: Size = 32
    used: Size = 3
    missing: Literal["refuse", "leave"] = "refuse"

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Find a blend for each request; requests about one picture are blended one after another.

        Raises:
            EditError: there are no cases; a request has no target, no picture, or no exemplar; there are no exemplars
                at all; a share or ``missing`` is none that is known; or the states are not finite.
            DataError: the exemplars cannot be read.
            PartsError: the model has no such layers, or no visual tokens.
        """
        check_cases(cases)
        vlm.parts.need_visual_tokens()
        if blind := [case.id for case in cases if case.request.image is None]:
            raise EditError(f"case '{blind[0]}' has no picture, whose visual states could be changed")
        if wrong := [share for share in self.shares if not 0 < share <= 1]:
            raise EditError(f"a share of a picture's tokens is above 0 and at most 1, not {wrong[0]}")
        if self.missing not in ("refuse", "leave"):
            raise EditError(f"what to do about missing exemplars is 'refuse' or 'leave', not {self.missing!r}")
        pool = list(_read(self.exemplars))
        by_picture: dict[str, list[StateOp]] = {}
        for case, row in zip(cases, vlm.prepare([case.request for case in cases]).rows, strict=True):
            found = self._exemplars(vlm, case.request, pool)
            if not found and self.missing == "refuse":
                raise EditError(
                    f"case '{case.id}' has no exemplar: in none of the {len(pool)} records of {self.exemplars} is "
                    f"{case.request.answer!r} both right and what the model says; add pictures of which it does, "
                    "or leave such cases as they are by missing=leave"
                )
            ops = by_picture.setdefault(row.content, [])
            ops += self._blended(vlm, case.request, found, ops) if found else []
        routes = [RouteOp(Key(picture=picture), tuple(ops)) for picture, ops in by_picture.items() if ops]
        return edit_of(self, vlm, cases, routes)

    def _exemplars(self, vlm: VLM, request: Example, pool: Sequence[Example]) -> list[Example]:
        """The request asked of other pictures, for which the target is right and is what the model says."""
        own = [open_picture(picture) for picture in request.pictures]
        accepted = {_plain(answer) for answer in request.accepted}
        words = set(_plain(request.question).split())
        right = [one for one in pool if _plain(one.answer or "") in accepted and len(one.pictures) == len(own)]
        right.sort(key=lambda one: -_overlap(words, one.question or request.question))
        shown: list[Example] = []
        for one in right[: self.asked]:
            pictures = tuple(_scaled(open_picture(a), b.size) for a, b in zip(one.pictures, own, strict=True))
            if list(map(content_hash, pictures)) != list(map(content_hash, own)):
                image = pictures[0] if len(pictures) == 1 else pictures
                shown.append(Example(one.question or request.question, image, one.answer))
        mine = [replace(one, question=request.question, answer=request.answer) for one in shown]
        said = vlm.generate(vlm.prepare([*shown, *mine]))
        pairs = zip(mine, said[: len(mine)], said[len(mine) :], strict=True)
        return [one for one, *says in pairs if {_plain(answer) for answer in says} <= accepted]

    def _blended(
        self, vlm: VLM, request: Example, exemplars: Sequence[Example], before: Sequence[StateOp]
    ) -> list[StateOp]:
        """The smallest change that turns the answer; if none does, the one that comes nearest."""
        layers = vlm.parts.layer_indices(self.layers)
        asked = vlm.prepare([request])
        ways = [_Way(vlm, asked, _states(vlm, vlm.prepare([one]), layers), layers, before) for one in exemplars]
        ways.sort(key=lambda way: way.length)
        found = [self._shortest(way) for way in ways[: self.used]]
        return list(min(found, key=lambda one: (not one.turned, one.norm if one.turned else one.loss)).ops)

    def _shortest(self, way: _Way) -> _Blend:
        order = way.gains().argsort(descending=True, stable=True)
        best: list[_Blend] = []
        for share in self.shares:
            places = order[: max(1, round(share * len(order)))].sort().values
            best.append(way.blend(places, 1.0, self.stop_loss))
            if best[-1].turned:
                low, high = 0.0, 1.0
                for _ in range(self.halvings):
                    middle = way.blend(places, (low + high) / 2, self.stop_loss)
                    low, high = (low, (low + high) / 2) if middle.turned else ((low + high) / 2, high)
                    best += [middle] if middle.turned else []
                return best[-1]
        return min(best, key=lambda one: one.loss)


@dataclass(frozen=True, eq=False)
class _Blend:
    """A blend that was tried: what it does, how much it changes, and what becomes of the answer."""

    ops: tuple[StateOp, ...]
    norm: float
    loss: float
    turned: bool


@dataclass(frozen=True, eq=False)
class _Live:
    """Vectors added to all of a picture's states, through which a gradient is taken."""

    layer: int
    delta_SD: Tensor

    def check(self, layers: int, width: int) -> None:
        """They are made for the model at hand."""

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        positions = visual_T.nonzero().flatten().to(states_TD.device)
        return states_TD.index_add(0, positions, self.delta_SD.to(states_TD.dtype))


class _Way:
    """From a request's visual states to those of an exemplar.

    Attributes:
        length: mean distance of the two, at the first layer.
    """

    def __init__(
        self,
        vlm: VLM,
        asked: Prepared,
        ends_LSD: Sequence[Tensor],
        layers: Sequence[int],
        before: Sequence[StateOp],
    ) -> None:
        self._vlm, self._asked, self._layers, self._before = vlm, asked, layers, list(before)
        self._ends_LSD = ends_LSD
        self._apart_SD = ends_LSD[0] - _states(vlm, asked, layers[:1], before)[0]
        self.length = float(self._apart_SD.norm(dim=-1).mean())

    def gains(self) -> Tensor:
        """What each place has of the fall of the loss, [S]; in nats."""
        total_S = torch.zeros(len(self._apart_SD))
        for point in range(_POINTS):
            delta_SD = ((point + 0.5) / _POINTS * self._apart_SD).requires_grad_(True)
            ops = [*self._before, _Live(self._layers[0], delta_SD)]
            answer_loss(self._vlm.run(self._asked, ops=ops, grad=True)).backward()
            assert delta_SD.grad is not None
            total_S -= (delta_SD.grad * self._apart_SD).sum(-1).cpu() / _POINTS
        if not bool(torch.isfinite(total_S).all()):
            raise EditError("the model's visual states or their gradients are not finite")
        return total_S

    def blend(self, places: Tensor, weight: float, stop_loss: float) -> _Blend:
        """Go so far at these places, at one layer after the other."""
        ops: list[StateOp] = []
        for layer, end_SD in zip(self._layers, self._ends_LSD, strict=True):
            states_SD = _states(self._vlm, self._asked, [layer], [*self._before, *ops])[0]
            ops.append(StateOp(layer, places, weight * (end_SD - states_SD)[places.to(end_SD.device)]))
        output = self._vlm.run(self._asked, ops=[*self._before, *ops])
        (row,), loss = output.rows, float(answer_loss(output))
        likeliest = torch.equal(row.logits_NV.argmax(-1), row.target_N)
        norm = sum(float(op.delta_SD.norm()) for op in ops)
        return _Blend(tuple(ops), norm, loss, likeliest and loss < stop_loss)


def _states(vlm: VLM, prepared: Prepared, layers: Sequence[int], ops: Sequence[StateOp] = ()) -> list[Tensor]:
    """What layers hand on at the visual tokens of one row, with these operations: [S, D] each."""
    with capture({str(layer): vlm.parts.layers[layer] for layer in layers}) as calls:
        vlm.run(prepared, ops=ops)
    row = prepared.rows[0]
    positions = row.visual
    return [call.output[0, positions.to(call.output.device)].float() for call in calls]


def _read(place: str) -> Iterator[Example]:
    """Every picture with its right answer; without a question, whichever is asked.

    Raises:
        EditError: there is nothing of that name, or nothing in it.
    """
    path = Path(place)
    if not place:
        raise EditError(f"there are no exemplars: {_GIVE}")
    if not path.exists():
        raise EditError(f"there are no exemplars at '{place}': {_GIVE}")
    if path.is_file():
        yield from (case.request for case in read(path) if case.request.pictures)
        return
    known = Image.registered_extensions()
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in known)
    if not files:
        raise EditError(f"there are no pictures in the folders of '{place}': {_GIVE}")
    yield from (Example("", file, file.parent.name) for file in files)


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _overlap(words: set[str], question: str) -> float:
    """Shared words, as a share of all words of the two questions."""
    others = set(_plain(question).split())
    return len(words & others) / max(1, len(words | others))
