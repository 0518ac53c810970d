"""How the keys of `vead-memory` are learnt: the same matter told apart from near misses.

In each step some cases are taken as the edits in force. A prompt must agree (`vlmend.edits.recall`) with its own edit
if it is one of its generality probes, and with none if it is a near miss or any other case's prompt. With a the
agreement of a prompt and an edit, and s, b learnt,

    L  =  mean over own pairs of  log(1 + exp(-s (a - b)))
        + mean over near misses with the edit they are close to of  log(1 + exp(s (a - b)))
        + other_weight * mean over prompts of the sum over all other edits of  log(1 + exp(s (a - b)))

Two cases of which the model gives the same answer may be about the same matter; such pairs are left out. The model is
run once for every prompt, up to the layer; a step is then as cheap as the keys. At each check the cases held out are
all in force at once, and the bar is put amid those with the highest mean over kinds of what is then recalled rightly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    OOD_GENERALITY,
    SAME_IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    EditCase,
)
from vlmend.editors.recall_lesson import BARS, best_bar, recall_losses
from vlmend.editors.settings import Amount, Rate, Share, Size
from vlmend.editors.shelf import trained_for
from vlmend.editors.training import Check
from vlmend.editors.vead_placed import adapters_of, check_pictures_asked
from vlmend.edits.decoder import padded
from vlmend.edits.recall import Keys, agreement, keys_of
from vlmend.errors import EditError
from vlmend.models.above import Above
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM

__all__ = ["KeyReader", "VEADMemoryLesson", "VEADMemoryTraining"]

_AT_ONCE = 64  # cases that are prepared together


@dataclass(frozen=True)
class VEADMemoryTraining:
    """The training of `vead-memory`.

    Attributes:
        adapter: folder of the adapter of `vead` whose edits are kept, behind one layer; ``None`` for the one that comes
            with the package. It is not trained further, and its weights are saved with the keys.
        width: of the keys' inner maps.
        size: of a key's two vectors.
        heads: that read the picture; they divide the width.
        learns: kinds of probes that are about their case's matter.
        keeps: kinds of probes that are not.
        other_weight: of the pairs of a prompt and another case's edit.
        blank: share of the visual states' entries that are blanked while it learns.
        steps, batch, lr, cooldown, held_out, check_every, seed: see `vlmend.editors.training.Trainable`.
    """

    name: ClassVar[str] = "vead-memory"

    adapter: str | None = None
    width: Size = 192
    size: Size = 96
    heads: Size = 4
    learns: tuple[str, ...] = (TEXT_GENERALITY, IMAGE_GENERALITY, OOD_GENERALITY)
    keeps: tuple[str, ...] = (SAME_IMAGE_LOCALITY, SAME_QUESTION_LOCALITY, IMAGE_LOCALITY)
    other_weight: Amount = 0.33
    blank: Share = 0.1
    steps: Size = 2000
    batch: Size = 48
    lr: Rate = 2e-3
    cooldown: Share = 0.4
    held_out: Share = 0.1
    check_every: Size = 200
    seed: int = 0

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> VEADMemoryLesson:
        """Run every case's prompts up to the adapter's layer.

        Raises:
            EditError: a request has no picture, heads do not divide the width, the adapter is not for this model, or
                there are several.
        """
        check_pictures_asked([*learned, *held])
        return VEADMemoryLesson(self, vlm, learned, held)


class KeyReader(nn.Module):
    """The weights that `vlmend.edits.recall.keys_of` is given, by its names.

    Args:
        dim: width of the states, D.
        width: of the inner maps, M.
        size: of a key's two vectors, C.
    """

    def __init__(self, dim: int, width: int, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.asked_in, self.asked_out = nn.Linear(2 * dim, width), nn.Linear(width, size)
        self.query, self.key, self.value = (nn.Linear(dim, width) for _ in range(3))
        self.seen_in, self.seen_out = nn.Linear(2 * width, width), nn.Linear(width, size)


class _Learnt(nn.Module):
    """All that is saved: the keys' weights, the adapter's as they were, the bar; and what is only for learning."""

    bar: Tensor

    def __init__(self, reader: KeyReader, adapters: nn.ModuleDict) -> None:
        super().__init__()
        self.reader = reader
        self.adapter = adapters.requires_grad_(False)
        self.sharpness, self.middle = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(0.5))
        self.register_buffer("bar", torch.tensor(0.5))


@dataclass(frozen=True, eq=False)
class _Prompt:
    """A prompt's states behind the layer: of its words, [K, D], and of its visual tokens, [S, D]."""

    words_KD: Tensor
    visual_SD: Tensor


@dataclass(frozen=True, eq=False)
class _Case:
    """A request, its probes by kind, and what the model says of it."""

    request: _Prompt
    probes: Mapping[str, Sequence[_Prompt]]
    said: str


