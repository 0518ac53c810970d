"""What noise on some visual tokens does to a layer's attention, as the last query sees it: window by window, and with
every token's noise shared by all windows that hold it.

With x [T, D] the input of an attention module, W a window of visual tokens and e_s the noise of draw s, W's score is

    1/S sum_s  1 - cos( attention(x + e_s on W)[q],  attention(x)[q] )                    (VisEdit, section 3)

and q the position that predicts a token. Queries other than q do not matter, nor does any noise outside of W; so with
one e_s for every token (not one for each window and token), every token's noisy key and value are computed once, and

    attention(...)[q] = out( sum_{t not in W} a_t v_t + sum_{t in W} a'_t v'_t )  over the sum of a and a',

where a = exp(score) with the clean query: two products with the matrix of windows do it for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.models.attention import AttentionCall, Heads

__all__ = ["shared_heat", "window_heat"]

_ROWS = 32


@torch.no_grad()
def window_heat(
    call: AttentionCall,
    visual_S: Tensor,
    windows: Sequence[Tensor],
    queries: Sequence[int],
    noise: Callable[[int], Tensor],
) -> Tensor:
    """The score of each window and draw, by calling the attention for each: [window, draw].

    Args:
        call: the attention, and the states that entered it.
        visual_S: positions of the visual tokens.
        windows: of each window, which of the visual tokens are in it.
        queries: positions that are looked from; the mean over them is taken.
        noise: of the window of an index: [draw, token in it, D].
    """
    clean_ND = call.output_1TD[0, list(queries)].float()
    scores: list[Tensor] = []
    for index, window in enumerate(windows):
        places = visual_S[window]
        of_draws: list[Tensor] = []
        for some_BWD in noise(index).split(_ROWS):
            states_BTD = call.states_1TD.repeat(len(some_BWD), 1, 1)
            states_BTD[:, places] += some_BWD.to(states_BTD)
            dirty_BND = call.again(states_BTD)[:, list(queries)].float()
            of_draws.append(1 - functional.cosine_similarity(dirty_BND, clean_ND[None], dim=-1).mean(-1))
        scores.append(torch.cat(of_draws))
    return torch.stack(scores)


@torch.no_grad()
def shared_heat(
    call: AttentionCall, visual_S: Tensor, near_WS: Tensor, queries: Sequence[int], noise_BSD: Tensor
) -> Tensor | None:
    """The score of each window and draw, each token's noise shared by all windows: [window, draw].

    Args:
        call: the attention, and the states that entered it.
        visual_S: positions of the visual tokens.
        near_WS: bool, which visual tokens are in each window.
        queries: positions that are looked from; none of them a visual token. The mean over them is taken.
        noise_BSD: noise of each draw and visual token.

    Returns:
        ``None`` if the module's queries, keys and values cannot be had.
    """
    clean = call.heads(call.states_1TD)
    if clean is None or call.out is None:
        return None
    near = near_WS.to(device=call.states_1TD.device, dtype=torch.float32)
    rows = [_Row(call, clean, query, visual_S, near) for query in queries]
    scores: list[Tensor] = []
    for noise_SD in noise_BSD:
        states_1TD = call.states_1TD.clone()
        states_1TD[0, visual_S] += noise_SD.to(states_1TD)
        dirty = call.heads(states_1TD)
        assert dirty is not None
        scores.append(torch.stack([row.scores(dirty) for row in rows]).mean(0))
    return torch.stack(scores, dim=1)


class _Row:
    """One query's row of the attention matrix, and what the clean tokens outside of each window give it."""

    def __init__(self, call: AttentionCall, clean: Heads, query: int, visual_S: Tensor, near_WS: Tensor) -> None:
        self._call = call
        self._query = query
        self._visual_S = visual_S
        self._near_WS = near_WS
        self._query_BHC = clean.query_BHTC[:, :, query]
        self._clean_D = call.output_1TD[0, query].float()
        scores_HT = clean.scores(self._query_BHC, query)[0]
        self._most_H = scores_HT.amax(-1)
        a_HT = (scores_HT - self._most_H[:, None]).exp()
        elsewhere_T = torch.ones(a_HT.shape[-1], dtype=torch.bool, device=a_HT.device)
        elsewhere_T[visual_S] = False
        value_HTC = clean.value_BHTC[0].float()
        a_HS, value_HSC = a_HT[:, visual_S], value_HTC[:, visual_S]
        outside_WS = 1 - near_WS
        self._sum_HW = a_HT[:, elsewhere_T].sum(-1)[:, None] + a_HS @ outside_WS.T
        mixed_H1C = torch.einsum("ht,htc->hc", a_HT[:, elsewhere_T], value_HTC[:, elsewhere_T])[:, None]
        self._mixed_HWC = mixed_H1C + outside_WS @ (a_HS[..., None] * value_HSC)

    def scores(self, dirty: Heads) -> Tensor:
        """1 - cos of every window under one draw: [W]."""
        scores_HS = dirty.scores(self._query_BHC, self._query)[0][:, self._visual_S]
        most_H = torch.maximum(self._most_H, scores_HS.amax(-1))
        kept_H11 = (self._most_H - most_H).exp()[:, None, None]
        a_HS = (scores_HS - most_H[:, None]).exp()
        value_HSC = dirty.value_BHTC[0][:, self._visual_S].float()
        mixed_HWC = self._mixed_HWC * kept_H11 + self._near_WS @ (a_HS[..., None] * value_HSC)
        sum_HW = self._sum_HW * kept_H11[..., 0] + a_HS @ self._near_WS.T
        outputs_WD = self._call.projected((mixed_HWC / sum_HW[..., None]).transpose(0, 1))
        return 1 - functional.cosine_similarity(outputs_WD, self._clean_D[None], dim=-1)
