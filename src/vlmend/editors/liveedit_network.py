"""The weights of `liveedit`: what makes an expert of an edit, and what reads prompts.

Chen et al., CVPR 2025, arXiv 2411.15432, section 3. Out of an edit's states behind the layer, H of picture, prompt and
answer, W of the words of its prompt and X of its picture, with `at` and `features` of `vlmend.edits.experts`,

    U = at_u(c_u, norm_u(H)) / (5 sqrt(R)),   V = at_v(c_v, norm_v(H)) / (5 sqrt(R)),   phi_e, psi_e = features(W, X)

by an extractor of its own; prompts are read by another, which has the sentinel.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vlmend.edits.experts import Experts, features, read
from vlmend.edits.named import norm, under

__all__ = ["Extractor", "LiveEditNetwork"]

_SCALE = 5.0  # of both factors' entries, as published


class _Reading(nn.Module):
    """The maps of one `at`; they are named as it names them."""

    def __init__(self, asking: int, dim: int, width: int, out: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(asking, width), nn.Linear(dim, width), nn.Linear(dim, out)


def _flat(module: nn.Module, name: str) -> dict[str, Tensor]:
    """Its parameters, ``<name>_<map>.<weight or bias>``."""
    return {f"{name}_{inner}": tensor for inner, tensor in module.named_parameters()}


class Extractor(nn.Module):
    """What `features` is given, by its names.

    Args:
        dim: width of the states, D.
        width: M.
        count: K.
    """

    def __init__(self, dim: int, width: int, count: int) -> None:
        super().__init__()
        self.shown, self.asked = (nn.Parameter(torch.randn(count, width)) for _ in range(2))
        self.shown_norm, self.asked_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.find, self.ask = _Reading(width, dim, width, width), _Reading(width, dim, width, width)
        self.look = _Reading(width, dim, width, width)

    def named(self) -> dict[str, Tensor]:
        """The tensors; gradients reach the parameters."""
        parts = {name: tensor for name, tensor in self.named_parameters() if name.split(".")[0] not in _PARTS}
        return parts | {n: t for part in _PARTS for n, t in _flat(getattr(self, part), part).items()}


_PARTS = ("find", "look", "ask")


class LiveEditNetwork(nn.Module):
    """All that is trained.

    Args:
        dim: width of the states, D.
        width: of queries, keys and features, M.
        heads: H; they divide M and D.
        rank: R of an expert.
        count: K, vectors of a feature.
        visual: S, tokens of the sentinel.
        unit: root mean square of the states' entries: an expert's second factor is made in these.
    """

    unit: Tensor

    def __init__(self, dim: int, width: int, heads: int, rank: int, count: int, visual: int, unit: float = 1.0) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("unit", torch.tensor(unit))
        self.edits, self.prompts = Extractor(dim, width, count), Extractor(dim, width, count)
        self.sentinel = nn.Parameter(torch.randn(visual, dim) * unit)
        self.up, self.down = (nn.Parameter(torch.randn(rank, width)) for _ in range(2))
        self.up_norm, self.down_norm, self.norm = (nn.LayerNorm(dim) for _ in range(3))
        self.make_up, self.make_down = (_Reading(width, dim, width, dim) for _ in range(2))

    def reader(self) -> dict[str, Tensor]:
        """What an `ExpertsOp` shares with all others; gradients reach the parameters."""
        return {
            **self.prompts.named(),
            "sentinel": self.sentinel,
            "norm.weight": self.norm.weight,
            "norm.bias": self.norm.bias,
        }

    def experts(self, states_TD: Tensor, visual_T: Tensor, prompt: int) -> Experts:
        """The expert of one edit.

        Args:
            states_TD: states behind the layer of its picture, prompt and answer, float32.
            visual_T: which are visual.
            prompt: how many of the tokens are the prompt's.
        """
        words_TD = states_TD[:prompt][~visual_T[:prompt]]
        found = features(words_TD[None], states_TD[visual_T][None], self.edits.named(), self.heads)
        up_1RD, down_1RD = (self._factor(states_TD, name) for name in ("up", "down"))
        return Experts(found, up_1RD, self.unit * down_1RD)

    def _factor(self, states_TD: Tensor, name: str) -> Tensor:
        queries_RM, tensors = getattr(self, name), dict(self.named_parameters())
        maps = _flat(getattr(self, f"make_{name}"), "make")
        read_1RD = read(queries_RM, norm(states_TD, tensors, f"{name}_norm")[None], maps, "make", self.heads)
        return read_1RD / (_SCALE * len(queries_RM) ** 0.5)

    @classmethod
    def sized(cls, tensors: Mapping[str, Tensor], heads: int) -> LiveEditNetwork:
        """The network that has these parameters, ready to be used.

        Raises:
            KeyError, RuntimeError: they are not those of such a network.
        """
        (visual, dim), (rank, width) = tensors["sentinel"].shape, tensors["up"].shape
        network = cls(dim, width, heads, rank, len(under("edits.", tensors)["asked"]), visual)
        network.load_state_dict(dict(tensors))
        return network.requires_grad_(False).eval()
