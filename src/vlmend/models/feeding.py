"""Which way of feeding a model allows."""

from __future__ import annotations

from typing import Any

from transformers import GenerationMixin

from vlmend.errors import PartsError
from vlmend.models.crossing import STATES, CrossingFeeder
from vlmend.models.feed import EmbeddingFeeder, Feeder, argument_names
from vlmend.models.parts import Parts

__all__ = ["feeder_of"]


def feeder_of(model: Any, parts: Parts) -> Feeder:
    """The way of feeding that a model allows.

    Raises:
        PartsError: it takes pictures in no way that is known here.
    """
    takes = argument_names(model.forward)
    if not parts.in_stream:
        if STATES not in takes:
            name = type(model).__name__
            raise PartsError(f"{name} reads pictures by cross-attention, but does not take them encoded ({STATES})")
        return CrossingFeeder(model, parts)
    if not hasattr(model, "get_image_features"):
        raise PartsError(f"{type(model).__name__} does not give its image features")
    inner: Any = getattr(model, "language_model", None)
    if isinstance(inner, GenerationMixin):
        if model.language_model.config.is_encoder_decoder:
            raise PartsError(f"{type(model).__name__} answers with an encoder-decoder, which is not supported")
        return EmbeddingFeeder(model, parts)
    if "mm_encoder_outputs" not in takes:
        raise PartsError(f"{type(model).__name__} does not take encoded pictures (mm_encoder_outputs)")
    return Feeder(model, parts)
