"""How `lte` is trained: to answer by what it is told where that is asked, and as ever where it is not.

Jiang et al., ACL 2024, arXiv 2402.11905, section 3.1 (the alignment phase). Low-rank factors on chosen linear layers
are learnt; in each step some edits are drawn, and of each

    L  =  CE(target)  at its request or a generality probe, told the edit
        + keep_weight * KL(before || after)  at a locality probe, told the edit; before: untold, and untaught
        + plain_weight * KL(before || after)  at one of all of these, untold

where each is a mean over all the batch's target tokens, teacher-forced. As published a row is told its own edit alone
(half of them), or after one or two of the likest other edits, which must not matter.

Beyond the paper: a case can be learnt with further targets (`retargets`): with few cases the factors learn these by
heart, and with many targets they learn to read what is told. What is out of scope stays as a distribution and not as a
sampled answer, and what is untold stays too, which keeps the factors from learning edits by heart. The weights are
those of the best check on cases held out: the mean over kinds of the share of probes that greedy decoding answers as it
should. Below the lowest layer with factors every row is run once (`vlmend.models.above`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    NO_IMAGE_LOCALITY,
    SAME_IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    EditCase,
    Example,
)
from vlmend.editors.lessons import Graded, Unedited, check_of, cross_entropy, divergence, one_of, retargeted
from vlmend.editors.low_rank import factors_for, product
from vlmend.editors.lte import descriptor
from vlmend.editors.settings import Amount, Count, Number, Rate, Share, Size
from vlmend.editors.training import Check
from vlmend.errors import EditError
from vlmend.models.above import Above
from vlmend.models.batching import of_like_length
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Row
from vlmend.models.prompts import put_before
from vlmend.models.trace import added
from vlmend.models.vlm import VLM

__all__ = ["LTELesson", "LTETraining", "Learned"]

_REQUEST, _UNTOLD = "reliability", "untold"
_AT_ONCE = 64  # cases that are prepared together
_SAME = 1.9999  # likeness of the same question about the same picture, but for rounding


@dataclass(frozen=True)
class LTETraining:
    """The training of `lte`.

    Attributes:
        layers: which decoder layers have factors; the first layer cannot.
        modules: which modules in them, by role; every linear layer within.
        rank: r.
        alpha: the change begins scaled by alpha / r.
        told: what is told of an edit, with places for {question} and {answer}.
        lead: what stands between all that is told and the question.
        alone: share of the rows that are told their own edit alone.
        beside: at most so many others are told to the rest, before their own.
        learns: kinds of probes that must give the target, beside the request.
        keeps: kinds of probes whose answers must stay. What is told has no picture in it, so that the same question
            about another picture can be kept only at the expense of generality.
        retargets: how many targets beside its own each case is learnt with, drawn from the answers in the cases that
            are about as long and that the model holds likely there.
        keep_weight: of the divergence of those that are told the edit.
        plain_weight: of the divergence of those that are told nothing; with 0 they are not checked either.
        steps, batch, lr, cooldown, held_out, check_every, seed: see `vlmend.editors.training.Trainable`.
    """

    name: ClassVar[str] = "lte"

    layers: LayerSpec = "late"
    modules: tuple[str, ...] = ("attn", "mlp")
    rank: Size = 16
    alpha: Number = 16.0
    told: str = "[Updated Information] {question} {answer}\n"
    lead: str = "[Query] "
    alone: Share = 0.5
    beside: Count = 2
    learns: tuple[str, ...] = (TEXT_GENERALITY, IMAGE_GENERALITY)
    keeps: tuple[str, ...] = (
        TEXT_LOCALITY,
        IMAGE_LOCALITY,
        SAME_IMAGE_LOCALITY,
        SAME_QUESTION_LOCALITY,
        NO_IMAGE_LOCALITY,
    )
    retargets: Count = 0
    keep_weight: Amount = 1.0
    plain_weight: Amount = 1.0
    steps: Size = 2000
    batch: Size = 8
    lr: Rate = 1e-3
    cooldown: Share = 0.0
    held_out: Share = 0.1
    check_every: Size = 200
    seed: int = 0

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> LTELesson:
        """Run every case's rows, told and untold, up to the lowest layer with factors.

        Raises:
            EditError: the template is none, or a chosen module stands in the first layer or before it.
            PartsError: the model has no such layers or modules.
        """
        return LTELesson(self, vlm, learned, held)


@dataclass(frozen=True, eq=False)
class Learned:
    """One case, ready to be learnt from.

    Attributes:
        must: kind -> rows, told the edit, that must give their targets; the request's first.
        stay: kind -> rows whose answers must stay: told the edit, and untold.
        plain: all of them, untold, if these must stay; none of a case with another target.
    """

    must: Mapping[str, Sequence[Row]]
    stay: Mapping[str, Sequence[tuple[Row, Row]]]
    plain: Sequence[Row]


class Factors(nn.Module):
    """B and A of some linear layers, in their order."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.left = nn.ParameterList([left for left, _ in pairs])
        self.right = nn.ParameterList([right for _, right in pairs])


