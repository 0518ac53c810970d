"""Where to edit, read off attributions: decoder layers, and parts of the picture.

Nothing says that what explains an answer is where it is best changed (Hase et al., "Does Localization Inform Editing?",
NeurIPS 2023, arXiv 2301.04213); docs/attribution.md has what was measured. So a choice carries its scores and its
reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vlmend.attribution.decomposition import Decomposition
from vlmend.attribution.integrated_gradients import IntegratedGradients
from vlmend.attribution.patching import Patching
from vlmend.attribution.result import PLACE
from vlmend.attribution.target import OWN
from vlmend.data.records import Example
from vlmend.errors import AttributionError
from vlmend.models.vlm import VLM

__all__ = ["Chosen", "Spot", "deciding_layers", "deciding_places", "seeing_layer"]

_HALF = 0.5


@dataclass(frozen=True)
class Chosen:
    """Layers, and why.

    Attributes:
        layers: indices of decoder layers.
        by: name of the attribution method.
        scores: of every layer, as the choice was made by them.
        why: in a sentence.
    """

    layers: tuple[int, ...]
    by: str
    scores: tuple[float, ...]
    why: str

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return {**asdict(self), "layers": list(self.layers), "scores": list(self.scores)}


@dataclass(frozen=True)
class Spot:
    """Parts of an example's pictures, and why.

    Attributes:
        places: indices of visual tokens.
        boxes: of each: its picture, and left, top, right, bottom in that picture's pixels.
        by: name of the attribution method.
        why: in a sentence.
    """

    places: tuple[int, ...]
    boxes: tuple[tuple[int, tuple[float, float, float, float]], ...]
    by: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        boxes = [{"picture": picture, "box": list(box)} for picture, box in self.boxes]
        return {"places": list(self.places), "boxes": boxes, "by": self.by, "why": self.why}


def deciding_layers(vlm: VLM, examples: Sequence[Example], count: int) -> Chosen:
    """The layers that write most of what the model says: for edits of weights.

    A layer's score is the share of the next token's logit that its modules write, by `Decomposition`, by size and over
    that of all layers; the mean over examples.

    Args:
        vlm: a loaded model.
        examples: what will be edited.
        count: how many layers.

    Raises:
        AttributionError: there are no examples or no layers to choose, or the model's layers do not add up.
    """
    _check(examples, count)
    shares: list[Tensor] = []
    for example in examples:
        scores_L = Decomposition().attribute(vlm, example, OWN).total("module").scores.abs()
        shares.append(scores_L / scores_L.sum().clamp(min=1e-12))
    mean_L = torch.stack(shares).mean(0)
    layers = tuple(sorted(mean_L.topk(min(count, len(mean_L))).indices.tolist()))
    part = 100 * float(mean_L[list(layers)].sum())
    why = f"layers {_listed(layers)} write {part:.0f} % of the answer's logit, by size"
    return Chosen(layers, Decomposition.name, tuple(mean_L.tolist()), why)


def seeing_layer(vlm: VLM, examples: Sequence[Example]) -> Chosen:
    """The last layer behind which the picture still acts through its own tokens: for edits of visual states.

    A layer's score is how much of the picture's effect on the answer comes back when, under a grey picture, the visual
    states that it hands on are those of the picture (`Patching`), at most 1; the mean over examples on which the
    picture has an effect. Behind a later layer the words have taken what they need, and a change comes too late; behind
    an early one it goes through most of the model.

    Raises:
        AttributionError: there are no examples, or one has no picture.
    """
    _check(examples, 1)
    count = len(vlm.parts.layers)
    found: list[Tensor] = []
    for example in examples:
        one = Patching(layers=list(range(1, count))).attribute(vlm, example, OWN) if count > 1 else None
        whole = one.rest["clean"] - one.rest["corrupted"] if one else 0.0
        if one is not None and whole > 0:
            found.append((one.at(group="picture").scores / whole).clamp(0, 1))
    if not found:
        middle = count // 3
        return Chosen((middle,), Patching.name, (), "the picture has no effect on the answer: a third of the depth")
    # A state that enters layer k + 1 is what layer k hands on; behind the last one the picture is no longer read.
    mean_L = torch.cat([torch.stack(found).mean(0), torch.zeros(1)])
    reaching = [layer for layer, score in enumerate(mean_L.tolist()) if score >= _HALF]
    layer = reaching[-1] if reaching else int(mean_L.argmax())
    why = f"{100 * float(mean_L[layer]):.0f} % of the picture's effect still passes its own tokens behind layer {layer}"
    if layer + 1 < count:
        why += f", {100 * float(mean_L[layer + 1]):.0f} % behind layer {layer + 1}"
    return Chosen((layer,), Patching.name, tuple(mean_L.tolist()), why)


def deciding_places(vlm: VLM, example: Example, share: float = _HALF, *, steps: int = 12) -> Spot:
    """The visual tokens that speak most for what the model says: for edits of part of a picture.

    By `IntegratedGradients` over the embeddings: the fewest places that hold ``share`` of all that speaks for the next
    token.

    Args:
        vlm: a loaded model.
        example: what will be edited.
        share: of the positive scores, above 0 and at most 1.
        steps: points on the gradients' path.

    Raises:
        AttributionError: the picture is not there, its tokens have no place in it, or none speaks for the answer.
    """
    if not 0 < share <= 1:
        raise AttributionError(f"a share of the map is above 0 and at most 1, not {share}")
    found = IntegratedGradients(steps=steps).attribute(vlm, example, OWN)
    if "layer" not in found.axes or PLACE not in found.axes:
        raise AttributionError("this model's visual tokens have no places in the picture, so none can be chosen")
    for_P = found.over_places.clamp(min=0)
    shown = torch.tensor([place.box is not None for place in found.places])
    for_P = for_P * shown
    if not float(for_P.sum()):
        raise AttributionError(f"no part of the picture speaks for what the model says to {example.question!r}")
    order = for_P.argsort(descending=True, stable=True)
    held = (for_P[order].cumsum(0) / for_P.sum() < share - 1e-6).sum()
    places = tuple(sorted(order[: int(held) + 1].tolist()))
    boxes = tuple((found.places[p].picture, box) for p in places if (box := found.places[p].box) is not None)
    why = f"{len(places)} of {len(for_P)} visual tokens hold {100 * share:.0f} % of what speaks for the answer"
    return Spot(places, boxes, found.method, why)


def _check(examples: Sequence[Example], count: int) -> None:
    if not examples:
        raise AttributionError("there are no examples to choose layers from")
    if count < 1:
        raise AttributionError(f"at least one layer is chosen, not {count}")


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
