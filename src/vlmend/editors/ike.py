"""ike: in-context knowledge editing, a model that is told the fact before every question, and shown how to heed it.

Zheng et al., *Can We Edit Factual Knowledge by In-Context Learning?*, EMNLP 2023, arXiv 2305.12740, section 4, as
MMEdit (arXiv 2310.08475) uses it. No weight changes. Before the question stand k demonstrations made of other edits,
the likest last, and the new fact:

    copy      New Fact: q a    Prompt: q     a      the fact itself
    update    New Fact: q a    Prompt: q'    a      q in other words
    retain    New Fact: q a    Prompt: q"    a"     a question that it has nothing to do with

in the proportions 1 : 3 : 4 of the paper (section 4.2). Three things are not as in MMEdit's published code, which
takes the k likest of all sentences by their text: demonstrations are found by question *and* picture, by the model's
own features; every text is embedded once; and an edit is never demonstrated by itself, neither by a record with its
picture nor by one with its question and answer.

With ``layout="demonstrations-first"`` the demonstrations stand ahead of the picture, and nothing in them depends on
what is asked: they are run once for all that is asked under the edit. The picture then stands next to the fact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, cycle
from math import inf
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.data.formats import read
from vlmend.data.records import TEXT_GENERALITY, TEXT_LOCALITY, EditCase, Example
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.settings import Size
from vlmend.edits.edit import Edit
from vlmend.edits.prompts import RecallOp
from vlmend.errors import EditError, PromptError
from vlmend.models.prompts import MARKER
from vlmend.models.verify import sample
from vlmend.models.vlm import VLM

__all__ = ["IKE", "Pool", "demonstrated"]

_AT_ONCE = 32
_SPARE = 64  # tokens that are left for longer questions, and for the answer
_KINDS = ("copy", "update", "retain")


@dataclass(frozen=True)
class IKE:
    """In-context knowledge editing as an editor.

    Attributes:
        demonstrations: a file of cases, other than those that are edited, which demonstrations are made of; without one
            the fact is told alone.
        count: k, how many demonstrations stand before a question, if the model has room for so many.
        shares: how many of them copy, update and retain, in proportion.
        features: what likeness is told by: "own", the model's own features of question and picture, or
            "sentence-transformers", those of the fact's words.
        encoder: with the latter, folder or hub id of the sentence encoder.
        layout: "image-first" (as published), or "demonstrations-first".
        fact, prompt: how a fact is told, with places for {question} and {answer}, and what stands before a question.
    """

    name: ClassVar[str] = "ike"

    demonstrations: str = ""
    count: Size = 32
    shares: tuple[int, int, int] = (1, 3, 4)
    features: Literal["own", "sentence-transformers"] = "own"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    layout: Literal["image-first", "demonstrations-first"] = "image-first"
    fact: str = "New Fact: {question} {answer}\n"
    prompt: str = "Prompt: "

    @torch.no_grad()
    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Find demonstrations, and write what is told; the model is left as it was.

        Of several edits the one is told of whose question and picture are likest to what is asked.

        Raises:
            EditError: there are no cases, a request has no target, a setting is none that is known, there are no
                demonstrations at the place that is named, the sentence encoder is not installed, or the layout is
                none for this model.
            DataError: the demonstrations cannot be read.
        """
        check_cases(cases)
        self._check()
        pool = self._pool(vlm)
        asked = vlm.prepare([case.request for case in cases])
        facts = [self._told(case.request) for case in cases]
        taken = [len(row.ids_T) + _tokens(vlm, fact + self.prompt) for row, fact in zip(asked.rows, facts, strict=True)]
        shown = ["".join(self._shown(vlm, pool, case, count)) for case, count in zip(cases, taken, strict=True)]
        keys_E2D = vlm.keys(asked)
        openings: tuple[str, ...] = ()
        if self.layout == "demonstrations-first" and any(shown):
            self._check_layout(vlm, next(filter(None, shown)))
            openings = tuple(shown)
        else:
            facts = [a + b for a, b in zip(shown, facts, strict=True)]
        told = RecallOp(tuple(facts), keys_E2D, top=1, lead=self.prompt, openings=openings)
        return edit_of(self, vlm, cases, [told])

    def _check(self) -> None:
        known = {"layout": ("image-first", "demonstrations-first"), "features": tuple(_FEATURES)}
        for setting, values in known.items():
            if (given := getattr(self, setting)) not in values:
                raise EditError(f"{setting} of ike is {' or '.join(map(repr, values))}, not {given!r}")
        if self.count < 1 or len(self.shares) != len(_KINDS) or min(self.shares) < 0 or not any(self.shares):
            raise EditError("count of ike is at least 1, and shares are three numbers, not all of them 0")
        if "{answer}" not in self.fact:
            raise EditError(f"fact of ike must have a place for the {{answer}}: {self.fact!r}")

    def _check_layout(self, vlm: VLM, shown: str) -> None:
        """With a picture, whatever the requests have: what is told stands before all questions."""
        try:
            vlm.prepare([Example(shown + MARKER + sample().question, sample().image)])
        except PromptError as error:
            raise EditError(
                "this model takes its picture before all words: layout=demonstrations-first is not for it, "
                "layout=image-first is"
            ) from error

    def _told(self, example: Example) -> str:
        """A fact, as it is told."""
        question = " ".join(example.question.replace(MARKER, " ").split())
        try:
            return self.fact.format(question=question, answer=(example.answer or "").strip())
        except (KeyError, IndexError, ValueError) as error:
            raise EditError(f"fact of ike has places for {{question}} and {{answer}} alone: {self.fact!r}") from error

    def _shown(self, vlm: VLM, pool: Pool | None, case: EditCase, taken: int) -> list[str]:
        """Demonstrations for one edit whose prompt has so many tokens without them, the likest last: as many as there
        is room for.

        Raises:
            EditError: there is room for none.
        """
        if pool is None:
            return []
        key_D = _FEATURES[self.features](self, vlm, [case])[0]
        own = set(vlm.prepare([case.request]).rows[0].pictures)
        likest = (pool.keys_ED @ key_D).argsort(descending=True, stable=True).tolist()
        others = [at for at in likest if not pool.shows(at, case, own)][: self.count]
        texts = [
            self._demonstration(pool.cases[at], kind) for at, kind in zip(others, _turns(self.shares), strict=False)
        ]
        room = inf if vlm.longest is None else vlm.longest - taken - _SPARE
        ends = accumulate(_tokens(vlm, text) for text in texts)
        fitting = [text for text, end in zip(texts, ends, strict=True) if end <= room]
        if texts and not fitting:
            raise EditError(
                f"case '{case.id}' takes {taken} of the {vlm.longest} tokens that the model is made for: there is no "
                "room for a demonstration; tell the fact alone, without demonstrations"
            )
        return fitting[::-1]

    def _demonstration(self, case: EditCase, kind: str) -> str:
        """The text of one."""
        asked = demonstrated(case, kind)
        question = " ".join(asked.question.replace(MARKER, " ").split())
        return f"{self._told(case.request)}{self.prompt}{question} {(asked.answer or '').strip()}\n\n"

    def _pool(self, vlm: VLM) -> Pool | None:
        """What demonstrations are made of, embedded once for a model and the edits in force."""
        if not self.demonstrations:
            return None
        place = (vlm.fingerprint, vlm.active_edits)
        if place not in self._pools:
            cases = read(self.demonstrations)
            parts = [cases[at : at + _AT_ONCE] for at in range(0, len(cases), _AT_ONCE)]
            keys_ED = torch.cat([_FEATURES[self.features](self, vlm, part) for part in parts])
            pictures = [frozenset(row.pictures) for row in vlm.prepare([case.request for case in cases]).rows]
            self._pools[place] = Pool(tuple(cases), tuple(pictures), keys_ED)
        return self._pools[place]

    @cached_property
    def _pools(self) -> dict[Any, Pool]:
        return {}

    @cached_property
    def _sentences(self) -> Any:
        try:
            from sentence_transformers import (  # pyright: ignore[reportMissingImports]
                SentenceTransformer,  # pyright: ignore[reportUnknownVariableType]
            )
        except ImportError as error:
            raise EditError(
                "features=sentence-transformers needs a package that is not there: pip install sentence-transformers"
            ) from error
        return SentenceTransformer(self.encoder)

    def own_features(self, vlm: VLM, cases: Sequence[EditCase]) -> Tensor:
        """By the model's own embeddings of question and picture (`VLM.keys`), [E, 2 D]; a product is the sum of two
        cosines."""
        return vlm.keys(vlm.prepare([case.request for case in cases])).flatten(1)

    def sentence_features(self, vlm: VLM, cases: Sequence[EditCase]) -> Tensor:
        """By a sentence encoder of the copying demonstration, as published, [E, D]."""
        asked = [case.request for case in cases]
        texts = [f"{self._told(one)}{self.prompt}{one.question} {one.answer}" for one in asked]
        return functional.normalize(torch.as_tensor(self._sentences.encode(texts)).float(), dim=-1)


