"""Examples as a model's input: tokens, the places of visual tokens, and every picture once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from vlmend.errors import PartsError, PromptError
from vlmend.models.parts import NO_VISUAL_TOKENS
from vlmend.models.pictures import Pictures, identity, listed
from vlmend.models.prompts import Prompter
from vlmend.models.seen import Remembering, Seen

__all__ = ["Asked", "Batch", "Features", "Prepared", "Preparer", "Row", "Shared", "Told"]


_KNOWN = 256  # texts that are not tokenised again


class Asked(Protocol):
    """What can be asked: a question, perhaps with pictures, perhaps with its answer."""

    @property
    def question(self) -> str: ...
    @property
    def image(self) -> Pictures: ...
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
        picture: key of what the encoder gets (in ``Prepared.pictures``); ``None`` without a picture. For one picture
            it is its content hash; where the encoder reads the question too, the question's is added.
        extras: other tensors of the processor that go along the tokens, [T] or [T, ...].
        question: as it was asked, without the template.
        pictures: content hashes of its pictures, in their order.
        sizes: width and height of each, in pixels.
        asked: the example that it is.
        before: the text that operations put before the question (`telling.py`); it is no part of ``question``.
        opening: the text that they put in front of all, its pictures too; nor is that.
        opened: how many tokens a row has up to the end of that, with what the template writes before it.
        plain: of a row with such texts, the row without them.
        in_stream: whether its pictures are visual tokens; else layers look at them (`crossing.py`).
    """

    prompt: str
    ids_T: Tensor
    visual_T: Tensor
    target_N: Tensor
    answer_length: int
    picture: str | None
    extras: dict[str, Tensor]
    question: str = ""
    pictures: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    asked: Asked | None = None
    before: str = ""
    opening: str = ""
    opened: int = 0
    plain: Row | None = None
    in_stream: bool = True

    @property
    def visual(self) -> Tensor:
        """Places of its visual tokens, [S].

        Raises:
            PartsError: its pictures have none.
        """
        if self.pictures and not self.in_stream:
            raise PartsError(NO_VISUAL_TOKENS)
        return self.visual_T.nonzero().flatten()

    @property
    def content(self) -> str:
        """What its pictures are: their hashes, joined by "+"; empty without a picture."""
        return "+".join(self.pictures)


@dataclass(eq=False)
class Features:
    """Encoded pictures, by content hash, and the state of the weights that encoded them."""

    state: int = -1
    encoded: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(eq=False)
class Told:
    """Rows with texts before their questions, by the row (or the example) without them and the texts, and what rows are
    compared by, by the row and the state of the weights; these are held too, since they are known by their identity."""

    rows: dict[Any, tuple[Row, Row]] = field(default_factory=dict[Any, tuple[Row, Row]])
    prompts: dict[Any, tuple[Asked, Row]] = field(default_factory=dict[Any, tuple[Asked, Row]])
    pictures: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    keys: dict[tuple[int, int], tuple[Row, Tensor]] = field(default_factory=dict[tuple[int, int], tuple[Row, Tensor]])


