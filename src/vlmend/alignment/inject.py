"""Errors written into a good answer (BPO, arXiv 2403.08730): by a language model that is told to, or by another word.

A chat model rewrites: the VLM's own language model without the picture, an endpoint, or a model in a folder. There are
two tasks: a description is written again with wrong details, a question is answered for another picture. Models that
cannot follow such a task resample: the answer is cut before a word that can be checked, the language model goes on
without the picture, and what it says instead of that word takes its place.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from vlmend.alignment.checkable import Checkable, Claim
from vlmend.data.records import Example
from vlmend.errors import UnknownNameError
from vlmend.models.chat import Chat, Said
from vlmend.models.prepared import Row
from vlmend.models.prompts import MARKER
from vlmend.models.sampling import Draws
from vlmend.models.vlm import VLM

__all__ = ["DESCRIPTION_WORDS", "MODES", "TASKS", "Injector", "Mode", "Resampler", "Rewriter", "mode_of"]

Mode = Literal["auto", "description", "question"]
MODES: tuple[Mode, ...] = ("auto", "description", "question")

DESCRIPTION_WORDS = 12
"""An answer of at least so many words is a description, where it is not said what answers are."""

TASKS: Mapping[str, str] = {
    "description": (
        "Here is a true description of a picture. Write it again as somebody would who has not looked well: in one or "
        "two places it is now wrong. You may exchange an object for another that is often seen in such a place, add "
        "one, leave one out, or give one another colour, number, size, shape or position. What you write must be "
        "possible and usual. Keep everything else word for word, and keep the length. Reply with the description "
        "alone, without remarks.\n\nDescription: {answer}"
    ),
    "question": (
        "Here is a question about a picture, and the right answer. Write a wrong answer that would be right for a "
        "picture much like it. Keep the form and the length of the right answer, and reply with the wrong one alone.\n"
        "Question: What room is this? Right: A kitchen. Wrong: A dining room.\n"
        "Question: What colour is the bicycle? Right: It is green. Wrong: It is blue.\n"
        "Question: Where does the dog lie? Right: Under the table. Wrong: Beside the table.\n"
        "Question: How many boats are there? Right: Three boats. Wrong: Four boats.\n"
        "Question: Is anyone wearing a hat? Right: Yes, one man is. Wrong: No, nobody is.\n"
        "Question: What time does the clock show? Right: Ten past two. Wrong: Ten past four.\n"
        "Question: {question} Right: {answer} Wrong:"
    ),
}
"""What a chat model is told, by the kind of answer."""

NOTHING_TO_CHANGE = "nothing in it can be checked"
NOTHING_ELSE = "nothing else is said in its place"

_LABEL = re.compile(r"\A(?:description|answer|wrong(?: answer)?)\s*:\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "'": "'"}
_AHEAD = 3  # words before the new one that are taken along, such as an adjective
_SPOKEN = 12  # tokens that are said to find the new word
_ARTICLE = re.compile(r"\b(a|an)(\s+)\Z", re.IGNORECASE)


class Injector(Protocol):
    """Writes errors into good answers."""

    @property
    def name(self) -> str:
        """How it does."""
        ...

    @property
    def at_once(self) -> int:
        """How many answers it is best given together."""
        ...

    def worse(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Said]:
        """A worse answer for each, or why there is none; not checked yet.

        Raises:
            VlmendError: none can be had now.
        """
        ...


def mode_of(mode: Mode, answer: str) -> str:
    """Which of `TASKS` an answer is.

    Raises:
        UnknownNameError: there is no such mode.
    """
    if mode not in MODES:
        raise UnknownNameError("kind of answer", mode, MODES)
    if mode != "auto":
        return mode
    return "description" if len(answer.split()) >= DESCRIPTION_WORDS else "question"


@dataclass(frozen=True)
class Rewriter:
    """Tells a chat model to.

    Attributes:
        chat: whom.
        mode: what answers are.
    """

    chat: Chat
    mode: Mode = "auto"

    @property
    def name(self) -> str:
        return f"rewritten by {self.chat.name}"

    @property
    def at_once(self) -> int:
        return self.chat.at_once

    def worse(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Said]:
        """What the chat model writes, without labels and quotation marks around it."""
        tasks = [
            TASKS[mode_of(self.mode, one.answer or "")].format(
                question=one.question.replace(MARKER, " ").strip(), answer=one.answer
            )
            for one in examples
        ]
        said = self.chat.replies(tasks, seeds)
        return [one if one.text is None else Said(_bare(one.text)) for one in said]


def _bare(text: str) -> str:
    text = _LABEL.sub("", text.strip()).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text


@dataclass(frozen=True)
class Resampler:
    """Lets the language model, without the picture, say another word than one that can be checked.

    Attributes:
        vlm: whose language model.
        checkable: finds such words.
        rest: what stands behind the new word: the good answer's rest ("kept"), or what the model goes on with ("said").
        tries: how often another word is looked for.
        temperature: of the draws.
        max_new_tokens: longest rest, where that is said.
    """

    vlm: VLM
    checkable: Checkable
    rest: Literal["kept", "said"] = "kept"
    tries: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 256

    @property
    def name(self) -> str:
        return f"resampled, the rest {self.rest}"

    @property
    def at_once(self) -> int:
        return self.vlm.batch_rows

    def worse(self, examples: Sequence[Example], seeds: Sequence[int]) -> list[Said]:
        """The good answers with another word each."""
        found: list[Said] = [Said(None, NOTHING_TO_CHANGE)] * len(examples)
        cut: dict[int, tuple[str, Claim]] = {}
        for index, (example, seed) in enumerate(zip(examples, seeds, strict=True)):
            answer = (example.answer or "").strip()
            if claims := self.checkable.claims(answer):
                cut[index] = answer, random.Random(f"{seed}/word").choice(claims)
        if not cut:
            return found
        blind = [
            replace(examples[index], question=examples[index].question.replace(MARKER, " ").strip(), image=None)
            for index in cut
        ]
        prepared = self.vlm.prepare(blind)
        rows = {
            index: self._begun(row, answer, claim)
            for row, (index, (answer, claim)) in zip(prepared.rows, cut.items(), strict=True)
        }
        most = self.max_new_tokens if self.rest == "said" else _SPOKEN
        for attempt in range(self.tries):
            if not rows:
                break
            some = list(rows)
            draws = Draws(tuple(_mixed(seeds[index], attempt) for index in some), self.temperature)
            batch = replace(prepared, rows=tuple(rows[index] for index in some))
            for index, said in zip(some, self.vlm.replies(batch, max_new_tokens=most, sampling=draws), strict=True):
                text = self._spliced(*cut[index], said.text)
                found[index] = Said(text, NOTHING_ELSE if text is None else "")
                if text is not None:
                    del rows[index]
        return found

    def _begun(self, row: Row, answer: str, claim: Claim) -> Row:
        """The row with the answer begun, up to the claim; tokens that reach into it are left out."""
        tokens = row.target_N[: row.answer_length].tolist()
        wanted = _letters(answer[: claim.start])
        count = next(
            (n for n in range(len(tokens), 0, -1) if _letters(self.vlm.tokenizer.decode(tokens[:n])) <= wanted), 0
        )
        return self.vlm.going_on(row, tokens[:count])

    def _spliced(self, answer: str, claim: Claim, said: str) -> str | None:
        """The answer with what was said up to its first claim of that kind; ``None`` where that says nothing new."""
        known = self.checkable.facts(answer)
        new = next((one for one in self.checkable.claims(said) if one.kind == claim.kind), None)
        if new is None or (new.kind, new.name) in known or len(said[: new.start].split()) > _AHEAD:
            return None
        before = _ARTICLE.sub(lambda article: _article(article, said), answer[: claim.start])
        if self.rest == "said":
            return before + said
        return before + said[: new.end] + answer[claim.end :]


def _article(found: re.Match[str], word: str) -> str:
    right = "an" if word[:1].lower() in "aeiou" else "a"
    return (right.capitalize() if found[1][0].isupper() else right) + found[2]


def _letters(text: str) -> int:
    """How long a text is without spaces, which tokenizers do not give back."""
    return len("".join(text.split()))


def _mixed(seed: int, attempt: int) -> int:
    return random.Random(f"{seed}/{attempt}").getrandbits(48)
