"""Examples as a model's input: tokens, the places of visual tokens, and every picture once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from vlmend.errors import PromptError
from vlmend.models.pictures import content_hash, open_picture
from vlmend.models.prompts import Prompter

__all__ = ["Asked", "Batch", "Features", "Prepared", "Preparer", "Row"]


class Asked(Protocol):
    """What can be asked: a question, perhaps with a picture, perhaps with its answer."""

    @property
    def question(self) -> str: ...
    @property
    def image(self) -> Path | Image.Image | None: ...
    @property
    def answer(self) -> str | None: ...


@dataclass(frozen=True, eq=False)
class Row:
    """One example's tokens.

    Attributes:
        prompt: what the model reads before it answers.
        ids_T: its tokens; every visual token has its own place in it.
        visual_T: which of them are visual tokens.
        target_N: the answer's tokens and what closes the turn; empty where there is no answer.
        answer_length: how many of them are the answer's.
        picture: content hash of its picture; ``None`` without one.
        extras: other tensors of the processor that go along the tokens.
        question: as it was asked, without the template.
    """

    prompt: str
    ids_T: Tensor
    visual_T: Tensor
    target_N: Tensor
    answer_length: int
    picture: str | None
    extras: dict[str, Tensor]
    question: str = ""


@dataclass(eq=False)
class Features:
    """Encoded pictures, by content hash, and the state of the weights that encoded them."""

    state: int = -1
    encoded: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class Prepared:
    """Examples ready to be run, in their order.

    ``pictures`` holds the processor's tensors of every distinct picture; ``features`` what the vision encoder made of
    them, and of which state of its weights that is; ``below`` what layers handed on in earlier runs of these rows
    (`resume.py`).
    """

    rows: tuple[Row, ...]
    pictures: dict[str, dict[str, Tensor]]
    features: Features = field(default_factory=lambda: Features())
    below: dict[Any, Any] = field(default_factory=dict[Any, Any])

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> Prepared:
        """Some of the rows; pictures and features are shared."""
        return replace(self, rows=tuple(self.rows[index] for index in indices))


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows padded on the left to one length.

    Attributes:
        ids_BT, mask_BT: tokens, and where they are not padding.
        extras: as in `Row`, padded with zeros.
        pictures: the pictures of the rows that have one, in their order.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    extras: dict[str, Tensor]
    pictures: tuple[str, ...]


class Preparer:
    """Turns examples into rows for one model.

    Args:
        processor: the model's processor.
        prompter: writes its prompts.
        image_token: id of a visual token.
        ends: ids of the tokens that end an answer.
    """

    def __init__(self, processor: Any, prompter: Prompter, image_token: int, ends: Sequence[int]) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._prompter = prompter
        self._image_token = image_token
        self._ends = set(ends)

    def prepare(self, examples: Sequence[Asked]) -> Prepared:
        """Tokenise examples; a picture that several share is processed for each but kept once.

        Raises:
            PromptError: an empty question, or a picture that cannot be read or has no place in the prompt.
        """
        rows: list[Row] = []
        pictures: dict[str, dict[str, Tensor]] = {}
        for example in examples:
            row, inputs = self._row(example)
            rows.append(row)
            if row.picture is not None:
                pictures.setdefault(row.picture, inputs)
        return Prepared(tuple(rows), pictures)

    def _row(self, example: Asked) -> tuple[Row, dict[str, Tensor]]:
        if not example.question:
            raise PromptError("an example has an empty question")
        picture = None if example.image is None else open_picture(example.image)
        prompt = self._prompter.prompt(example.question, picture is not None)
        fields = self.fields(prompt, picture)
        ids = fields.pop("input_ids")
        fields.pop("attention_mask", None)
        extras = {name: value[0] for name, value in fields.items() if value.shape == ids.shape}
        inputs = {name: value for name, value in fields.items() if name not in extras}
        visual = ids[0] == self._image_token
        if visual.any() != (picture is not None):
            raise PromptError(f"the prompt has {int(visual.sum())} visual tokens: {prompt!r}")
        target, length = self._target(prompt, example.question, picture is not None, example.answer)
        key = None if picture is None else content_hash(picture)
        return Row(prompt, ids[0], visual, target, length, key, extras, example.question), inputs

    def fields(self, prompt: str, picture: Image.Image | None) -> dict[str, Tensor]:
        """What the processor makes of one prompt, as tensors with a leading axis of 1.

        Raises:
            PromptError: the processor refuses the prompt or the picture.
        """
        settings: Any = {"return_tensors": "pt", "add_special_tokens": not self._opens_itself(prompt)}
        try:
            if picture is None:
                fields = self._tokenizer([prompt], **settings)
            else:
                fields = self._processor(images=[picture], text=[prompt], **settings)
        except (ValueError, ZeroDivisionError) as error:
            raise PromptError(f"the model's processor refuses {prompt!r}: {' '.join(str(error).split())}") from error
        return {name: value for name, value in fields.items() if isinstance(value, Tensor) and name != "labels"}

    def _opens_itself(self, prompt: str) -> bool:
        """Whether the prompt brings its own first special token, so that the tokenizer must not add another."""
        first = self._tokenizer.bos_token
        return first is not None and prompt.startswith(first)

    def answered(self, row: Row, answer: str) -> Tensor:
        """The target of the same prompt with another answer."""
        return self._target(row.prompt, row.question, row.picture is not None, answer)[0]

    def _target(self, prompt: str, question: str, has_picture: bool, text: str | None) -> tuple[Tensor, int]:
        """The tokens that follow the prompt, up to the first that ends the turn, and how many are the answer's."""
        text = (text or "").strip()
        if not text:
            return torch.empty(0, dtype=torch.long), 0
        spoken, closing = self._prompter.continuation(question, has_picture, text)
        answer = self._continued(prompt, spoken)
        whole = self._continued(prompt, spoken + closing) if closing else answer
        length = next((i for i, (a, b) in enumerate(zip(answer, whole, strict=False)) if a != b), len(answer))
        end = next((i for i, token in enumerate(whole[length:], length) if token in self._ends), None)
        tail = whole[length : end + 1] if end is not None else [self._tokenizer.eos_token_id]
        return torch.tensor([*whole[:length], *tail]), length

    def _continued(self, prompt: str, text: str) -> list[int]:
        """Tokens of ``text`` after ``prompt``: as in one string where that leaves the prompt's tokens alone."""
        encode = self._tokenizer.encode
        alone = encode(prompt, add_special_tokens=False)
        joined = encode(prompt + text, add_special_tokens=False)
        if joined[: len(alone)] == alone:
            return joined[len(alone) :]
        return encode(text, add_special_tokens=False)

    def batch(self, rows: Sequence[Row], *, with_targets: bool) -> Batch:
        """Pad rows on the left, with their answers behind the prompts or without."""
        ids = [torch.cat([row.ids_T, row.target_N]) if with_targets else row.ids_T for row in rows]
        names = {name for row in rows for name in row.extras}
        extras = {
            name: _left_padded([_along(row, name, len(one)) for row, one in zip(rows, ids, strict=True)], 0)
            for name in names
        }
        return Batch(
            ids_BT=_left_padded(ids, self._tokenizer.pad_token_id or 0),
            mask_BT=_left_padded([torch.ones_like(one) for one in ids], 0),
            extras=extras,
            pictures=tuple(row.picture for row in rows if row.picture is not None),
        )


def _along(row: Row, name: str, length: int) -> Tensor:
    """What the processor gave along a row's prompt, with zeros along its answer."""
    values = row.extras.get(name, torch.zeros_like(row.ids_T))
    return torch.cat([values, values.new_zeros(length - len(row.ids_T))])


def _left_padded(rows: Sequence[Tensor], value: int) -> Tensor:
    length = max(len(row) for row in rows)
    return torch.stack([torch.cat([row.new_full((length - len(row),), value), row]) for row in rows])