@dataclass(frozen=True, eq=False)
class Prepared:
    """Examples ready to be run, in their order.

    ``pictures`` holds the processor's tensors of every distinct picture (or pictures of one row); ``features`` what the
    vision encoder made of them, and of which state of its weights that is; ``below`` what layers handed on in earlier
    runs of these rows (`resume.py`), ``begun`` what they begin with (`beginnings.py`), by the state of the weights, and
    ``told`` what they are with texts before their questions.
    """

    rows: tuple[Row, ...]
    pictures: dict[str, dict[str, Tensor]]
    features: Features = field(default_factory=lambda: Features())
    below: dict[Any, Any] = field(default_factory=dict[Any, Any])
    begun: dict[Any, dict[Any, Any]] = field(default_factory=dict[Any, dict[Any, Any]])
    told: Told = field(default_factory=lambda: Told())

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> Prepared:
        """Some of the rows; pictures and features are shared."""
        return replace(self, rows=tuple(self.rows[index] for index in indices))

    def joined(self, other: Prepared) -> Prepared:
        """The rows of both; nothing that was computed of either is kept with them."""
        return Prepared((*self.rows, *other.rows), self.pictures | other.pictures)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows padded to one length.

    Attributes:
        ids_BT, mask_BT: tokens, and where they are not padding.
        extras: as in `Row`, padded with zeros.
        pictures: keys of the rows that have pictures, in their order.
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
        in_stream: whether pictures become visual tokens.
    """

    def __init__(
        self, processor: Any, prompter: Prompter, image_token: int, ends: Sequence[int], in_stream: bool = True
    ) -> None:
        self._processor = Remembering(processor)
        self._tokenizer = processor.tokenizer
        self.traits = prompter.traits
        self._prompter = prompter
        self._image_token = image_token
        self._in_stream = in_stream
        self._ends = set(ends)
        self._encode = lru_cache(_KNOWN)(self._encoded)
        self._alone = lru_cache(_KNOWN)(lambda prompt: self.fields(prompt, [])["input_ids"][0])

    def prepare(self, examples: Sequence[Asked]) -> Prepared:
        """Tokenise examples; a question that several ask of a picture, with other answers, is processed once, and a
        picture is for all questions.

        Raises:
            PromptError: an empty question, or a picture that cannot be read or has no place in the prompt.
        """
        rows: list[Row] = []
        pictures: dict[str, dict[str, Tensor]] = {}
        known = Known()
        for example in examples:
            row, inputs = self.row_of(example, known)
            rows.append(row)
            if row.picture is not None:
                pictures.setdefault(row.picture, inputs)
        return Prepared(tuple(rows), pictures)

    def row_of(self, example: Asked, known: Known) -> tuple[Row, dict[str, Tensor]]:
        """As `row`; of a question of pictures that is known only the answer is new. What is not known is added."""
        key = (example.question, *map(identity, listed(example.image)))
        if key not in known.questions:
            known.questions[key] = self.row(example, known.pictures)
            return known.questions[key]
        row, inputs = known.questions[key]
        target, length = self._target(row.prompt, example.question, len(row.pictures), example.answer)
        return replace(row, target_N=target, answer_length=length, asked=example), inputs

    def row(self, example: Asked, seen: Seen | None = None) -> tuple[Row, dict[str, Tensor]]:
        """One example, and the processor's tensors of its pictures; of those that were ``seen`` nothing is new."""
        if not example.question:
            raise PromptError("an example has an empty question")
        opened = list(map((seen or Seen()).opened, listed(example.image)))
        pictures = [one.image for one in opened]
        prompt = self._prompter.prompt(example.question, len(pictures))
        fields = self.fields(prompt, pictures)
        ids = fields.pop("input_ids")
        fields.pop("attention_mask", None)
        traits = self.traits
        extras = {name: value[0] for name, value in fields.items() if traits.is_along(name, value, ids)}
        inputs = {name: value for name, value in fields.items() if name not in extras}
        extras = {name: torch.zeros_like(ids[0]) for name in traits.along} | extras
        visual = ids[0] == self._image_token
        if visual.any() != bool(pictures):
            raise PromptError(f"the prompt has {int(visual.sum())} visual tokens: {prompt!r}")
        target, length = self._target(prompt, example.question, len(pictures), example.answer)
        hashes = tuple(one.content for one in opened)
        key = _key(hashes, [value for name, value in inputs.items() if name.startswith(traits.second or ("\0",))])
        sizes = tuple(picture.size for picture in pictures)
        if not self._in_stream:
            visual = torch.zeros_like(visual)
        made = Row(prompt, ids[0], visual, target, length, key, extras, example.question, hashes, sizes, example)
        return replace(made, in_stream=self._in_stream), inputs

    def placed(self, question: str, pictures: int) -> str:
        """See `Prompter.placed`."""
        return self._prompter.placed(question, pictures)

    def opened(self, row: Row, text: str) -> int:
        """How many tokens a row has up to the end of a text that stands first in it: as many as do not depend on what
        follows. 0 where the prompt has it otherwise than it was given."""
        text = text.strip()
        end = row.prompt.find(text) + len(text)
        if end < len(text):
            return 0
        alone_T = self._alone(row.prompt[:end])
        count = min(len(alone_T), len(row.ids_T) - 1)
        same_T = (alone_T[:count] == row.ids_T[:count]) & ~row.visual_T[:count]
        return count if bool(same_T.all()) else int((~same_T).nonzero()[0])

    def fields(self, prompt: str, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """What the processor makes of one prompt, as tensors with a leading axis of 1.

        Raises:
            PromptError: the processor refuses the prompt or the pictures.
        """
        try:
            if not pictures:
                text = self._read(prompt)
                fields = self._tokenizer([text], return_tensors="pt", add_special_tokens=not self._opens_itself(text))
            else:
                fields = self._processor(
                    images=self.traits.images(pictures),
                    text=[prompt],
                    return_tensors="pt",
                    add_special_tokens=not self._opens_itself(prompt),
                )
        except (ValueError, ZeroDivisionError, StopIteration) as error:  # the last: transformers 5.20, pictures used up
            reason = " ".join(str(error).split()) or "it has more places for pictures than there are pictures"
            raise PromptError(f"the model's processor refuses {prompt!r}: {reason}") from error
        return {name: value for name, value in fields.items() if isinstance(value, Tensor) and name != "labels"}

    def _read(self, prompt: str) -> str:
        """A prompt with what the processor writes around it."""
        traits = self.traits
        return ("" if self._opens_itself(prompt) else traits.opening) + prompt + traits.closing

    def _opens_itself(self, prompt: str) -> bool:
        """Whether the prompt brings its own first special token, so that the tokenizer must not add another."""
        first = self._tokenizer.bos_token
        return first is not None and prompt.startswith(first)

    def answered(self, row: Row, answer: str) -> Tensor:
        """The target of the same prompt with another answer."""
        return self._target(row.prompt, row.question, len(row.pictures), answer)[0]

    def begun(self, row: Row, tokens: Sequence[int]) -> Row:
        """The row with an answer begun, as a longer prompt."""
        said_N = row.ids_T.new_tensor(list(tokens))
        ids_T = torch.cat([row.ids_T, said_N])
        return replace(
            row,
            prompt=row.prompt + self._tokenizer.decode(tokens),
            ids_T=ids_T,
            visual_T=torch.cat([row.visual_T, row.visual_T.new_zeros(len(said_N))]),
            target_N=row.target_N[:0],
            answer_length=0,
            extras={name: self._along(row, name, len(ids_T)) for name in row.extras},
        )

    def _target(self, prompt: str, question: str, pictures: int, text: str | None) -> tuple[Tensor, int]:
        """The tokens that follow the prompt, up to the first that ends the turn, and how many are the answer's."""
        text = (text or "").strip()
        if not text:
            return torch.empty(0, dtype=torch.long), 0
        spoken, closing = self._prompter.continuation(question, pictures, text)
        prompt = self._read(prompt)
        answer = self._continued(prompt, spoken)
        whole = self._continued(prompt, spoken + closing) if closing else answer
        length = next((i for i, (a, b) in enumerate(zip(answer, whole, strict=False)) if a != b), len(answer))
        end = next((i for i, token in enumerate(whole[length:], length) if token in self._ends), None)
        tail = whole[length : end + 1] if end is not None else [self._tokenizer.eos_token_id]
        return torch.tensor([*whole[:length], *tail]), length

    def _continued(self, prompt: str, text: str) -> list[int]:
        """Tokens of ``text`` after ``prompt``: as in one string where that leaves the prompt's tokens alone."""
        alone = self._encode(prompt)
        joined = self._encode(prompt + text)
        return list(joined[len(alone) :] if joined[: len(alone)] == alone else self._encode(text))

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def batch(self, rows: Sequence[Row], *, with_targets: bool, left: bool = True) -> Batch:
        """Pad rows on the left, or on the right, with their answers behind the prompts or without.

        Raises:
            PartsError: layers look at pictures, and the rows have unlike numbers of them (`crossing.py`).
        """
        if not self._in_stream and len({len(row.pictures) for row in rows}) > 1:
            raise PartsError("rows with unlike numbers of pictures cannot be one batch where layers look at them")
        ids = [torch.cat([row.ids_T, row.target_N]) if with_targets else row.ids_T for row in rows]
        names = {name for row in rows for name in row.extras}
        extras = {
            name: _padded([self._along(row, name, len(one)) for row, one in zip(rows, ids, strict=True)], 0, left)
            for name in names
        }
        return Batch(
            ids_BT=_padded(ids, self._tokenizer.pad_token_id or 0, left),
            mask_BT=_padded([torch.ones_like(one) for one in ids], 0, left),
            extras=extras,
            pictures=tuple(row.picture for row in rows if row.picture is not None),
        )

    def _along(self, row: Row, name: str, length: int) -> Tensor:
        """What the processor gave along a row's prompt, with its value for answers along the answer."""
        values = row.extras.get(name, torch.zeros_like(row.ids_T))
        if name in self.traits.looks:
            return torch.cat([values, values[-1:].expand(length - len(row.ids_T), *values.shape[1:])])
        answer = self.traits.along.get(name, 0)
        return torch.cat([values, values.new_full((length - len(row.ids_T),), answer)])


@dataclass(frozen=True, eq=False)
class Known:
    """What one preparation has come upon: questions of pictures with their rows, and pictures."""

    questions: dict[Any, tuple[Row, dict[str, Tensor]]] = field(default_factory=dict[Any, Any])
    pictures: Seen = field(default_factory=lambda: Seen())


@dataclass(frozen=True, eq=False)
class Shared:
    """What several preparations of the same examples have in common; see `VLM.sharing`."""

    rows: dict[Any, tuple[Asked, Row, dict[str, Tensor]]] = field(default_factory=dict[Any, Any])
    known: Known = field(default_factory=lambda: Known())
    features: Features = field(default_factory=lambda: Features())
    below: dict[Any, Any] = field(default_factory=dict[Any, Any])
    begun: dict[Any, dict[Any, Any]] = field(default_factory=dict[Any, dict[Any, Any]])
    told: Told = field(default_factory=lambda: Told())

    def prepare(self, preparer: Preparer, examples: Sequence[Asked]) -> Prepared:
        """As `Preparer.prepare`; an example that is equal to an earlier one is the same row."""
        found: list[tuple[Asked, Row, dict[str, Tensor]]] = []
        for example in examples:
            key = (example.question, example.answer, *map(identity, listed(example.image)))
            if key not in self.rows:  # the example keeps its picture's identity alive
                self.rows[key] = (example, *preparer.row_of(example, self.known))
            found.append(self.rows[key])
        pictures = {row.picture: inputs for _, row, inputs in found if row.picture is not None}
        rows = tuple(row for _, row, _ in found)
        return Prepared(rows, pictures, self.features, self.below, self.begun, self.told)


def _key(pictures: Sequence[str], read: Sequence[Tensor]) -> str | None:
    """What the encoder's output depends on: the pictures, and what it reads of the question."""
    if not pictures:
        return None
    words = [hashlib.blake2b(str(tensor.tolist()).encode(), digest_size=8).hexdigest() for tensor in read]
    return "+".join((*pictures, *words))


def _padded(rows: Sequence[Tensor], value: int, left: bool) -> Tensor:
    length = max(len(row) for row in rows)
    pairs = [(row.new_full((length - len(row), *row.shape[1:]), value), row) for row in rows]
    return torch.stack([torch.cat(pair if left else pair[::-1]) for pair in pairs])
