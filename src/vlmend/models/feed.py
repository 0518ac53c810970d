"""How a batch gets into a model: pictures are encoded once, and their features given to the decoder.

Most families take the features themselves (``mm_encoder_outputs``), in the forward pass and in generation. BLIP's
generation knows pixels only, and one picture a row: there the features are put among the token embeddings and its
language model is run directly. Models that read pictures by cross-attention have a way of their own (`crossing.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from vlmend.models.logits import Rewrite, processors_of
from vlmend.models.parts import Parts
from vlmend.models.prepared import Batch, Features, Prepared
from vlmend.models.trace import added_to, watched
from vlmend.models.unread import skipping, unread

__all__ = ["PIXELS", "EmbeddingFeeder", "Encoded", "Feeder", "argument_names"]

PIXELS = ("pixel_values", "pixel_attention_mask")
_AT_ONCE = 16
_DEEP = "deepstack_features"


class Feeder:
    """Runs batches through a model that takes encoded pictures."""

    def __init__(self, model: Any, parts: Parts) -> None:
        self._model = model
        self._parts = parts
        self._encoder_takes = argument_names(self._encoder)
        self._forward_takes = argument_names(model.forward)
        decoder = {id(parameter) for parameter in parts.decoder.parameters()}
        self._outside = [parameter for parameter in model.parameters() if id(parameter) not in decoder]
        self._unread: tuple[nn.Module, ...] | None = None  # not known yet

    @property
    def speaker(self) -> Any:
        """The model whose ``generate`` is called."""
        return self._model

    @property
    def _encoder(self) -> Any:
        """What encodes pictures."""
        return self._model.base_model.get_image_features

    @property
    def state(self) -> int:
        """A number that tells whether the weights outside the decoder are what they were.

        Every change in place, by whomever, raises a tensor's version: equal sums mean untouched weights.
        """
        return sum(parameter._version for parameter in self._outside)

    def logits(self, batch: Batch, prepared: Prepared, keep: int) -> Tensor:
        """Teacher-forced logits of the last ``keep`` positions: [batch, keep, vocabulary]."""
        out = self._model(**self._inputs(batch, prepared), logits_to_keep=keep, use_cache=False)
        return out.logits[:, -keep:]

    def generate(
        self, batch: Batch, prepared: Prepared, settings: GenerationConfig, rewrite: Rewrite | None = None
    ) -> Tensor:
        """New tokens of every row, [batch, new]; ``rewrite`` makes the logits of each step out of the tokens said and
        the model's own."""
        inputs, begin = self._inputs(batch, prepared), batch.ids_BT.shape[1]
        processors = processors_of(rewrite, begin)
        return self._model.generate(**inputs, generation_config=settings, logits_processor=processors)[:, begin:]

    def blank(self, prepared: Prepared) -> Prepared:
        """The same rows, with features of pictures that are all zero and take no room, and without pixels."""
        keys = list(prepared.pictures)
        encoded = {key: one.blank() for key, one in zip(keys, self.features(keys, prepared), strict=True)}
        pictures = {
            key: {name: value for name, value in side.items() if name not in PIXELS}
            for key, side in prepared.pictures.items()
        }
        return Prepared(prepared.rows, pictures, Features(prepared.features.state, encoded), told=prepared.told)

    def _inputs(self, batch: Batch, prepared: Prepared) -> dict[str, Any]:
        device = self._model.device
        extras = {name: value for name, value in batch.extras.items() if name in self._forward_takes}
        inputs: dict[str, Any] = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT, **extras}
        if batch.pictures:
            sides = [prepared.pictures[key] for key in batch.pictures]
            for name in sides[0]:
                if name in self._forward_takes and name not in PIXELS:
                    inputs[name] = torch.cat([side[name] for side in sides])
        inputs = {name: value.to(device) for name, value in inputs.items()}
        return inputs | (self._shown(batch, prepared) if batch.pictures else {})

    def _shown(self, batch: Batch, prepared: Prepared) -> dict[str, Any]:
        """What the model is given of a batch's pictures."""
        return {"mm_encoder_outputs": {"image": Encoded.joined(self.features(batch.pictures, prepared))}}

    def features(self, keys: Sequence[str], prepared: Prepared) -> list[Any]:
        """The encoder's outputs of pictures, each encoded once for as long as the weights outside the decoder stay.

        While those weights are being trained, or something is added beside them, pictures are encoded anew, so that
        gradients reach it and nothing of it is left behind.
        """
        distinct = list(dict.fromkeys(keys))
        trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self._outside)
        if trained or any(map(added_to, self._parts.outside.values())):
            fresh = self._encode(distinct, prepared)
            return [fresh[key] for key in keys]
        cache = prepared.features
        state = self.state
        if cache.state != state:
            cache.encoded.clear()
            cache.state = state
        with torch.no_grad():
            cache.encoded.update(self._encode([key for key in distinct if key not in cache.encoded], prepared))
        return [cache.encoded[key] for key in keys]

    def visual_states(self, key: str, prepared: Prepared) -> Tensor:
        """What of a row's pictures the decoder is shown, one after another: [S, D]."""
        pooled = self.features([key], prepared)[0].pooled
        return torch.cat([piece.flatten(0, -2) for piece in ([pooled] if isinstance(pooled, Tensor) else pooled)])

    def _encode(self, keys: Sequence[str], prepared: Prepared) -> dict[str, Any]:
        """Encode pictures, those of equal shape together."""
        groups: dict[Any, list[str]] = {}
        for key in keys:
            shapes = tuple((name, value.shape) for name, value in prepared.pictures[key].items())
            groups.setdefault(shapes, []).append(key)
        encoded: dict[str, Any] = {}
        for group in groups.values():
            for start in range(0, len(group), _AT_ONCE):
                some = group[start : start + _AT_ONCE]
                encoded.update(zip(some, self._encode_alike(some, prepared), strict=True))
        return encoded

    def _encode_alike(self, keys: Sequence[str], prepared: Prepared) -> list[Any]:
        sides = [prepared.pictures[key] for key in keys]
        names = [name for name in sides[0] if name in self._encoder_takes]
        inputs = {name: torch.cat([side[name] for side in sides]).to(self._model.device) for name in names}
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        with skipping(self._not_read(inputs)):
            encoded = self._encoded(inputs)
        if len(keys) == 1:
            return [encoded]
        if any(len(level) != len(keys) for level in encoded.levels):  # not one entry a picture: take them one by one
            return [self._encode_alike([key], prepared)[0] for key in keys]
        return [encoded.of(index) for index in range(len(keys))]

    def _encoded(self, inputs: Mapping[str, Tensor]) -> Encoded:
        out = self._model.get_image_features(**inputs, return_dict=True)
        return Encoded(type(out), out.pooler_output, tuple(getattr(out, _DEEP, None) or ()))

    def _not_read(self, inputs: Mapping[str, Tensor]) -> Sequence[nn.Module]:
        """The layers of the encoder that need not be run; all are while somebody watches what it gives."""
        if watched(self._parts.vision):
            return ()
        if self._unread is None:
            self._unread = unread(self._parts.vision, lambda: self._encoded(inputs).tensors)
        return self._unread


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the encoder gave for some pictures.

    Attributes:
        kind: the type of its output.
        pooled: what enters the token stream: one entry a picture, or a tensor.
        deep: what DeepStack adds after the first decoder layers, in the same form for each.
    """

    kind: Any
    pooled: Any
    deep: tuple[Any, ...]

    @property
    def levels(self) -> tuple[Any, ...]:
        return (self.pooled, *self.deep)

    @property
    def tensors(self) -> list[Tensor]:
        return [piece for level in self.levels for piece in ([level] if isinstance(level, Tensor) else level)]

    def of(self, index: int) -> Encoded:
        """What belongs to one picture, where there is one entry for each."""
        pooled, *deep = (
            level[index : index + 1] if isinstance(level, Tensor) else [level[index]] for level in self.levels
        )
        return Encoded(self.kind, pooled, tuple(deep))

    def blank(self) -> Encoded:
        """Zeros of the same shapes."""
        pooled, *deep = (
            _zeros(level) if isinstance(level, Tensor) else [_zeros(piece) for piece in level] for level in self.levels
        )
        return Encoded(self.kind, pooled, tuple(deep))

    @staticmethod
    def joined(some: Sequence[Encoded]) -> Any:
        """The encoder's output for all of them, as the model wants it."""
        pooled, *deep = (
            torch.cat(level) if isinstance(level[0], Tensor) else [piece for pieces in level for piece in pieces]
            for level in zip(*(one.levels for one in some), strict=True)
        )
        return some[0].kind(pooler_output=pooled, **({_DEEP: deep} if deep else {}))


