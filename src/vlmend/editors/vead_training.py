"""How `vead` is trained: VisEdit's losses, on edit cases with their probes.

Chen et al., AAAI 2025, arXiv 2408.09916, section 4. In each step some cases are edited, each by itself, and with each
case's own edit in force

    L  =  sum over {request, its generality probes} of  CE(target)
        + keep_weight * KL(before || after) at a locality probe with a picture
        + mapper_weight * (L_rank + L_up + L_down)

where CE and KL are means over all the batch's target tokens, teacher-forced. For the mapper one of {request, generality
probes} is drawn, and some of its picture's tokens. With y their influences (`influence`, shares), z the mapper's
logits there and z' at the same tokens of a locality probe's picture:

    L_rank = -sum y log softmax(z)      L_up = -mean log sigmoid(z)      L_down = -mean log(1 - sigmoid(z'))

Below the lowest adapter every row is run once (`vlmend.models.above`); nothing is kept on disk, and a picture's states
once for all rows about it.

Beyond the paper: several kinds of probes can be asked to stay (`keeps`; one of a case's is drawn in each step). A case
can be learnt with further targets, taken from other cases (`retargets`): with few cases the adapter learns these by
heart, and with many targets it learns to read the target off the edit. And the weights are those of the best check on
cases held out: the mean over kinds of the share of probes that greedy decoding answers as it should.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_GENERALITY, EditCase
from vlmend.editors.influence import influences
from vlmend.editors.lessons import Graded, Unedited, check_of, cross_entropy, divergence, one_of, retargeted
from vlmend.editors.settings import Amount, Count, Rate, Share, Size
from vlmend.editors.training import Check
from vlmend.editors.vead_adapter import Adapter, Live
from vlmend.editors.vead_placed import Reads, check_pictures_asked, signal
from vlmend.edits.attend import gate_logits
from vlmend.errors import EditError
from vlmend.models.above import Above
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["Drawn", "Learned", "VEADLesson", "VEADTraining", "mapper_losses"]

_REQUEST, _STAY = "reliability", "kl"
_AT_ONCE = 64  # cases that are prepared together
_LEAST = 1e-8  # under a logarithm, as published


@dataclass(frozen=True)
class VEADTraining:
    """The training of `vead`.

    Attributes:
        layers: behind which decoder layers adapters sit. The paper's are 18 of 32 in LLaVA, 19 of 32 in BLIP-2.
        width: of an adapter's queries, keys and values.
        heads: of an adapter; they divide its width and the model's.
        gate_width: inner width of the Influence Mapper; 0 for none.
        learns: kinds of probes that must give the target, beside the request.
        drawn: learn one row of a case in each step, the request's or one of these, instead of all of them.
        keeps: kinds of probes whose answers must stay.
        keep_weight: of their divergence.
        reads: what the adapter reads of an edit; "all" as published. Words alone are learnt from fewer cases.
        retargets: how many targets beside its own each case is learnt with, drawn from the answers in the cases that
            are about as long and that the model holds likely there.
        mapper_weight: of the mapper's losses.
        mapped: how many of a step's cases these look at; ``None`` for all. They cost as much as all the rest.
        samples: visual tokens of each that they look at.
        draws: of the noise on each.
        noise: its standard deviation.
        influenced: layers whose attention the noise enters; ``None`` for all above the adapters.
        steps, batch, lr, cooldown, held_out, check_every, seed: see `vlmend.editors.training.Trainable`.
    """

    name: ClassVar[str] = "vead"

    layers: LayerSpec = 0.58
    width: Size = 1024
    heads: Size = 8
    gate_width: Count = 1024
    learns: tuple[str, ...] = (TEXT_GENERALITY, IMAGE_GENERALITY)
    drawn: bool = False
    keeps: tuple[str, ...] = (IMAGE_LOCALITY,)
    keep_weight: Amount = 1.0
    reads: Reads = "all"
    retargets: Count = 0
    mapper_weight: Amount = 0.1
    mapped: int | None = None
    samples: Size = 24
    draws: Size = 1
    noise: Amount = 0.7
    influenced: LayerSpec | None = None
    steps: Size = 2000
    batch: Size = 4
    lr: Rate = 1e-4
    cooldown: Share = 0.0
    held_out: Share = 0.1
    check_every: Size = 200
    seed: int = 0

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> VEADLesson:
        """Run every case's rows up to the lowest adapter.

        Raises:
            EditError: a request has no picture, or heads do not divide the widths.
            PartsError: the model has no such layers, or nothing above them.
        """
        check_pictures_asked([*learned, *held])
        return VEADLesson(self, vlm, learned, held)


@dataclass(frozen=True, eq=False)
class Learned:
    """One case, ready to be learnt from.

    Attributes:
        must: kind -> rows that must give their targets; the request's first.
        stay: kind -> rows whose answers must stay.
        states: of the request's row, behind the layers with an adapter above the lowest, [T, D].
    """

    must: Mapping[str, Sequence[Row]]
    stay: Mapping[str, Sequence[Row]]
    states: Mapping[int, Tensor]

    @property
    def request(self) -> Row:
        return self.must[_REQUEST][0]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is drawn for one case in a step.

    Attributes:
        shown: the row whose picture the mapper's losses look at.
        hidden: a row that must stay; ``None`` if there is none.
        tokens_K: which visual tokens the mapper's losses look at.
        noise: layer -> noise, [draw, K, D].
    """

    shown: Row
    hidden: Row | None
    tokens_K: Tensor
    noise: Mapping[int, Tensor]


