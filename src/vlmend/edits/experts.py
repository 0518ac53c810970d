"""An operation with many small experts, of which each prompt gets those that are about what it shows and asks.

LiveEdit (Chen et al., CVPR 2025, arXiv 2411.15432, sections 3.2 to 3.4). An expert is two low-rank factors U, V [R, D]
and two features: phi [K, M] of what is seen when its question is asked, psi [K, M] of what is asked. With
at(a, b) = concat_h softmax(q(a)_h k(b)_h^T / sqrt(M / H)) v(b)_h, of a prompt's words W and visual tokens X behind a
layer,

    psi = at2(e2, norm2(W)),   phi = at_v(at1(e1, norm1(W)), norm1(X)),   theta = phi with the sentinel in X's place

and < a, b > the mean over K of a_k . b_k / sqrt(M), the experts with < phi, phi_e > above < phi, theta > are kept (hard
routing), and act on every state h, of the prompt and of the answer, by (soft routing)

    h <- h + sum_e s_e relu(norm(h) U_e^T) V_e,    s_e = sigmoid(a_e) softmax(a)_e over those kept, a_e = < psi, psi_e >

Where none is kept, and in a prompt without a picture, nothing changes, bit for bit. The published code needs to be told
which tokens are the question and does nothing at tokens that are generated; here both follow from the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.edits.named import linear, norm
from vlmend.edits.ops import Op, alike, kept, outlived
from vlmend.errors import EditError

__all__ = ["Experts", "ExpertsOp", "Features", "features", "likeness", "mixed", "read", "soft_weights"]


@dataclass(frozen=True, eq=False)
class Features:
    """Of N prompts or edits: ``phi`` and ``psi``, [N, K, M]."""

    phi_NKM: Tensor
    psi_NKM: Tensor

    def __getitem__(self, places: list[int]) -> Features:
        return Features(self.phi_NKM[places], self.psi_NKM[places])

    def __add__(self, other: Features) -> Features:
        return Features(torch.cat([self.phi_NKM, other.phi_NKM]), torch.cat([self.psi_NKM, other.psi_NKM]))


@dataclass(frozen=True, eq=False)
class Experts:
    """E experts: how they are found, and their factors ``up`` (U) and ``down`` (V), [E, R, D]."""

    found: Features
    up_ERD: Tensor
    down_ERD: Tensor

    def __len__(self) -> int:
        return len(self.up_ERD)

    def __getitem__(self, places: list[int]) -> Experts:
        return Experts(self.found[places], self.up_ERD[places], self.down_ERD[places])

    def __add__(self, other: Experts) -> Experts:
        up_ERD, down_ERD = (torch.cat([getattr(one, name) for one in (self, other)]) for name in ("up_ERD", "down_ERD"))
        return Experts(self.found + other.found, up_ERD, down_ERD)


def read(
    queries_KM: Tensor,
    states_NTD: Tensor,
    tensors: Mapping[str, Tensor],
    name: str,
    heads: int,
    real_NT: Tensor | None = None,
) -> Tensor:
    """``at``: what queries, [K, M] or [N, K, M], read off the states of N prompts, [N, K, V].

    Args:
        queries_KM: these.
        states_NTD: the states, padded.
        tensors: ``<name>_query``, ``_key`` and ``_value``, each ``.weight`` and ``.bias``.
        name: which.
        heads: H.
        real_NT: which are no padding; all if ``None``.
    """
    query_HKC, key_NHTC, value_NHTC = (
        linear(x, tensors, f"{name}_{part}").unflatten(-1, (heads, -1)).transpose(-2, -3)
        for x, part in ((queries_KM, "query"), (states_NTD, "key"), (states_NTD, "value"))
    )
    query_NHKC = query_HKC.expand(len(states_NTD), *query_HKC.shape[-3:])
    mask = None if real_NT is None else real_NT[:, None, None]
    mixed_NHKC = functional.scaled_dot_product_attention(query_NHKC, key_NHTC, value_NHTC, attn_mask=mask)
    return mixed_NHKC.transpose(1, 2).flatten(2)


def features(
    words_NTD: Tensor,
    visual_NSD: Tensor,
    tensors: Mapping[str, Tensor],
    heads: int,
    words_NT: Tensor | None = None,
    visual_NS: Tensor | None = None,
) -> Features:
    """``phi`` and ``psi`` of N prompts.

    Args:
        words_NTD: states of their words, padded.
        visual_NSD: states of their visual tokens, padded, or the sentinel.
        tensors: ``shown`` and ``asked`` (e1, e2: [K, M]), ``shown_norm``, ``asked_norm``, and the maps of ``find``
            (at1), ``look`` (at_v) and ``ask`` (at2).
        heads: H.
        words_NT, visual_NS: which are no padding; all if ``None``.
    """
    psi_NKM = read(tensors["asked"], norm(words_NTD, tensors, "asked_norm"), tensors, "ask", heads, words_NT)
    wanted_NKM = read(tensors["shown"], norm(words_NTD, tensors, "shown_norm"), tensors, "find", heads, words_NT)
    shown_NSD = norm(visual_NSD, tensors, "shown_norm").expand(len(words_NTD), -1, -1)
    return Features(read(wanted_NKM, shown_NSD, tensors, "look", heads, visual_NS), psi_NKM)


def likeness(one_NKM: Tensor, other_EKM: Tensor) -> Tensor:
    """< a, b > of every pair, [N, E]."""
    return torch.einsum("nkm,ekm->ne", one_NKM, other_EKM) / (one_NKM.shape[1] * one_NKM.shape[2] ** 0.5)


def soft_weights(likeness_E: Tensor) -> Tensor:
    """s of the experts kept, out of their a."""
    return torch.sigmoid(likeness_E) * likeness_E.softmax(-1)


def mixed(
    states_TD: Tensor, up_ERD: Tensor, down_ERD: Tensor, weights_E: Tensor, tensors: Mapping[str, Tensor]
) -> Tensor:
    """States as experts change them, in the states' own type; ``norm`` is what they read states through."""
    normed_TD = norm(states_TD.float(), tensors, "norm")
    inner_TER = functional.relu(torch.einsum("td,erd->ter", normed_TD, up_ERD))
    added_TD = torch.einsum("ter,erd,e->td", inner_TER, down_ERD, weights_E)
    return states_TD + added_TD.to(states_TD.dtype)