class EmbeddingFeeder(Feeder):
    """Runs batches through the language model inside, with features put among the token embeddings."""

    @property
    def speaker(self) -> Any:
        return self._model.language_model

    def logits(self, batch: Batch, prepared: Prepared, keep: int) -> Tensor:
        inputs = self._embedded(batch, prepared)
        return self._model.language_model(**inputs, logits_to_keep=keep, use_cache=False).logits[:, -keep:]

    def generate(
        self, batch: Batch, prepared: Prepared, settings: GenerationConfig, rewrite: Rewrite | None = None
    ) -> Tensor:
        processors = processors_of(rewrite, 0)
        return self._model.language_model.generate(
            **self._embedded(batch, prepared), generation_config=settings, logits_processor=processors
        )

    def _embedded(self, batch: Batch, prepared: Prepared) -> dict[str, Tensor]:
        ids = batch.ids_BT.to(self._model.device)
        embeds_BTD = self._parts.embed(ids)
        if batch.pictures:
            features = self.features(batch.pictures, prepared)
            rows = torch.cat([one.pooled.flatten(0, -2) for one in features])
            visual_BT1 = (ids == self._parts.image_token)[..., None]
            embeds_BTD = embeds_BTD.masked_scatter(visual_BT1, rows.to(embeds_BTD.dtype))
        return {"inputs_embeds": embeds_BTD, "attention_mask": batch.mask_BT.to(self._model.device)}


def _zeros(like: Tensor) -> Tensor:
    return like.new_zeros(()).expand(like.shape)


def argument_names(function: Any) -> set[str]:
    """What a function can be given by name."""
    return set(inspect.signature(function).parameters)
