"""visual-delta: change what the decoder sees of one picture, by vectors fitted to the corrected answer.

Nothing is trained beforehand and no weight is changed. For a picture i with requests (x, y), vectors d [S, D] are
added to the output h of chosen decoder layers at S of the picture's visual tokens, and fitted by gradient to

    L(d) = mean over requests of 1/(N+1) sum_n -log p(y_n | i, x, y_<n; h + d)  +  keep_weight * KL(before || after)

where the divergence (nats, mean over tokens) is taken along what the model itself says to some neutral questions about
the picture, so that what else it sees there stays. Each vector's norm is at most ``size`` times the mean norm of the
states it is added to. The edit is keyed to the picture's content: every other picture is untouched, bit for bit.

That the visual representations of middle and late layers carry the answer is what VisEdit found (Chen et al., AAAI
2025, arXiv 2408.09916, section 3); its editor, trained, is `vead`. This one is the training-free limit of the same
idea: it cannot carry over to other pictures, and is meant to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vlmend.attribution.localize import Spot, deciding_places
from vlmend.data.records import EditCase, Example
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.choosing import AUTO, layers_for_states
from vlmend.editors.fitting import answer_loss, descend
from vlmend.editors.settings import Amount, Count, Rate, Size
from vlmend.edits.edit import Edit
from vlmend.edits.ops import Op
from vlmend.edits.routes import Key, RouteOp
from vlmend.edits.states import StateOp
from vlmend.errors import EditError
from vlmend.models.layout import layout
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Prepared, Row
from vlmend.models.trace import capture
from vlmend.models.vlm import VLM

__all__ = ["Region", "VisualDelta"]

Region = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of a picture's width and height."""


