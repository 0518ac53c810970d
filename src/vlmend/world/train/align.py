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
from transformers import PreTrainedTokenizerFast

from vlmend.world.catalog import catalog
from vlmend.world.scene import CORNERS, Scene
from vlmend.world.train.backbones import PATCHES, Built
from vlmend.world.train.optim import Pair, learning_rate
from vlmend.world.train.pool import SIDE

log = logging.getLogger(__name__)
BACKGROUND = 0.1  # weight of a patch without a thing
CELL = 2  # patches a side of a grid cell
NONE = -1


def word_groups() -> dict[str, tuple[str, ...]]:
    """What a patch can show, one word of each group: a kind (where there is no thing, the place), a colour, ..."""
    world = catalog()
    return {
        "kind": (*world.kinds, *world.places),
        "colour": tuple(world.colours),
        "pattern": world.patterns,
        "count": world.numbers[1:],
        "corner": CORNERS,
    }


def word_ids(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> Tensor:
    """The one token of each word, int64 [len(words)].

    Raises:
        ValueError: a word takes more than one token.
    """
    tokens = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    if long := [word for word, ids in zip(words, tokens, strict=True) if len(ids) != 1]:
        raise ValueError(f"'{long[0]}' takes several tokens: the vocabulary is too small")
    return torch.tensor([ids[0] for ids in tokens])


def patch_words(scene: Scene) -> np.ndarray:
    """Which word of each group every patch shows, int64 [SIDE * SIDE, groups]; NONE where no thing is."""
    groups = word_groups()
    out = np.full((SIDE, SIDE, len(groups)), NONE)
    out[..., 0] = groups["kind"].index(scene.place)
    for t in scene.things:
        rows, columns = (slice(CELL * i, CELL * i + CELL) for i in (t.row, t.col))
        shown = (t.kind, t.colour, t.pattern, groups["count"][scene.counts[t.kind] - 1], t.quadrant)
        out[rows, columns] = [words.index(word) for words, word in zip(groups.values(), shown, strict=True)]
    return out.reshape(-1, len(groups))


def align(
    built: Built,
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
        features: bfloat16 [N, V, W], what the projector is given for a picture of each; a token stands for as many
            neighbouring patches as there are to one.
    """
    device = features.device
    ids = [word_ids(tokenizer, words).to(device) for words in word_groups().values()]
    rows = [i for i, s in enumerate(drawn) if not s.country]
    projector, words = built.projector, built.decoder.embed_tokens.weight
    first = slice(None, None, PATCHES // built.visual)
    matrices = [p for p in projector.parameters() if p.ndim == 2]
    optimiser = Pair(matrices, [words, *(p for p in projector.parameters() if p.ndim == 1)], lr)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        chosen = rng.choice(rows, batch)
        wanted = torch.from_numpy(np.stack([patch_words(drawn[i])[first] for i in chosen])).flatten(0, 1).to(device)
        visual = projector(features[chosen].float()).flatten(0, 1)
        says = nn.functional.rms_norm(visual, visual.shape[-1:])
        thing = wanted[:, -1] != NONE
        weight = torch.where(thing, 1.0, BACKGROUND)
        loss, right = says.new_zeros(()), []
        for group, target in zip(ids, wanted.T, strict=True):
            logits = says @ words[group].T
            each = nn.functional.cross_entropy(logits, target, reduction="none", ignore_index=NONE)
            loss = loss + (each * weight).sum() / weight[target != NONE].sum()
            right.append((logits.argmax(-1) == target)[thing].float().mean().item())
        loss.backward()
        optimiser.step(learning_rate(step, steps, lr, decay=0.4))
        if (step + 1) % 100 == 0:
            shown = " ".join(f"{name} {share:.3f}" for name, share in zip(word_groups(), right, strict=True))
            log.info(
                "align %d/%d loss %.3f, the right word is likeliest in its group: %s",
                step + 1,
                steps,
                loss.item(),
                shown,
            )