class LTELesson:
    """One training of `lte` under way; see `vlmend.editors.training.Lesson`."""

    def __init__(self, method: LTETraining, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> None:
        self._method = method
        self._vlm = vlm
        self._linears = vlm.weights.linears(vlm.parts.modules(method.layers, method.modules))
        below = min(vlm.weights.stage(self._linears) // 2, len(vlm.parts.layers) - 1) - 1
        if below < 0:
            raise EditError("lte learns above the decoder's first layer: choose layers and modules behind it")
        self.above = Above(vlm, below)
        self._unedited = Unedited(self.above)
        draw = torch.Generator().manual_seed(method.seed)
        self.module = Factors([factors_for(one, method.rank, method.alpha, draw) for one in self._linears.values()])
        told = [descriptor(method.told, case) for case in learned]
        likest = _likest(vlm, learned, [*learned, *held], method.beside)
        others = [[told[place] for place in places] for places in likest]
        cases = retargeted(vlm, learned, method.retargets, learns=method.learns, seed=method.seed)
        self.learned = self._prepared(cases, others[: len(learned)])
        self.held = self._prepared([[case] for case in held], others[len(learned) :])

    @property
    def count(self) -> int:
        """How many edits there are to learn from."""
        return len(self.learned)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The weights that the factors change, by their names on disk, and how an edit is told."""
        method = self._method
        return {"names": list(self._linears), "told": method.told, "lead": method.lead, "alpha": method.alpha}

    def loss(self, chosen: Sequence[int], draw: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of some cases, one row of each kind for each."""
        cases = [self.learned[place] for place in chosen]
        must = [_drawn(case.must, draw) for case in cases]
        stay = [_drawn(case.stay, draw) for case in cases if case.stay]
        plain = [case.plain[one_of(len(case.plain), draw)] for case in cases if case.plain]
        return self.losses(must, stay, plain)

    def losses(
        self, must: Sequence[Row], stay: Sequence[tuple[Row, Row]], plain: Sequence[Row]
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of given rows; and its terms by name, as they enter it."""
        method = self._method
        before = self._unedited.of([*(untold for _, untold in stay), *plain])
        found = self._taught_run([*must, *(told for told, _ in stay), *plain])
        kept, ends = found[len(must) :], len(stay)
        terms = {"ce": cross_entropy(found[: len(must)], must)}
        if stay:
            terms["kl told"] = method.keep_weight * divergence(before[:ends], kept[:ends])
        if plain:
            terms["kl untold"] = method.plain_weight * divergence(before[ends:], kept[ends:])
        return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}

    @torch.no_grad()
    def check(self) -> Check:
        """Teacher-forced, on the cases held out: the share of rows all of whose tokens are likeliest, by kind."""
        return check_of(self._graded())

    def _graded(self) -> Iterator[Graded]:
        for case in self.held:
            told = [(kind, row, None) for kind, rows in case.must.items() for row in rows]
            kept = [(kind, *pair) for kind, pairs in case.stay.items() for pair in pairs]
            kept += [(_UNTOLD, row, row) for row in case.plain]
            before = self._unedited.of([untold for *_, untold in kept])
            rows = [(kind, row) for kind, row, _ in (*told, *kept)]
            found = self._taught_run([row for _, row in rows])
            wanted = [*[None] * len(told), *before]
            for (kind, row), logits_NV, before_NV in zip(rows, found, wanted, strict=True):
                yield Graded(kind, row, logits_NV, before_NV)

    def _taught_run(self, rows: Sequence[Row]) -> list[Tensor]:
        """Every row's logits with the factors in force; rows of like length, with and without pictures, together."""
        pairs = zip(self._linears.values(), self.module.left, self.module.right, strict=True)
        found: dict[int, Tensor] = {}
        with added({linear: product(left, right) for linear, left, right in pairs}):
            for some in of_like_length(dict(enumerate(rows)), len(rows)):
                logits = self.above.run([rows[place] for place in some], [()] * len(some))
                found.update(zip(some, logits, strict=True))
        return [found[place] for place in range(len(rows))]

    def _prepared(self, groups: Sequence[Sequence[EditCase]], others: Sequence[Sequence[str]]) -> list[Learned]:
        """Cases, each followed by the same with other targets, and what else may be told before theirs."""
        pairs = list(zip(groups, others, strict=True))
        rng = random.Random(self._method.seed)
        chunks = (pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE))
        return [made for chunk in chunks for made in self._of_chunk(chunk, rng)]

    def _of_chunk(self, pairs: Sequence[tuple[Sequence[EditCase], Sequence[str]]], rng: random.Random) -> list[Learned]:
        """Cases whose rows are run together; their pictures are let go of afterwards."""
        method = self._method
        wanted = {*method.learns, *method.keeps}
        asked: list[tuple[bool, list[tuple[str, Example, Example]]]] = []
        for case, first, others in [(case, case is group[0], others) for group, others in pairs for case in group]:
            probes = [(probe.kind, probe.example) for probe in case.probes if probe.kind in wanted]
            every = [(_REQUEST, case.request), *((kind, one) for kind, one in probes if (one.answer or "").strip())]
            asked.append((first, [(kind, one, self._told(one, case, others, rng)) for kind, one in every]))
        with self._vlm.sharing():
            prepared = self._vlm.prepare([one for _, some in asked for _, *pair in some for one in pair])
            self.above.add(prepared)
        rows = iter(prepared.rows)
        made: list[Learned] = []
        for first, some in asked:
            groups: dict[str, list[tuple[Row, Row]]] = {}
            for kind, *_ in some:
                plain, told = next(rows), next(rows)
                groups.setdefault(kind, []).append((told, plain))
            stay = {kind: found for kind, found in groups.items() if kind in method.keeps}
            must = {kind: [told for told, _ in found] for kind, found in groups.items() if kind not in stay}
            untold = [untold for found in groups.values() for _, untold in found] if first else []
            self._unedited.of(untold)  # here, where what shares a batch, and its rounding, depends on no draw
            made.append(Learned(must, stay, untold if method.plain_weight else []))
        return made

    def _told(self, example: Example, case: EditCase, others: Sequence[str], rng: random.Random) -> Example:
        """The example after its case's edit, which perhaps follows some others."""
        method = self._method
        count = 0 if rng.random() < method.alone or not others else rng.randint(1, len(others))
        text = "".join([*reversed(others[:count]), descriptor(method.told, case), method.lead])
        return replace(example, question=put_before(text, example.question))


def _drawn(kinds: Mapping[str, Sequence[Any]], draw: torch.Generator) -> Any:
    """One row of one kind."""
    some = list(kinds.values())[one_of(len(kinds), draw)]
    return some[one_of(len(some), draw)]


def _likest(vlm: VLM, known: Sequence[EditCase], cases: Sequence[EditCase], count: int) -> list[list[int]]:
    """For each of some cases the places of those known that are likest to it, the likest first; not the same one."""
    keys_CK = torch.cat(
        [
            vlm.keys(vlm.prepare([case.request for case in cases[start : start + _AT_ONCE]])).flatten(1)
            for start in range(0, len(cases), _AT_ONCE)
        ]
    )
    likeness_CE = keys_CK @ keys_CK[: len(known)].T  # the known ones come first
    likeness_CE = likeness_CE.masked_fill(likeness_CE >= _SAME, -torch.inf)
    return likeness_CE.argsort(descending=True, stable=True)[:, :count].tolist()