@dataclass(frozen=True)
class VisualDelta:
    """Vectors on a picture's visual states as an editor.

    Attributes:
        layers: after which decoder layers (names, indices or depths; "auto": the one chosen by attribution).
        regions: the parts of the picture whose tokens may change: left, top, right, bottom, as shares of its width and
            height. A token does if it shows some of one of them. ``None`` for the whole picture; "auto" for the tokens
            that speak most for what the model says, by attribution, to the first request about the picture.
        size: largest norm of a vector, as a multiple of the mean norm of the states at its layer.
        steps: AdamW steps.
        lr: learning rate, as a multiple of the mean absolute state at the layer.
        stop_loss: stop when the loss is below it; 0 to take all steps.
        keep: neutral questions whose answers should stay.
        keep_weight: weight of their divergence; 0 to leave them out.
        keep_tokens: longest answer to them, in tokens.
    """

    name: ClassVar[str] = "visual-delta"

    layers: LayerSpec = 0.3
    regions: tuple[Region, ...] | Literal["auto"] | None = None
    size: Amount = 0.5
    steps: Count = 40
    lr: Rate = 0.1
    stop_loss: Amount = 0.02
    keep: tuple[str, ...] = ("Describe the picture.",)
    keep_weight: Amount = 1.0
    keep_tokens: Size = 24

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Fit vectors to each picture's requests; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target or no picture, a region is none or shows in no token,
                or the fit diverges.
            PartsError: the model has no such layers, or no visual tokens.
            AttributionError: layers or regions cannot be chosen for a picture.
        """
        check_cases(cases)
        vlm.parts.need_visual_tokens()
        if blind := [case.id for case in cases if case.request.image is None]:
            raise EditError(f"case '{blind[0]}' has no picture, whose visual states could be changed")
        by_picture: dict[str, list[Example]] = {}
        for case, row in zip(cases, vlm.prepare([case.request for case in cases]).rows, strict=True):
            by_picture.setdefault(row.content, []).append(case.request)
        layers, chosen = layers_for_states(vlm, self.layers, cases)
        spots = {picture: self._spot(vlm, asked[0]) for picture, asked in by_picture.items()}
        if self.regions == AUTO:
            chosen["regions"] = {picture: spot.to_json() for picture, spot in spots.items() if spot is not None}
        ops = [
            RouteOp(Key(picture=picture), self._fitted(vlm, asked, layers, spots[picture]))
            for picture, asked in by_picture.items()
        ]
        return edit_of(self, vlm, cases, ops, chosen)

    def _fitted(self, vlm: VLM, asked: Sequence[Example], layers: LayerSpec, spot: Spot | None) -> tuple[Op, ...]:
        """The operations for one picture."""
        prepared = vlm.prepare(asked)
        kept = self._kept(vlm, asked[0])
        before = [row.logits_NV.log_softmax(-1) for row in vlm.run(kept).rows]
        places = self._places(vlm, asked[0], prepared.rows[0]) if spot is None else torch.tensor(spot.places)
        shifts = self._shifts(vlm, prepared, vlm.parts.layer_indices(layers), places)
        first = vlm.first_stage(shifts)

        def loss_of() -> Tensor:
            loss = answer_loss(vlm.run(prepared, ops=shifts, grad=True, first=first))
            if len(kept):
                after = [r.logits_NV.log_softmax(-1) for r in vlm.run(kept, ops=shifts, grad=True, first=first).rows]
                moved = [(b.exp() * (b - a)).sum(-1).mean() for b, a in zip(before, after, strict=True)]
                loss = loss + self.keep_weight * torch.stack(moved).mean()
            return loss

        descend(
            [shift.scaled_SD for shift in shifts],
            loss_of,
            steps=self.steps,
            lr=self.lr,
            stop_loss=self.stop_loss,
            after_step=lambda: _shorten(shifts, self.size),
        )
        return tuple(StateOp(shift.layer, shift.places, shift.delta_SD) for shift in shifts)

    def _kept(self, vlm: VLM, example: Example) -> Prepared:
        """Neutral questions about the picture, with the model's own answers."""
        if not self.keep_weight:
            return vlm.prepare([])
        asked = [Example(question, example.image) for question in self.keep]
        said = vlm.generate(vlm.prepare(asked), max_new_tokens=self.keep_tokens)
        return vlm.prepare([Example(one.question, one.image, answer) for one, answer in zip(asked, said, strict=True)])

    def _spot(self, vlm: VLM, example: Example) -> Spot | None:
        """The visual tokens that may change, if they are chosen by attribution."""
        return deciding_places(vlm, example) if self.regions == AUTO else None

    def _places(self, vlm: VLM, example: Example, row: Row) -> Tensor:
        """The visual tokens that may change, where they are given."""
        if self.regions is None or self.regions == AUTO:
            return torch.arange(len(row.visual))
        for region in self.regions:
            left, top, right, bottom = region
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise EditError(f"{region} is no region: left, top, right, bottom are needed, as shares from 0 to 1")
        found = layout(vlm, example)
        if found.of != "tokens":
            raise EditError("this model's visual tokens have no places in the picture, so regions cannot be chosen")
        boxes = [
            (picture, (left * width, top * height, right * width, bottom * height))
            for picture, (width, height) in enumerate(row.sizes)
            for left, top, right, bottom in self.regions
        ]
        places = sorted({place for picture, box in boxes for place in found.touching(picture, box)})
        if not places:
            raise EditError(f"no visual token shows any of the regions {self.regions}")
        return torch.tensor(places)

    def _shifts(self, vlm: VLM, prepared: Prepared, layers: Sequence[int], places: Tensor) -> list[_Shift]:
        """Nothing yet at every chosen layer, in the measure of its states."""
        one = prepared.take([0])
        with capture({str(layer): vlm.parts.layers[layer] for layer in layers}) as calls:
            vlm.run(one)
        positions = one.rows[0].visual[places]
        shifts: list[_Shift] = []
        for layer, call in zip(layers, calls, strict=True):
            states_SD = call.output[0, positions.to(call.output.device)].float()
            scale = float(states_SD.abs().mean())
            length = float(states_SD.norm(dim=-1).mean()) / scale
            shifts.append(_Shift(layer, places, torch.zeros_like(states_SD).requires_grad_(True), scale, length))
        return shifts


@dataclass(frozen=True, eq=False)
class _Shift:
    """Vectors that are being fitted, in units of ``scale``; the states have a mean norm of ``length`` units."""

    reads_question: ClassVar[bool] = False

    layer: int
    places: Tensor
    scaled_SD: Tensor
    scale: float
    length: float

    @property
    def delta_SD(self) -> Tensor:
        return self.scaled_SD * self.scale

    def check(self, layers: int, width: int) -> None:
        """It is made for the model at hand."""

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        positions = visual_T.nonzero().flatten()[self.places].to(states_TD.device)
        return states_TD.index_add(0, positions, self.delta_SD.to(states_TD.dtype))


@torch.no_grad()
def _shorten(shifts: Sequence[_Shift], size: float) -> None:
    """Bring every vector down to ``size`` times the states' norm."""
    for shift in shifts:
        norms_S1 = shift.scaled_SD.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        shift.scaled_SD.mul_((size * shift.length / norms_S1).clamp(max=1.0))
