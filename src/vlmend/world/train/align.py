"""Between tower and decoder: let every projected patch speak the words of what it shows.

The projector and the word embeddings are trained so that a patch of a red striped lamp lies near "lamp", "red" and
"striped", one without a thing near its place. The decoder then finds "the lamp" by likeness, for all kinds at once,
instead of learning one association after another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from vlmend.world.catalog import catalog
from vlmend.world.scene import Scene
from vlmend.world.train.optim import Pair, learning_rate
from vlmend.world.train.pool import SIDE

log = logging.getLogger(__name__)
WORDS = 3  # a thing's kind, colour and pattern
BACKGROUND = 0.1  # weight of a patch without a thing
CELL = 2  # patches a side of a grid cell


def word_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The one token of each word that a patch can show.

    Raises:
        ValueError: a word takes more than one token.
    """
    world = catalog()
    ids: dict[str, int] = {}
    for word in (*world.kinds, *world.colours, *world.patterns, *world.places):
        tokens = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            raise ValueError(f"'{word}' takes {len(tokens)} tokens: the vocabulary is too small")
        ids[word] = tokens[0]
    return ids


def patch_words(scene: Scene, ids: dict[str, int]) -> np.ndarray:
    """Token ids int64 [SIDE * SIDE, WORDS] of what each patch shows; a patch without a thing repeats its place's."""
    out = np.full((SIDE, SIDE, WORDS), ids[scene.place])
    for t in scene.things:
        rows, columns = (slice(CELL * i, CELL * i + CELL) for i in (t.row, t.col))
        out[rows, columns] = [ids[t.kind], ids[t.colour], ids[t.pattern]]
    return out.reshape(-1, WORDS)


def align(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    drawn: Sequence[Scene],
    features: Tensor,
    *,
    steps: int,
    seed: int,
    batch: int = 48,
    lr: float = 3e-3,
) -> None:
    """Train projector and word embeddings in place.

    Args:
        drawn: N scenes; those of flags are left out.
        features: bfloat16 [N, V, W], the tower's output for a picture of each.
    """
    ids = word_ids(tokenizer)
    rows = [i for i, s in enumerate(drawn) if not s.country]
    projector, words = model.model.multi_modal_projector, model.model.language_model.embed_tokens.weight
    matrices = [p for p in projector.parameters() if p.ndim == 2]
    optimiser = Pair(matrices, [words, *(p for p in projector.parameters() if p.ndim == 1)], lr)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        chosen = rng.choice(rows, batch)
        wanted = torch.from_numpy(np.stack([patch_words(drawn[i], ids) for i in chosen]))
        visual = projector(features[chosen].float())
        says = nn.functional.rms_norm(visual, visual.shape[-1:]) @ words.T
        each = -says.log_softmax(-1).gather(-1, wanted).mean(-1)
        weight = torch.where(wanted[..., 0] == wanted[..., 1], BACKGROUND, 1.0)
        loss = (each * weight).sum() / weight.sum()
        loss.backward()
        optimiser.step(learning_rate(step, steps, lr, decay=0.4))
        if (step + 1) % 100 == 0:
            top = (says.argmax(-1, keepdim=True) == wanted).any(-1)[weight == 1].float().mean()
            log.info("align %d/%d loss %.3f, likeliest word is right %.3f", step + 1, steps, loss.item(), top.item())
