"""How `serac` is trained: a classifier of what is in an edit's scope, and a counterfactual model that answers there.

Mitchell et al., ICML 2022, arXiv 2206.06520, section 3.3: the classifier by binary cross-entropy on pairs of edits and
prompts, the counterfactual model by the likelihood of in-scope answers. MMEdit (arXiv 2310.08475) trains both through
the mixture that is decoded, with the divergence from the model before out of scope. Here a step does both. In it some
cases are the edits in force, and

    L  =  NLL of the target under  log((1 - s) p + s p')  at a prompt in scope of each
        + keep_weight * KL(p || (1 - s) p + s p')  at a prompt out of scope of each, s of the edit it is closest to
        + scope_weight * (own + near + other_weight * other)    (`vlmend.editors.recall_lesson`)

with p the model's probabilities, which are found once, p' the counterfactual model's, teacher-forced. Prompts out of
scope have pictures, and among them are near misses: another question about the same picture, the same about another
picture or none. A case can be learnt with further targets (`retargets`), so that what is answered is read off the edit
and not known by heart; and some are drawn at random, token by token (`invented`), so that words can be said that stand
in no case: p is not known of these and taken for 0.

At a check all cases held out are in force at once, and the bar is put amid those at which, routed hard, most is
answered as it should be, in the mean over kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    NO_IMAGE_LOCALITY,
    OOD_GENERALITY,
    SAME_IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
    EditCase,
)
from vlmend.editors.lessons import one_of, retargeted
from vlmend.editors.recall_lesson import BARS, best_bar, recall_losses
from vlmend.editors.serac_network import Network
from vlmend.editors.settings import Amount, Count, Rate, Share, Size
from vlmend.editors.training import Check
from vlmend.edits.counterfactual import mixture
from vlmend.edits.recall import Keys
from vlmend.edits.scope import keys_for, leads
from vlmend.edits.speaker import Fact, say
from vlmend.errors import EditError
from vlmend.models.mixing import Query
from vlmend.models.outputs import RowOutput
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["SERACLesson", "SERACTraining"]

_REQUEST = "reliability"
_NEVER = -1e4  # log probability of what a model is taken never to say; finite, so that gradients are
_AT_ONCE = 64  # cases that are prepared together, and rows that are said together at a check


@dataclass(frozen=True)
class SERACTraining:
    """The training of `serac`.

    Attributes:
        width: of the classifier and of the counterfactual model.
        size: of a key's two vectors.
        heads: of all their layers; they divide the width.
        scope_layers: of the decoder that reads questions for the classifier.
        layers: of the counterfactual model.
        learns: kinds of probes that are in scope, beside the request.
        keeps: kinds of probes that are not.
        retargets: how many targets beside its own each case is learnt with, drawn from the answers in the cases that
            are about as long and that the model holds likely there.
        invented: share of the prompts in scope whose target is made up of random tokens, as many as its own has.
        keep_weight: of the divergence out of scope.
        scope_weight: of the classifier's own losses.
        other_weight: among these, of the pairs of a prompt and another case's edit.
        steps, batch, lr, cooldown, held_out, check_every, seed: see `vlmend.editors.training.Trainable`.
    """

    name: ClassVar[str] = "serac"

    width: Size = 128
    size: Size = 96
    heads: Size = 4
    scope_layers: Size = 1
    layers: Size = 2
    learns: tuple[str, ...] = (TEXT_GENERALITY, IMAGE_GENERALITY, OOD_GENERALITY)
    keeps: tuple[str, ...] = (
        TEXT_LOCALITY,
        IMAGE_LOCALITY,
        SAME_IMAGE_LOCALITY,
        SAME_QUESTION_LOCALITY,
        NO_IMAGE_LOCALITY,
    )
    retargets: Count = 2
    invented: Share = 0.25
    keep_weight: Amount = 1.0
    scope_weight: Amount = 1.0
    other_weight: Amount = 0.33
    steps: Size = 2000
    batch: Size = 16
    lr: Rate = 1e-3
    cooldown: Share = 0.4
    held_out: Share = 0.1
    check_every: Size = 200
    seed: int = 0

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> SERACLesson:
        """Run every case's prompts once.

        Raises:
            EditError: heads do not divide the width, or no case has a picture.
        """
        return SERACLesson(self, vlm, learned, held)


@dataclass(frozen=True, eq=False)
class _Prompt:
    """A row, and what the model as it was makes of it.

    Attributes:
        kind: of the probe.
        query: what it asks.
        target_N: its answer with what ends it; teacher-forced.
        length: how many of these tokens are the answer's.
        before: log-probabilities where these are predicted: of all tokens, [N, V], if it must stay; else of the
            target's alone, [N].
        answered: whether the target's tokens were likeliest.
    """

    kind: str
    query: Query
    target_N: Tensor
    length: int
    before: Tensor
    answered: bool


@dataclass(frozen=True, eq=False)
class _Case:
    """A request and its probes with the targets that they must have, and those that must stay."""

    fact: Fact
    must: Sequence[_Prompt]
    stay: Sequence[_Prompt]
    said: str

    @property
    def request(self) -> _Prompt:
        return self.must[0]


class SERACLesson:
    """One training of `serac` under way; see `vlmend.editors.training.Lesson`."""

    def __init__(self, method: SERACTraining, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> None:
        if method.width % method.heads:
            raise EditError(f"the heads, {method.heads}, do not divide the width {method.width}")
        self._method = method
        self._vlm = vlm
        groups = retargeted(vlm, learned, method.retargets, learns=method.learns, seed=method.seed)
        self.learned = self._prepared(groups)
        self.held = [group[0] for group in self._prepared([[case] for case in held])]
        self.module = self._network().to(vlm.device)

    def _network(self) -> Network:
        method = self._method
        queries = [prompt.query for case in (*self._first, *self.held) for prompt in (*case.must, *case.stay)]
        pictures = [query.visual_SD for query in queries if query.visual_SD is not None]
        if not pictures:
            raise EditError("no case has a picture, which the connector could be learnt from")
        table_VD = queries[0].table_VD
        unit = float(table_VD.float().square().mean().sqrt())
        layers = (method.scope_layers, method.layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(method.seed)
            return Network(table_VD.shape[1], pictures[0].shape[1], method.width, method.size, layers, unit)

    @property
    def _first(self) -> list[_Case]:
        return [group[0] for group in self.learned]

    @property
    def count(self) -> int:
        """How many cases there are to learn from."""
        return len(self.learned)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The heads."""
        return {"heads": self._method.heads}

    def loss(self, chosen: Sequence[int], draw: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of some cases as the edits in force."""
        groups = [self.learned[place] for place in chosen]
        cases = [group[one_of(len(group), draw)] for group in groups]
        found = self._scoped(cases)
        heard: list[_Heard] = []
        for place, case in enumerate(cases):
            at = found.starts[place] + one_of(len(case.must), draw)
            one = _Heard(found.prompts[at], case.fact, found.lead_NE[at, place])
            heard.append(
                self._invented(one, draw) if float(torch.rand((), generator=draw)) < self._method.invented else one
            )
            if case.stay:
                heard.append(found.closest(found.starts[place] + len(case.must) + one_of(len(case.stay), draw)))
        terms = self._mixed(heard) | self._scope_terms(found)
        return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}

    def _invented(self, one: _Heard, draw: torch.Generator) -> _Heard:
        """The same with a target that is made up."""
        made_N = one.prompt.target_N.clone()
        count = one.prompt.length
        made_N[:count] = torch.randint(len(one.prompt.query.table_VD), (count,), generator=draw)
        before = torch.full_like(one.prompt.before, _NEVER)
        return _Heard(replace(one.prompt, target_N=made_N, before=before), Fact(one.fact.words_K, made_N), one.lead)

    def _scoped(self, cases: Sequence[_Case]) -> _Scoped:
        """All prompts of cases, and how far each is in the scope of each of these as edits."""
        scope = dict(self.module.scope.named_parameters()) | dict(self.module.scope.named_buffers())
        prompts = [prompt for case in cases for prompt in (*case.must, *case.stay)]
        keys = keys_for([prompt.query for prompt in prompts], scope, self._method.heads)
        counts = [len(case.must) + len(case.stay) for case in cases]
        starts = [sum(counts[:place]) for place in range(len(cases))]
        owners = [place for place, count in enumerate(counts) for _ in range(count)]
        edits = Keys(keys.asked_NC[starts], keys.seen_NC[starts])  # a case's request is the first of its prompts
        return _Scoped(cases, prompts, owners, starts, leads(keys, edits, scope))

    def _scope_terms(self, found: _Scoped) -> dict[str, Tensor]:
        """The classifier's losses; of other targets for the same case it is told nothing."""
        weights = {"other": self._method.other_weight}
        about = [prompt.kind not in self._method.keeps for prompt in found.prompts]
        terms = recall_losses(found.lead_NE, found.owners, about, [case.said for case in found.cases])
        return {name: self._method.scope_weight * weights.get(name, 1.0) * term for name, term in terms.items()}

    def _mixed(self, heard: Sequence[_Heard]) -> dict[str, Tensor]:
        """The losses of what is decoded."""
        likely: list[Tensor] = []
        moved: list[Tensor] = []
        for one, logits_NV in zip(heard, self._said(heard), strict=True):
            prompt, told_NV = one.prompt, logits_NV.log_softmax(-1)
            if prompt.kind in self._method.keeps:
                before_NV = prompt.before
                moved.append((before_NV.exp() * (before_NV - mixture(one.lead, before_NV, told_NV))).sum(-1))
            else:
                target_N1 = prompt.target_N.to(told_NV.device)[:, None]
                likely.append(mixture(one.lead, prompt.before, told_NV.gather(-1, target_N1)[:, 0]))
        terms = {"nll": -torch.cat(likely).mean()} if likely else {}
        return terms | ({"kl": self._method.keep_weight * torch.cat(moved).mean()} if moved else {})

    def _said(self, heard: Sequence[_Heard]) -> list[Tensor]:
        """What the counterfactual model says, teacher-forced: [N, V] each."""
        speaker = dict(self.module.speaker.named_parameters()) | dict(self.module.speaker.named_buffers())
        asked = [(one.fact, one.prompt.query, one.prompt.target_N[:-1]) for one in heard]
        return say(asked, speaker, self._method.heads)

    @torch.no_grad()
    def check(self) -> Check:
        """With all cases held out in force, routed hard at the bar that is kept: the share of prompts that are answered
        as they should be, by kind; and the loss as in a step, of all prompts."""
        found = self._scoped(self.held)
        heard = [found.closest(place) for place in range(len(found.prompts))]
        parts = [heard[start : start + _AT_ONCE] for start in range(0, len(heard), _AT_ONCE)]
        right: dict[str, list[Tensor]] = {}
        for one, told_NV in zip(heard, (said for some in parts for said in self._said(some)), strict=True):
            prompt, stays = one.prompt, one.prompt.kind in self._method.keeps
            wanted_N = prompt.before.argmax(-1) if stays else prompt.target_N
            follows = bool((told_NV.argmax(-1).cpu() == wanted_N.cpu()).all())
            right_B = torch.where(torch.sigmoid(one.lead).cpu() >= BARS, follows, stays or prompt.answered)
            right.setdefault(prompt.kind, []).append(right_B)
        bar, score, shares = best_bar({kind: torch.stack(some) for kind, some in right.items()})
        self.module.bar.fill_(bar)
        return Check(score, self._loss_of(found, parts), shares)

    def _loss_of(self, found: _Scoped, parts: Sequence[Sequence[_Heard]]) -> float:
        """The loss of all prompts, a few at a time."""
        sums: dict[str, list[float]] = {}
        for some in parts:
            for name, term in self._mixed(some).items():
                sums.setdefault(name, []).append(float(term))
        mixed = sum(sum(some) / len(some) for some in sums.values())
        return mixed + sum(float(term) for term in self._scope_terms(found).values())

    def _prepared(self, groups: Sequence[Sequence[EditCase]]) -> list[list[_Case]]:
        chunks = (groups[start : start + _AT_ONCE] for start in range(0, len(groups), _AT_ONCE))
        return [made for chunk in chunks for made in self._of_chunk(chunk)]

    def _of_chunk(self, groups: Sequence[Sequence[EditCase]]) -> list[list[_Case]]:
        """Cases whose pictures are encoded once; their pixels are let go of afterwards."""
        with self._vlm.sharing():
            return [self._group(group) for group in groups]

    def _group(self, group: Sequence[EditCase]) -> list[_Case]:
        """One case with several targets: what must stay is the same for all of them."""
        keeps = self._method.keeps
        wanted = [{*self._method.learns, *keeps}, *[{*self._method.learns}] * (len(group) - 1)]
        asked = [
            (place, kind, example)
            for place, (case, kinds) in enumerate(zip(group, wanted, strict=True))
            for kind, example in [(_REQUEST, case.request), *((probe.kind, probe.example) for probe in case.probes)]
            if example.answer and kind in {_REQUEST, *kinds}
        ]
        prepared = self._vlm.prepare([example for *_, example in asked])
        with torch.no_grad():
            outputs = self._vlm.run(prepared).rows
        queries = self._vlm.queries(prepared)
        prompts = [
            (place, self._prompt(kind, query, row, output))
            for (place, kind, _), query, row, output in zip(asked, queries, prepared.rows, outputs, strict=True)
        ]
        stay = [prompt for _, prompt in prompts if prompt.kind in keeps]
        said = (group[0].rejected or "").strip().lower()
        made: list[_Case] = []
        for place in range(len(group)):
            must = [prompt for owner, prompt in prompts if owner == place and prompt.kind not in keeps]
            made.append(_Case(Fact(must[0].query.words_K, must[0].target_N), must, stay, said))
        return made

    def _prompt(self, kind: str, query: Query, row: Row, output: RowOutput) -> _Prompt:
        before_NV, target_N1 = output.logits_NV.log_softmax(-1), output.target_N[:, None]
        stays = kind in self._method.keeps
        before = before_NV if stays else before_NV.gather(-1, target_N1)[:, 0]
        answered = bool((before_NV.argmax(-1) == output.target_N).all())
        return _Prompt(kind, query, row.target_N, row.answer_length, before, answered)


@dataclass(frozen=True, eq=False)
class _Scoped:
    """Cases as the edits in force, their prompts, whose each is, where each case's begin, and their leads."""

    cases: Sequence[_Case]
    prompts: Sequence[_Prompt]
    owners: Sequence[int]
    starts: Sequence[int]
    lead_NE: Tensor

    def closest(self, place: int) -> _Heard:
        """A prompt with the edit in whose scope it is most."""
        edit = int(self.lead_NE[place].argmax())
        return _Heard(self.prompts[place], self.cases[edit].fact, self.lead_NE[place, edit])


@dataclass(frozen=True, eq=False)
class _Heard:
    """A prompt, the edit that the counterfactual model is shown, and how far the prompt is in its scope."""

    prompt: _Prompt
    fact: Fact
    lead: Tensor