_FEATURES: Mapping[str, Callable[[IKE, VLM, Sequence[EditCase]], Tensor]] = {
    "own": IKE.own_features,
    "sentence-transformers": IKE.sentence_features,
}


@dataclass(frozen=True, eq=False)
class Pool:
    """Cases that demonstrations are made of.

    Attributes:
        cases: which.
        pictures: content hashes of each one's pictures.
        keys_ED: what each is found by.
    """

    cases: tuple[EditCase, ...]
    pictures: tuple[frozenset[str], ...]
    keys_ED: Tensor

    def shows(self, at: int, case: EditCase, pictures: set[str]) -> bool:
        """Whether one of the cases is the edit itself, or of its picture: its demonstration would give the answer."""
        mine, other = case.request, self.cases[at].request
        same = (_plain(mine.question), _plain(mine.answer)) == (_plain(other.question), _plain(other.answer))
        return same or bool(pictures & self.pictures[at])


def demonstrated(case: EditCase, kind: str) -> Example:
    """What a demonstration of one kind asks, with its answer: the request itself where the case has no such probe."""
    probes = {"update": case.probes_of(TEXT_GENERALITY), "retain": case.probes_of(TEXT_LOCALITY)}.get(kind, ())
    return next((probe.example for probe in probes if probe.example.answer), case.request)


def _turns(shares: Sequence[int]) -> Iterator[str]:
    """Kinds in their proportions, spread evenly: of the first n each has its share, but for one."""
    total = sum(shares)
    order: list[str] = []
    for turn in range(1, total + 1):
        behind = [share * turn / total - order.count(kind) for kind, share in zip(_KINDS, shares, strict=True)]
        order.append(_KINDS[behind.index(max(behind))])
    return cycle(order)


def _tokens(vlm: VLM, text: str) -> int:
    return len(vlm.tokenizer.encode(text, add_special_tokens=False))


def _plain(text: str | None) -> str:
    return " ".join((text or "").lower().split())
