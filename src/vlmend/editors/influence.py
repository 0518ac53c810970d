"""What visual tokens do to the answer's position, one by one: the targets of VisEdit's Influence Mapper.

VisEdit (arXiv 2408.09916, section 4): noise is added to one visual token where it enters a layer's attention, and the
token's influence is how far the attention's output turns at the last prompt token, 1 - cos, as in its heat maps
(`vlmend.attribution.noise`) with windows of one token. For a picture that is not the edit's own, its states take the
places of the own picture's: what that picture's tokens would do to the edit's prompt. (The published code writes one
token's one channel there instead of all tokens, `x[:, a, b]` for `x[:, a:b]`, and so never looks at the other picture.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlmend.attribution.noise import shared_heat, window_heat
from vlmend.models.above import Above
from vlmend.models.attention import AttentionCall
from vlmend.models.prepared import Row

__all__ = ["influences"]


@torch.no_grad()
def influences(above: Above, asked: Row, shown: Row, tokens_K: Tensor, noise: Mapping[int, Tensor]) -> Tensor:
    """The influence of some visual tokens on the last prompt token, as shares that add up to 1: [K].

    Args:
        above: knows both rows.
        asked: the edit's own row.
        shown: a row about the picture that is looked at, which has as many visual tokens.
        tokens_K: which of its visual tokens.
        noise: layer above -> noise of each draw and token, [draw, K, D]. The mean over layers and draws is taken.
    """
    calls = above.attention(asked, list(noise))
    if not above.alike(asked, shown):
        others = above.attention(shown, list(noise))
        calls = {layer: _showing(call, others[layer], asked, shown) for layer, call in calls.items()}
    places_K = asked.visual[tokens_K]
    scores = [_turned(call, places_K, len(asked.ids_T) - 1, noise[layer]) for layer, call in calls.items()]
    mean_K = torch.stack(scores).mean(0)
    return mean_K / mean_K.sum()


def _showing(call: AttentionCall, other: AttentionCall, asked: Row, shown: Row) -> AttentionCall:
    """The call with another picture's states in the places of the own picture's."""
    states_1TD = call.states_1TD.clone()
    states_1TD[0, asked.visual] = other.states_1TD[0, shown.visual]
    return call.on(states_1TD)


def _turned(call: AttentionCall, places_K: Tensor, query: int, noise_BKD: Tensor) -> Tensor:
    """1 - cos for each token, mean over draws: [K]."""
    alone_KK = torch.eye(len(places_K), dtype=torch.bool)
    scores_KB = shared_heat(call, places_K, alone_KK, [query], noise_BKD)
    if scores_KB is None:
        windows = [torch.tensor([token]) for token in range(len(places_K))]
        scores_KB = window_heat(call, places_K, windows, [query], lambda token: noise_BKD[:, [token]])
    return scores_KB.mean(-1)
