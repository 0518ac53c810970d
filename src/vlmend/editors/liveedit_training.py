"""How `liveedit` is trained: experts that say their edit's answer, and routing that lets no other prompt near them.

Chen et al., CVPR 2025, arXiv 2411.15432, section 3.5. In each step some cases are the edits in force, with an expert
each. Of a prompt with features phi, psi and a, s of `vlmend.edits.experts` over all experts of the step,

    L  =  edit_weight * sum over {request, its generality probes} of  CE(target)
        + keep_weight * KL(before || after) at locality probes with a picture
        + L_hard + L_relative + L_absolute

    L_hard      = -log softmax([ < phi, phi_e > for all e, < phi, theta > ]) at the own expert; at theta for locality
    L_relative  = -log softmax(a) at the own expert
    L_absolute  = -log sigmoid(a) at the own expert; -mean over experts log(1 - sigmoid(a)) for locality

CE and KL with all experts in force by soft routing alone. Published: behind layer 21 of 32, width 1024, 8 heads, rank
4, 4 vectors, Adam at 1e-4, batch 8; all weights 1. Its code takes the layer's output for its input when it trains, so
that the layer is run twice; takes the divergence the other way round; and reads answers into features unless it is told
where they begin. None of that is so here. Of two cases of which the model says the same, which may be about one matter,
neither is held against the other's prompts. Beyond the paper: near misses can be asked to stay, cases can be learnt
with other targets (`lessons.retargeted`), and the weights are those of the best check, all cases held out in force at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    SAME_IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    EditCase,
)
from vlmend.editors.lessons import Graded, Unedited, check_of, cross_entropy, divergence, one_of, retargeted
from vlmend.editors.liveedit import edited, shown
from vlmend.editors.liveedit_network import LiveEditNetwork
from vlmend.editors.settings import Amount, Count, Rate, Share, Size
from vlmend.editors.training import Check
from vlmend.editors.vead_placed import check_pictures_asked
from vlmend.edits.decoder import padded
from vlmend.edits.experts import Experts, ExpertsOp, Features, features, likeness, mixed, soft_weights
from vlmend.errors import EditError
from vlmend.models.above import Above
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["LiveEditLesson", "LiveEditTraining", "routing_losses"]

_REQUEST = "reliability"
_AT_ONCE = 64  # cases that are prepared together


@dataclass(frozen=True)
class LiveEditTraining:
    """The training of `liveedit`.

    Attributes:
        layers: behind which decoder layer experts act.
        width: of queries, keys and features.
        heads: they divide the width and the model's.
        rank: of an expert.
        count: vectors of a feature.
        learns: kinds of probes that must give the target, beside the request.
        keeps: kinds of probes whose answers must stay.
        drawn: run one row of a case that must give its target and one that must stay in each step, instead of all of
            them; routing is learnt from all.
        edit_weight: of the cross-entropies.
        keep_weight: of the divergence.
        retargets: how many targets beside its own each case is learnt with.
        steps, batch, lr, cooldown, held_out, check_every, seed: see `vlmend.editors.training.Trainable`.
    """

    name: ClassVar[str] = "liveedit"

    layers: LayerSpec = 0.66
    width: Size = 1024
    heads: Size = 8
    rank: Size = 4
    count: Size = 4
    learns: tuple[str, ...] = (TEXT_GENERALITY, IMAGE_GENERALITY)
    keeps: tuple[str, ...] = (IMAGE_LOCALITY, SAME_IMAGE_LOCALITY, SAME_QUESTION_LOCALITY)
    drawn: bool = False
    edit_weight: Amount = 1.0
    keep_weight: Amount = 1.0
    retargets: Count = 0
    steps: Size = 2000
    batch: Size = 8
    lr: Rate = 1e-4
    cooldown: Share = 0.0
    held_out: Share = 0.1
    check_every: Size = 200
    seed: int = 0

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> LiveEditLesson:
        """Run every case's rows up to the layer.

        Raises:
            EditError: a request has no picture, or heads do not divide the widths.
            PartsError: the model has no such layer, or nothing above it.
        """
        check_pictures_asked([*learned, *held])
        return LiveEditLesson(self, vlm, learned, held)


@dataclass(frozen=True, eq=False)
class _Case:
    """One case: rows by kind that must give the target, the request's first, and those that must stay; and what the
    model says of it."""

    must: Mapping[str, Sequence[Row]]
    stay: Mapping[str, Sequence[Row]]
    said: str

    @property
    def request(self) -> Row:
        return self.must[_REQUEST][0]

    @property
    def rows(self) -> Iterator[tuple[str, bool, Row]]:
        """Kind, whether it must give the target, and row."""
        for about, groups in ((True, self.must), (False, self.stay)):
            yield from ((kind, about, row) for kind, some in groups.items() for row in some)


class LiveEditLesson:
    """One training of `liveedit` under way; see `vlmend.editors.training.Lesson`."""

    def __init__(
        self, method: LiveEditTraining, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]
    ) -> None:
        self._method = method
        self._vlm = vlm
        layers = vlm.parts.layer_indices(method.layers)
        if len(layers) != 1:
            raise EditError(f"experts act behind one layer, not {len(layers)}")
        dim = len(vlm.parts.norm.weight)  # type: ignore[arg-type]
        if dim % method.heads or method.width % method.heads:
            raise EditError(f"{method.heads} heads do not divide the width {method.width} and the model's {dim}")
        self.layer = layers[0]
        self.above = Above(vlm, self.layer)
        self._unedited = Unedited(self.above)
        groups = retargeted(vlm, learned, method.retargets, learns=method.learns, seed=method.seed)
        self.learned = self._prepared([one for group in groups for one in group])
        self.held = self._prepared(held)
        some = [self.above.parted(case.request)[1] for case in self.learned[:_AT_ONCE]]
        visual = max(len(states_SD) for states_SD in some)
        unit = float(torch.cat(some).float().square().mean().sqrt())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(method.seed)
            made = LiveEditNetwork(dim, method.width, method.heads, method.rank, method.count, visual, unit)
        self.module = made.to(vlm.device)

    @property
    def count(self) -> int:
        """How many edits there are to learn from."""
        return len(self.learned)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The layer, and the network's heads."""
        return {"layer": self.layer, "heads": self._method.heads}

    def loss(self, chosen: Sequence[int], draw: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of some cases as the edits in force."""
        return self.losses([self.learned[place] for place in chosen], draw)

    def losses(self, cases: Sequence[_Case], draw: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss, and its terms by name, as they enter it."""
        method, network = self._method, self.module
        pool, tensors = self._pool(cases), network.reader()
        asked = [(place, *one) for place, case in enumerate(cases) for one in case.rows]
        own, none = self._features([row for *_, row in asked], tensors)
        seen_NE = likeness(own.phi_NKM, pool.found.phi_NKM)
        asked_NE = likeness(own.psi_NKM, pool.found.psi_NKM)
        none_N = torch.diagonal(likeness(own.phi_NKM, none.phi_NKM))
        owners, about = [place for place, *_ in asked], [one for _, _, one, _ in asked]
        terms = routing_losses(seen_NE, none_N, asked_NE, owners, about, [case.said for case in cases])
        if method.drawn:
            run = [at for case in range(len(cases)) for at in _one_of_each(asked, case, draw)]
            asked, about = [asked[at] for at in run], [about[at] for at in run]
            asked_NE = asked_NE[run]
        live = [(_Live(self.layer, pool, weights, tensors),) for weights in soft_weights(asked_NE)]
        found = self.above.run([row for *_, row in asked], live)
        for kind in dict.fromkeys(kind for _, kind, one, _ in asked if one):
            some = [at for at, (_, one, _, _) in enumerate(asked) if one == kind and about[at]]
            loss = cross_entropy([found[at] for at in some], [asked[at][-1] for at in some])
            terms[f"ce {kind}"] = method.edit_weight * loss
        if stay := [at for at, one in enumerate(about) if not one]:
            before = self._unedited.of([asked[at][-1] for at in stay])
            terms["kl"] = method.keep_weight * divergence(before, [found[at] for at in stay])
        return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}

    @torch.no_grad()
    def check(self) -> Check:
        """With all cases held out in force, routed as an edit is: teacher-forced, the share of rows all of whose tokens
        are likeliest, by kind."""
        op = ExpertsOp(self.layer, self.module.reader(), self.module.heads, self._pool(self.held))
        return check_of(one for case in self.held for one in self._graded(case, op))

    def _graded(self, case: _Case, op: ExpertsOp) -> Iterator[Graded]:
        rows = list(case.rows)
        found = self.above.run([row for *_, row in rows], [(op,)] * len(rows))
        for (kind, about, row), logits_NV in zip(rows, found, strict=True):
            yield Graded(kind, row, logits_NV, None if about else self._unedited.of([row])[0])

    def _pool(self, cases: Sequence[_Case]) -> Experts:
        """The experts of some cases."""
        made: Experts | None = None
        for case in cases:
            states_TD = self.above.states(case.request)[: edited(case.request)].float()
            one = self.module.experts(states_TD, *shown(case.request, states_TD.device))
            made = one if made is None else made + one
        assert made is not None, "there are cases"
        return made

    def _features(self, rows: Sequence[Row], tensors: Mapping[str, Tensor]) -> tuple[Features, Features]:
        """Of some rows' prompts, and the same with the sentinel in the picture's place."""
        parted = [self.above.parted(row) for row in rows]
        counts = [len(words_TD) - len(row.target_N) for (words_TD, _), row in zip(parted, rows, strict=True)]
        words = padded([words_TD[:count].float() for (words_TD, _), count in zip(parted, counts, strict=True)])
        visual = padded([visual_SD.float() for _, visual_SD in parted])
        own = features(words[0], visual[0], tensors, self.module.heads, words[1], visual[1])
        return own, features(words[0], tensors["sentinel"], tensors, self.module.heads, words[1])

    def _prepared(self, cases: Sequence[EditCase]) -> list[_Case]:
        chunks = (cases[start : start + _AT_ONCE] for start in range(0, len(cases), _AT_ONCE))
        return [made for chunk in chunks for made in self._of_chunk(chunk)]

    def _of_chunk(self, cases: Sequence[EditCase]) -> list[_Case]:
        """Cases whose rows are run together; their pictures are let go of afterwards."""
        method = self._method
        wanted = {*method.learns, *method.keeps}
        probes = [[p for p in case.probes if p.kind in wanted and p.example.pictures] for case in cases]
        asked = [[case.request, *(p.example for p in some)] for case, some in zip(cases, probes, strict=True)]
        with self._vlm.sharing():
            prepared = self._vlm.prepare([example for some in asked for example in some])
            self.above.add(prepared)
        rows, made = iter(prepared.rows), list[_Case]()
        for case, some in zip(cases, probes, strict=True):
            groups: dict[str, list[Row]] = {_REQUEST: [next(rows)]}
            for probe in some:
                groups.setdefault(probe.kind, []).append(next(rows))
            groups = {kind: [row for row in found if len(row.target_N)] for kind, found in groups.items()}
            both = [{k: v for k, v in groups.items() if v and (k in method.keeps) == keep} for keep in (False, True)]
            made.append(_Case(*both, said=case.rejected or ""))
        return made