@dataclass(frozen=True, eq=False)
class ExpertsOp(Op):
    """Lets the experts act that a prompt is about, behind a decoder layer.

    Attributes:
        layer: index of the decoder layer.
        reader: what `features` and `mixed` are given, and the ``sentinel`` [S, D]; shared with other operations, not
            copied, and not to be changed.
        heads: what `features` is given.
        experts: the experts.

    Raises:
        EditError: the numbers of features and factors differ.
    """

    kind: ClassVar[str] = "experts"
    reads_question: ClassVar[bool] = True

    layer: int
    reader: Mapping[str, Tensor]
    heads: int
    experts: Experts

    def __post_init__(self) -> None:
        own = self.experts
        counts = {len(x) for x in (own.found.phi_NKM, own.found.psi_NKM, own.up_ERD, own.down_ERD)}
        if len(counts) > 1:
            raise EditError(f"{len(own)} experts have other numbers of features and factors: {sorted(counts)}")
        object.__setattr__(self, "reader", {name: tensor.detach().cpu() for name, tensor in self.reader.items()})
        found = Features(kept(own.found.phi_NKM), kept(own.found.psi_NKM))
        object.__setattr__(self, "experts", Experts(found, kept(own.up_ERD), kept(own.down_ERD)))

    def check(self, layers: int, width: int) -> None:
        """Refuse a model with other layers or another width.

        Raises:
            EditError: says which.
        """
        if not 0 <= self.layer < layers:
            raise EditError(f"the edit acts after layer {self.layer}; the model has {layers} layers")
        if self.experts.up_ERD.shape[-1] != width:
            raise EditError(f"the edit's experts are for states of width {self.experts.up_ERD.shape[-1]}, not {width}")

    def routed(self, states_TD: Tensor, visual_T: Tensor) -> tuple[list[int], Tensor]:
        """Which experts a prompt with these states gets, and how much of each."""
        visual_T = visual_T.to(states_TD.device)
        if not len(self.experts) or not visual_T.any() or visual_T.all():
            return [], torch.zeros(0)
        reader = {name: tensor.to(states_TD.device) for name, tensor in self.reader.items()}
        words_1TD, visual_1SD = states_TD[~visual_T].float()[None], states_TD[visual_T].float()[None]
        own = features(words_1TD, visual_1SD, reader, self.heads)
        none = features(words_1TD, reader["sentinel"], reader, self.heads)
        stored = self.experts.found
        seen_E = likeness(own.phi_NKM, stored.phi_NKM.to(states_TD.device))[0]
        places = (seen_E > likeness(own.phi_NKM, none.phi_NKM)[0, 0]).nonzero().flatten()
        asked_E = likeness(own.psi_NKM, stored.psi_NKM.to(states_TD.device)[places])[0]
        return places.tolist(), soft_weights(asked_E)

    def decided(self, states_TD: Tensor, visual_T: Tensor) -> Callable[[Tensor], Tensor]:
        """What its experts make of any states of the prompt's row."""
        places, weights_E = self.routed(states_TD, visual_T)
        if not places:
            return _as_it_is
        up_ERD, down_ERD = (x[places].to(states_TD.device) for x in (self.experts.up_ERD, self.experts.down_ERD))
        reader = {name: self.reader[name].to(states_TD.device) for name in ("norm.weight", "norm.bias")}
        return lambda some_ND: mixed(some_ND, up_ERD, down_ERD, weights_E, reader)

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        """The states of one prompt as the experts change them."""
        return self.decided(states_TD, visual_T)(states_TD)

    def joined(self, other: Op) -> Op | None:
        """All experts of both, if prompts are read alike; of two that are found alike the later one."""
        if not isinstance(other, ExpertsOp) or not alike(self.reader, other.reader):
            return None
        if (self.layer, self.heads) != (other.layer, other.heads):
            return None
        mine, its = ((found.phi_NKM, found.psi_NKM) for found in (self.experts.found, other.experts.found))
        return replace(self, experts=self.experts[outlived(mine, its)] + other.experts)

    def fields(self) -> dict[str, Any]:
        return {"layer": self.layer, "heads": self.heads}

    def tensors(self) -> dict[str, Tensor]:
        own = self.experts
        made = {"phi": own.found.phi_NKM, "psi": own.found.psi_NKM, "up": own.up_ERD, "down": own.down_ERD}
        return {**made, **{f"reader/{name}": tensor for name, tensor in self.reader.items()}}

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        reader = {n.removeprefix("reader/"): tensor for n, tensor in tensors.items() if n.startswith("reader/")}
        experts = Experts(Features(tensors["phi"], tensors["psi"]), tensors["up"], tensors["down"])
        return cls(int(fields["layer"]), reader, int(fields["heads"]), experts)


def _as_it_is(states_TD: Tensor) -> Tensor:
    return states_TD
