"""How a batch gets into a model whose layers read pictures by cross-attention (Mllama).

Pictures are no tokens of the stream: one mark stands for each, and a mask says for every token which pictures, and
which tiles of them, it may look at. Forward passes are given what the encoder made of pictures
(``cross_attention_states``); generation takes pixels only, and encodes them when it reads the prompt.

A text without a picture skips the layers that read pictures, and a token that stands before all pictures looks at
everything a row has, what fills it up too: so all rows of a batch must have equally many pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from vlmend.models.feed import PIXELS, Encoded, Feeder
from vlmend.models.logits import Rewrite, processors_of
from vlmend.models.prepared import Batch, Prepared

__all__ = ["STATES", "CrossingFeeder"]

STATES = "cross_attention_states"
_TILES = "aspect_ratio_mask"


class CrossingFeeder(Feeder):
    """Runs batches through a model that looks at encoded pictures in layers of their own."""

    @property
    def _encoder(self) -> Any:
        return self._parts.vision.forward

    def generate(
        self, batch: Batch, prepared: Prepared, settings: GenerationConfig, rewrite: Rewrite | None = None
    ) -> Tensor:
        inputs, begin = self._inputs(batch, prepared), batch.ids_BT.shape[1]
        if inputs.pop(STATES, None) is not None:  # a step of generation would add them to the cache again
            pixels = torch.cat([prepared.pictures[key][PIXELS[0]] for key in batch.pictures])
            inputs[PIXELS[0]] = pixels.to(self._model.device, self._model.dtype)
        processors = processors_of(rewrite, begin)
        return self._model.generate(**inputs, generation_config=settings, logits_processor=processors)[:, begin:]

    def visual_states(self, key: str, prepared: Prepared) -> Tensor:
        pooled = self.features([key], prepared)[0].pooled[0]
        return pooled[prepared.pictures[key][_TILES][0].to(pooled.device).bool()].flatten(0, 1)

    def _shown(self, batch: Batch, prepared: Prepared) -> dict[str, Any]:
        pooled = [one.pooled for one in self.features(batch.pictures, prepared)]
        return {STATES: torch.cat(pooled).flatten(0, 2)}

    def _encoded(self, inputs: Mapping[str, Tensor]) -> Encoded:
        seen = self._parts.vision(**inputs).last_hidden_state
        return Encoded(None, self._parts.connector(seen), ())
