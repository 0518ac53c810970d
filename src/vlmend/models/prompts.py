"""How a question becomes the text that a model reads: its own chat template where there is one, else the bare words."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from vlmend.errors import PromptError
from vlmend.models.traits import Traits

__all__ = ["MARKER", "Prompter", "put_before"]

MARKER = "<image>"
"""Says in a question where a picture stands. Without markers, all pictures stand before the question."""

_KNOWN = 256  # texts that are not rendered again
_LEADING = re.compile(rf"(?:\s*{MARKER})*\s*")


def put_before(text: str, question: str) -> str:
    """The question with a text before its words; pictures that stand first stay there."""
    match = _LEADING.match(question)
    at = match.end() if match is not None and MARKER in match.group() else 0
    return question[:at] + text + question[at:]


class Prompter:
    """Writes prompts for one model.

    Args:
        processor: the model's processor.
        traits: how it writes pictures.
    """

    def __init__(self, processor: Any, traits: Traits) -> None:
        self.traits = traits
        self._processor = processor
        self._render = lru_cache(_KNOWN)(self._rendered)
        self._template = _template_owner(processor)
        # A template may put all pictures first, wherever they stand: then their places are written into the text.
        self._place = None if self._template is not processor else self._place_lost_by_template()

    def prompt(self, question: str, pictures: int) -> str:
        """Everything up to where the answer begins, for a question with so many pictures.

        Raises:
            PromptError: the question's markers do not fit its pictures, or the model cannot have them there.
        """
        if self._template is None:
            return self._plain(question, pictures)
        return self._render(question, pictures, None)

    def placed(self, question: str, pictures: int) -> str:
        """The question with its pictures' places written into it, so that words can stand before them.

        Raises:
            PromptError: the model has its picture before all words.
        """
        if pictures and MARKER not in question:
            if not self.traits.mark and self._template is not self._processor:
                raise PromptError("this model takes its picture before all words: no text can stand before that")
            gap = "" if self._template is self._processor else self.traits.gap
            return (MARKER + gap) * pictures + question
        return question

    def continuation(self, question: str, pictures: int, answer: str) -> tuple[str, str]:
        """What follows the prompt when the model gives ``answer``: up to its last word, and what closes the turn."""
        if self._template is not None:
            prompt = self._render(question, pictures, None)
            whole = self._render(question, pictures, answer)
            rest = whole.removeprefix(prompt)
            at = rest.find(answer)
            if whole.startswith(prompt) and at >= 0:
                end = at + len(answer)
                return rest[:end], rest[end:]
            return answer, ""
        return (answer if self.traits.closing[-1:].isspace() else f" {answer}"), ""

    def _pieces(self, question: str, pictures: int) -> list[str]:
        """The text before, between and after the pictures."""
        pieces = question.split(MARKER)
        if len(pieces) == 1:
            pieces = [""] * pictures + [question]
        if len(pieces) != pictures + 1:
            raise PromptError(
                f"{pictures} picture(s) were given for {len(pieces) - 1} {MARKER} marker(s) in {question!r}"
            )
        if pictures > 1 and not self.traits.several:
            raise PromptError(f"this model takes one picture with a question, not {pictures}")
        mark = self.traits.mark
        if mark and any(mark in piece for piece in pieces):
            raise PromptError(
                f"the question has {mark!r} in it, which this model reads as a picture; write {MARKER}: {question!r}"
            )
        return pieces

    def _plain(self, question: str, pictures: int) -> str:
        pieces = self._pieces(question, pictures)
        mark, gap = self.traits.mark, self.traits.gap
        if not pictures or not mark:
            if pictures and pieces[0].strip():
                raise PromptError(f"this model takes its picture before the question, not inside of it: {question!r}")
            return pieces[-1] if len(pieces[-1].strip()) else question
        return mark.join(pieces) if MARKER in question else (mark + gap) * pictures + question

    def _rendered(self, question: str, pictures: int, answer: str | None) -> str:
        """One turn through the chat template, opened for the answer where none is given."""
        answered: Any = answer
        if self._template is self._processor:
            asked: Any = self._content(question, pictures)
            answered = [_text(answer or "")]
        else:
            asked = self._plain(question, pictures)
        messages = [{"role": "user", "content": asked}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answered})
        return self._templated(messages, answer is None)

    def _content(self, question: str, pictures: int) -> list[dict[str, str]]:
        pieces = self._pieces(question, pictures)
        if self._place is not None and any(pieces[:-1]):
            return [_text(self._place.join(pieces))]
        texts = [[_text(piece)] if piece else [] for piece in pieces]
        images = [[{"type": "image"}]] * pictures
        return [item for pair in zip_longest(texts, images, fillvalue=[]) for some in pair for item in some]

    def _templated(self, messages: list[dict[str, Any]], opened: bool) -> str:
        return self._template.apply_chat_template(messages, add_generation_prompt=opened, tokenize=False)

    def _place_lost_by_template(self) -> str | None:
        """What the template writes for a picture, if it does not leave pictures where they stand; else ``None``."""

        def rendered(*content: dict[str, str]) -> str:
            return self._templated([{"role": "user", "content": list(content)}], True)

        before, picture, after = _text("before"), {"type": "image"}, _text("after")
        between = rendered(before, picture, after).partition("before")[2].partition("after")[0]
        if between != rendered(before, after).partition("before")[2].partition("after")[0]:
            return None
        with_picture, without = rendered(picture, after), rendered(after)
        lead = next((i for i, (a, b) in enumerate(zip(with_picture, without, strict=False)) if a != b), len(without))
        size = len(with_picture) - len(without)
        # What follows may begin as the picture's place does ("<image><user>"): of all such parts that with its mark.
        starts = [at for at in range(lead, -1, -1) if with_picture[:at] + with_picture[at + size :] == without]
        found = [with_picture[at : at + size] for at in starts or [lead]]
        return next((one for one in found if self.traits.mark and self.traits.mark in one), found[0])


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _template_owner(processor: Any) -> Any:
    """Who has the chat template: the processor, else its tokenizer, else nobody."""
    for owner in (processor, processor.tokenizer):
        if getattr(owner, "chat_template", None):
            return owner
    return None
