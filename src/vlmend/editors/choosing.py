"""What editors that take ``layers="auto"`` share: the choice by attribution, and its record in the edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmend.attribution.localize import Chosen, deciding_layers, seeing_layer
from vlmend.data.records import EditCase
from vlmend.models.parts import LayerSpec
from vlmend.models.vlm import VLM

__all__ = ["AUTO", "layers_for_states", "layers_for_weights"]

AUTO = "auto"
"""Chosen for these cases by attribution."""


def layers_for_weights(
    vlm: VLM, layers: LayerSpec, cases: Sequence[EditCase], like: LayerSpec
) -> tuple[LayerSpec, dict[str, Any]]:
    """The layers whose weights to change, and the record of the choice (empty where they are given).

    Args:
        vlm: the model.
        layers: as they are given, or "auto": as many as ``like`` has, those that write most of the answer's logit.
        cases: what is edited.
        like: the editor's default.

    Raises:
        AttributionError: the model's layers cannot be told apart by what they write.
    """
    if layers != AUTO:
        return layers, {}
    count = len(vlm.parts.layer_indices(like))
    return _recorded(deciding_layers(vlm, [case.request for case in cases], count))


def layers_for_states(vlm: VLM, layers: LayerSpec, cases: Sequence[EditCase]) -> tuple[LayerSpec, dict[str, Any]]:
    """The layer behind which to change visual states, and the record of the choice (empty where it is given).

    Raises:
        AttributionError: a case has no picture.
    """
    return _recorded(seeing_layer(vlm, [case.request for case in cases])) if layers == AUTO else (layers, {})


def _recorded(found: Chosen) -> tuple[LayerSpec, dict[str, Any]]:
    return found.layers, {"layers": found.to_json()}