class VEADMemoryLesson:
    """One training of `vead-memory` under way; see `vlmend.editors.training.Lesson`."""

    def __init__(
        self, method: VEADMemoryTraining, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]
    ) -> None:
        self._method = method
        self._vlm = vlm
        if method.width % method.heads:
            raise EditError(f"{method.heads} heads do not divide the width {method.width}")
        trained = trained_for("vead", vlm, method.adapter)
        placed = adapters_of(trained)
        if len(placed) != 1:
            raise EditError(f"a memory is kept behind one layer; the adapter is for {len(placed)}: train one for one")
        self._adapter = dict(trained.facts)
        self.layer = placed[0].layer
        self.learned, self.held = self._prepared(learned), self._prepared(held)
        dim = len(vlm.parts.norm.weight)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(method.seed)
            reader = KeyReader(dim, method.width, method.size)
        self.module = _Learnt(reader, nn.ModuleDict({str(self.layer): placed[0].adapter})).to(vlm.device)

    @property
    def count(self) -> int:
        """How many cases there are to learn from."""
        return len(self.learned)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The heads of the keys, and what must be known of the adapter."""
        return {"heads": self._method.heads, "adapter": self._adapter}

    def loss(self, chosen: Sequence[int], draw: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        """The loss of some cases as the edits in force."""
        return self._losses([self.learned[place] for place in chosen], draw)

    def _losses(self, cases: Sequence[_Case], draw: torch.Generator | None) -> tuple[Tensor, dict[str, float]]:
        asked = [
            (place, kind in self._method.learns, prompt)
            for place, case in enumerate(cases)
            for kind, prompts in case.probes.items()
            for prompt in prompts
        ]
        keys = self._keys([case.request for case in cases] + [prompt for *_, prompt in asked], draw)
        edits, prompts = keys[: len(cases)], keys[len(cases) :]
        agreed_NE = agreement(prompts, edits)
        lead_NE = self.module.sharpness * (agreed_NE - self.module.middle)
        owners, about = [place for place, *_ in asked], [one for _, one, _ in asked]
        terms = recall_losses(lead_NE, owners, about, [case.said for case in cases])
        if "other" in terms:
            terms["other"] = self._method.other_weight * terms["other"]
        return torch.stack(list(terms.values())).sum(), {name: float(term.detach()) for name, term in terms.items()}

    @torch.no_grad()
    def check(self) -> Check:
        """With all cases held out in force: the share of prompts that recall what they should, by kind, at the bar
        that is kept; and the loss as in a step."""
        edits = self._keys([case.request for case in self.held])
        right: dict[str, Tensor] = {}
        for kind in dict.fromkeys(kind for case in self.held for kind in case.probes):
            pairs = [(place, prompt) for place, case in enumerate(self.held) for prompt in case.probes.get(kind, ())]
            best_N, found_N = agreement(self._keys([prompt for _, prompt in pairs]), edits).cpu().max(-1)
            recalled_NB = best_N[:, None] >= BARS
            own_N1 = (found_N == torch.tensor([place for place, _ in pairs]))[:, None]
            right[kind] = recalled_NB & own_N1 if kind in self._method.learns else ~recalled_NB
        bar, score, shares = best_bar(right)
        self.module.bar.fill_(bar)
        loss, _ = self._losses(self.held, None)
        return Check(score, float(loss), shares)

    def _keys(self, prompts: Sequence[_Prompt], draw: torch.Generator | None = None) -> Keys:
        """The keys of prompts; with a draw some of what is seen is blanked."""
        words, visual = padded([one.words_KD for one in prompts]), padded([one.visual_SD for one in prompts])
        seen_NSD, share = visual[0], self._method.blank
        if draw is not None and share:
            blanked = torch.rand(seen_NSD.shape, generator=draw).to(seen_NSD.device) < share
            seen_NSD = seen_NSD.masked_fill(blanked, 0.0) / (1 - share)
        tensors = dict(self.module.reader.named_parameters())
        return keys_of(*words, seen_NSD, visual[1], tensors, self._method.heads)

    def _prepared(self, cases: Sequence[EditCase]) -> list[_Case]:
        return [made for at in range(0, len(cases), _AT_ONCE) for made in self._of_chunk(cases[at : at + _AT_ONCE])]

    def _of_chunk(self, cases: Sequence[EditCase]) -> list[_Case]:
        """Cases whose prompts are run together; of equal pictures the states are kept once."""
        wanted = {*self._method.learns, *self._method.keeps}
        probes = [[p for p in case.probes if p.kind in wanted and p.example.pictures] for case in cases]
        asked = [[case.request, *(p.example for p in some)] for case, some in zip(cases, probes, strict=True)]
        above = Above(self._vlm, self.layer)
        with self._vlm.sharing():
            prepared = self._vlm.prepare([example for some in asked for example in some])
            above.add(prepared)
        prompts = iter([_prompt(above, row) for row in prepared.rows])
        made: list[_Case] = []
        for case, some in zip(cases, probes, strict=True):
            request, groups = next(prompts), dict[str, list[_Prompt]]()
            for probe in some:
                groups.setdefault(probe.kind, []).append(next(prompts))
            made.append(_Case(request, groups, (case.rejected or "").strip().lower()))
        return made


def _prompt(above: Above, row: Row) -> _Prompt:
    words_KD, visual_SD = above.parted(row)
    return _Prompt(words_KD[: int((~row.visual_T).sum())].float(), visual_SD.float())