class VEADLesson:
    """One training of `vead` under way; see `vlmend.editors.training.Lesson`."""

    def __init__(self, method: VEADTraining, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> None:
        self._method = method
        self._vlm = vlm
        self.layers = vlm.parts.layer_indices(method.layers)
        above = range(self.layers[-1] + 1, len(vlm.parts.layers))
        self.influenced = tuple(above) if method.influenced is None else vlm.parts.layer_indices(method.influenced)
        if not set(self.influenced) <= set(above):
            raise EditError(
                f"influences are measured above the adapters, in layers {list(above)}, not {self.influenced}"
            )
        dim = len(vlm.parts.norm.weight)  # type: ignore[arg-type]
        if dim % method.heads or method.width % method.heads:
            raise EditError(
                f"{method.heads} heads do not divide the adapter's width {method.width} and the model's {dim}"
            )
        self.above = Above(vlm, self.layers[0])
        self._unedited = Unedited(self.above)
        cases = retargeted(vlm, learned, method.retargets, learns=method.learns, seed=method.seed)
        self.learned = self._prepared([one for group in cases for one in group])
        self.held = self._prepared(held)
        sizes = (method.width, method.heads, method.gate_width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(method.seed)
            made = {str(at): Adapter(dim, *sizes, unit=self._unit(at)) for at in self.layers}
        self.module = nn.ModuleDict(made).to(vlm.device)

    @property
    def count(self) -> int:
        """How many edits there are to learn from."""
        return len(self.learned)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The layers, the heads of each adapter, and what these read."""
        return {"layers": list(self.layers), "heads": self._method.heads, "reads": self._method.reads}

    def loss(self, chosen: Sequence[int], draw: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The paper's loss of some cases."""
        cases = [self.learned[place] for place in chosen]
        return self.losses(cases, [self._drawn(case, draw) for case in cases])

    def losses(self, cases: Sequence[Learned], drawn: Sequence[Drawn]) -> tuple[Tensor, dict[str, float]]:
        """The loss with what is drawn given; and its terms by name, as they enter it."""
        method = self._method
        edits = [self._edit(case) for case in cases]
        must = [
            (kind, place, row)
            for kind in dict.fromkeys(kind for case in cases for kind in case.must)
            for place, (case, one) in enumerate(zip(cases, drawn, strict=True))
            for row in case.must.get(kind, ())
            if not method.drawn or row is one.shown
        ]
        stay = [(_STAY, place, one.hidden) for place, one in enumerate(drawn) if one.hidden is not None]
        found = self.above.run(
            [row for *_, row in (*must, *stay)], [edits[place].ops for _, place, _ in (*must, *stay)]
        )
        terms = {
            f"ce {kind}": cross_entropy(
                [logits for logits, (one, *_) in zip(found, must, strict=False) if one == kind],
                [row for one, _, row in must if one == kind],
            )
            for kind in dict.fromkeys(kind for kind, *_ in must)
        }
        if stay:
            before = self._unedited.of([row for *_, row in stay])
            terms[_STAY] = method.keep_weight * divergence(before, found[len(must) :])
        if method.gate_width and method.mapper_weight:
            some = slice(method.mapped)
            for name, loss in self._mapper(cases[some], edits[some], drawn[some]).items():
                terms[f"mapper {name}"] = method.mapper_weight * loss
        return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}

    @torch.no_grad()
    def check(self) -> Check:
        """Teacher-forced, on the cases held out: the share of rows all of whose tokens are likeliest, by kind."""
        return check_of(self._graded())

    def _graded(self) -> Iterator[Graded]:
        for case in self.held:
            edit = self._edit(case)
            kinds = [(kind, row) for kind, rows in (*case.must.items(), *case.stay.items()) for row in rows]
            found = self.above.run([row for _, row in kinds], [edit.ops] * len(kinds))
            for (kind, row), logits_NV in zip(kinds, found, strict=True):
                yield Graded(kind, row, logits_NV, self._unedited.of([row])[0] if kind in case.stay else None)

    def _mapper(self, cases: Sequence[Learned], edits: Sequence[_Edit], drawn: Sequence[Drawn]) -> dict[str, Tensor]:
        """Its losses, each the sum over layers with an adapter."""
        together = list(zip(cases, edits, drawn, strict=True))
        target = [influences(self.above, c.request, one.shown, one.tokens_K, one.noise) for c, _, one in together]
        found: dict[str, list[Tensor]] = {}
        for layer in self.layers:
            shown = [self._gate(layer, edit, one.shown, one.tokens_K) for _, edit, one in together]
            hidden = [self._gate(layer, edit, one.hidden, one.tokens_K) for _, edit, one in together if one.hidden]
            for name, loss in mapper_losses(shown, hidden, target).items():
                found.setdefault(name, []).append(loss)
        return {name: torch.stack(some).sum() for name, some in found.items()}

    def _unit(self, layer: int) -> float:
        """Root mean square of the entries of some visual states behind a layer."""
        rows = [case.request for case in self.learned[:_AT_ONCE]]
        states = [self.above.behind(row, layer)[: len(row.ids_T)][row.visual_T.to(self._vlm.device)] for row in rows]
        return float(torch.cat(states).float().square().mean().sqrt()) if states else 1.0

    def _gate(self, layer: int, edit: _Edit, row: Row, tokens_K: Tensor) -> Tensor:
        states_TD = self.above.behind(row, layer)[: len(row.ids_T)]
        states_KD = states_TD[row.visual_T.to(states_TD.device)][tokens_K.to(states_TD.device)].float()
        return gate_logits(states_KD, edit.at[layer])

    def _drawn(self, case: Learned, draw: torch.Generator) -> Drawn:
        """One of the rows that must give their targets, with as many visual tokens as the request; tokens; noise."""
        count = int(case.request.visual_T.sum())
        rows = [row for some in case.must.values() for row in some if int(row.visual_T.sum()) == count]
        away = [row for some in case.stay.values() for row in some]
        shown = rows[one_of(len(rows), draw)]
        hidden = away[one_of(len(away), draw)] if away else None
        most = min(count, int(hidden.visual_T.sum())) if hidden is not None else count
        tokens_K = torch.randperm(most, generator=draw)[: self._method.samples]
        shape = (self._method.draws, len(tokens_K), len(self._vlm.parts.norm.weight))  # type: ignore[arg-type]
        noise = {layer: torch.randn(shape, generator=draw) * self._method.noise for layer in self.influenced}
        return Drawn(shown, hidden, tokens_K, noise)

    def _edit(self, case: Learned) -> _Edit:
        adapters: dict[int, Any] = {layer: self.module[str(layer)] for layer in self.layers}
        made = {at: one.states_side() | one.edit_side(*self.signal(case, at)) for at, one in adapters.items()}
        return _Edit(made, self._method.heads)

    def signal(self, case: Learned, layer: int) -> tuple[Tensor, int]:
        """What the adapter at a layer reads of a case's edit, [L, D], and which of it is the last prompt token."""
        states_TD = case.states[layer] if layer in case.states else self.above.states(case.request)
        return signal(states_TD, case.request, self._method.reads)

    def _prepared(self, cases: Sequence[EditCase]) -> list[Learned]:
        chunks = (cases[start : start + _AT_ONCE] for start in range(0, len(cases), _AT_ONCE))
        return [made for chunk in chunks for made in self._of_chunk(chunk)]

    def _of_chunk(self, cases: Sequence[EditCase]) -> list[Learned]:
        """Cases whose rows are run together; their pictures are let go of afterwards."""
        method = self._method
        wanted = {*method.learns, *method.keeps}
        probes = [[p for p in case.probes if p.kind in wanted and p.example.pictures] for case in cases]
        asked = [[case.request, *(p.example for p in some)] for case, some in zip(cases, probes, strict=True)]
        with self._vlm.sharing():
            prepared = self._vlm.prepare([example for some in asked for example in some])
            self.above.add(prepared)
        rows = iter(prepared.rows)
        made: list[Learned] = []
        for some in probes:
            groups: dict[str, list[Row]] = {_REQUEST: [next(rows)]}
            for probe in some:
                groups.setdefault(probe.kind, []).append(next(rows))
            groups = {kind: [row for row in found if len(row.target_N)] for kind, found in groups.items()}
            request = groups[_REQUEST][0]
            made.append(
                Learned(
                    must={kind: found for kind, found in groups.items() if kind not in method.keeps and found},
                    stay={kind: found for kind, found in groups.items() if kind in method.keeps and found},
                    states={at: self.above.behind(request, at) for at in self.layers[1:]},
                )
            )
        return made


def mapper_losses(shown: Sequence[Tensor], hidden: Sequence[Tensor], target: Sequence[Tensor]) -> dict[str, Tensor]:
    """L_rank, L_up and L_down, unweighted.

    Args:
        shown: of every case the mapper's logits at some tokens of a picture that must be changed, [K].
        hidden: of some cases those at tokens of a picture that must not be, [K].
        target: of every case the influences of the first tokens, shares, [K].
    """
    pairs = zip(shown, target, strict=True)
    ranks = [-(y_K.to(z_K.device) * (z_K.softmax(-1) + _LEAST).log()).sum() for z_K, y_K in pairs]
    losses = {"rank": torch.stack(ranks).mean(), "up": -(torch.sigmoid(torch.cat(list(shown))) + _LEAST).log().mean()}
    if hidden:
        losses["down"] = -(1 - torch.sigmoid(torch.cat(list(hidden))) + _LEAST).log().mean()
    return losses


@dataclass(frozen=True, eq=False)
class _Edit:
    """An edit that is being learnt: layer -> what `attend` is given there, with gradients."""

    at: Mapping[int, Mapping[str, Tensor]]
    heads: int

    @cached_property
    def ops(self) -> tuple[Live, ...]:
        """The same for all rows: what they make of a picture that several are about is made once."""
        return tuple(Live(layer, tensors, self.heads) for layer, tensors in self.at.items())