def _one_of_each(asked: Sequence[tuple[int, str, bool, Row]], case: int, draw: torch.Generator) -> list[int]:
    """The places of one row of a case that must give its target, and of one that must stay."""
    sorts = [
        [at for at, (place, _, one, _) in enumerate(asked) if (place, one) == (case, about)] for about in (True, False)
    ]
    return [some[one_of(len(some), draw)] for some in sorts if some]


def routing_losses(
    seen_NE: Tensor, none_N: Tensor, asked_NE: Tensor, owners: Sequence[int], about: Sequence[bool], said: Sequence[str]
) -> dict[str, Tensor]:
    """The losses of routing, by name.

    Args:
        seen_NE: < phi, phi_e > of each prompt and expert.
        none_N: < phi, theta > of each prompt.
        asked_NE: < psi, psi_e >.
        owners: whose each prompt is, by the expert's place.
        about: whether it is about the same matter.
        said: what the model says of each edit's request; empty where that is not known.
    """
    count = len(said)
    same_EE = torch.tensor([[bool(a) and a == b and i != j for j, b in enumerate(said)] for i, a in enumerate(said)])
    own_N, about_N = torch.tensor(owners), torch.tensor(about)
    unsure_NE = (same_EE[own_N] & about_N[:, None]).to(seen_NE.device)
    target_N = torch.where(about_N, own_N, count).to(seen_NE.device)
    seen_NE, sure_NE = (x.masked_fill(unsure_NE, float("-inf")) for x in (seen_NE, asked_NE))
    terms = {"hard": functional.cross_entropy(torch.cat([seen_NE, none_N[:, None]], -1), target_N)}
    mine = about_N.to(seen_NE.device)
    if about_N.any():
        terms["relative"] = functional.cross_entropy(sure_NE[mine], target_N[mine])
        terms["absolute own"] = functional.softplus(-asked_NE[mine].gather(-1, target_N[mine, None])).mean()
    if not about_N.all():
        terms["absolute kept"] = functional.softplus(asked_NE[~mine]).mean()
    return terms


@dataclass(frozen=True, eq=False)
class _Live:
    """Experts at work on one row, weighed as its features say, that gradients pass."""

    reads_question: ClassVar[bool] = True

    layer: int
    experts: Experts
    weights_E: Tensor
    tensors: Mapping[str, Tensor]

    def check(self, layers: int, width: int) -> None:
        """It is made for the model at hand."""

    def decided(self, states_TD: Tensor, visual_T: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda some_ND: mixed(some_ND, self.experts.up_ERD, self.experts.down_ERD, self.weights_E, self.tensors)

    def change(self, states_TD: Tensor, visual_T: Tensor) -> Tensor:
        return self.decided(states_TD, visual_T)(states_TD)
