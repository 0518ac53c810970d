"""How a processor writes pictures into a text, seen from what it does with a few words and a grey square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

__all__ = ["Traits", "probe"]

_WORDS = "what"
_MORE_WORDS = "what is it and where is it"
_SQUARE = Image.new("RGB", (64, 64), (128, 128, 128))


@dataclass(frozen=True)
class Traits:
    """What is particular to one processor.

    Attributes:
        mark: what stands for a picture in a text; empty where the processor puts the place of its one picture in
            front by itself.
        gap: what is written between the marks and a question that follows them.
        several: whether a text may have several pictures.
        nested: whether they are given as one list for each text.
        opening, closing: what the processor writes around the words when there is a picture (PaliGemma's new line).
        along: the fields that go along the tokens, and the value of each along an answer.
        second: how the names of fields begin that a second reader of the text takes (a Q-Former).
        looks: the fields with more than one number for each token, which say what of the pictures it may look at; an
            answer may look at what the prompt's last token may.
    """

    mark: str
    gap: str = "\n"
    several: bool = False
    nested: bool = False
    opening: str = ""
    closing: str = ""
    along: dict[str, int] = field(default_factory=dict[str, int])
    second: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()

    def images(self, pictures: Sequence[Image.Image]) -> list[Any]:
        """The pictures of one text, as the processor wants them."""
        return [list(pictures)] if self.nested and len(pictures) > 1 else list(pictures)

    def is_along(self, name: str, value: Tensor, ids: Tensor) -> bool:
        """Whether a field goes along the tokens."""
        return name in self.looks or (value.shape == ids.shape and not name.startswith(self.second or ("\0",)))


def probe(processor: Any, image_token: int) -> Traits:
    """Try a processor out.

    Args:
        processor: a transformers processor.
        image_token: id of a visual token.
    """

    def visual(text: str, images: list[Any]) -> int:
        return _count(_fields(processor, text, images), image_token)

    inserted = visual(_WORDS, [_SQUARE])
    marks = _marks(processor, image_token)
    fitting = [mark for mark in marks if (seen := visual(mark + _WORDS, [_SQUARE])) and seen == (inserted or seen)]
    second = tuple(name.removesuffix("tokenizer") for name in processor.get_attributes() if name.endswith("_tokenizer"))
    if not fitting:
        return Traits("" if inserted else marks[0], second=second)
    mark = fitting[0]

    def grows(nested: bool) -> bool:
        """Whether three pictures have more visual tokens than two: a processor may overlook all but the first."""
        counts = [visual(mark * n + _WORDS, [[_SQUARE] * n] if nested else [_SQUARE] * n) for n in (2, 3)]
        return 0 < counts[0] < counts[1]

    nested = grows(True)
    fields = _fields(processor, mark + _WORDS, [_SQUARE])
    opening, closing = _around(processor, fields, image_token)
    return Traits(
        mark=mark,
        gap="" if inserted else "\n",
        several=nested or grows(False),
        nested=nested,
        opening=opening,
        closing=closing,
        along=_along(processor, mark, fields, second),
        second=second,
        looks=_looks(fields, lambda: _fields(processor, mark + _MORE_WORDS, [_SQUARE])),
    )


def _marks(processor: Any, image_token: int) -> list[str]:
    """What may stand for a picture in a text: Gemma 3 writes another token than that which the picture becomes."""
    named = [getattr(processor, name, None) for name in ("image_token", "boi_token")]
    own = processor.tokenizer.convert_ids_to_tokens(image_token)
    return list(dict.fromkeys(str(mark) for mark in (*named, own) if mark is not None))


def _fields(processor: Any, text: str, images: list[Any], **more: Any) -> dict[str, Any]:
    """What the processor makes of one text; nothing where it refuses it."""
    try:
        return dict(processor(images=images, text=[text], return_tensors="pt", **more))
    except Exception:  # a processor may refuse what it cannot do in any way
        return {}


def _count(fields: dict[str, Any], image_token: int) -> int:
    return int((fields["input_ids"] == image_token).sum()) if "input_ids" in fields else 0


def _around(processor: Any, fields: dict[str, Any], image_token: int) -> tuple[str, str]:
    """What the processor writes before and after the words that its tokenizer would not."""
    tokenizer = processor.tokenizer
    words = [token for token in fields["input_ids"][0].tolist() if token != image_token]
    if words == tokenizer(_WORDS)["input_ids"]:
        return "", ""
    text = tokenizer.decode(words)
    if text.count(_WORDS) != 1 or not text.startswith(tokenizer.bos_token or "\0"):
        return "", ""
    opening, closing = text.split(_WORDS)
    return opening, closing


def _looks(fields: dict[str, Any], of_more_words: Callable[[], dict[str, Any]]) -> tuple[str, ...]:
    """Fields that have more than one number for each token: their second axis is as long as a text with more words."""

    def fitting(some: dict[str, Any]) -> set[str]:
        ids = some["input_ids"]
        tensors = {name: value for name, value in some.items() if isinstance(value, Tensor)}
        return {name for name, value in tensors.items() if value.dim() > 2 and value.shape[:2] == ids.shape}

    found = fitting(fields)
    return tuple(sorted(found & fitting(of_more_words()))) if found else ()


def _along(processor: Any, mark: str, fields: dict[str, Any], second: tuple[str, ...]) -> dict[str, int]:
    """Fields along the tokens, with the value that an answer has in them where the processor can say it."""
    ids = fields["input_ids"]
    known = {"input_ids", "attention_mask", "labels"}
    rest = {name: value for name, value in fields.items() if name not in known and isinstance(value, Tensor)}
    names = [name for name, value in rest.items() if Traits(mark, second=second).is_along(name, value, ids)]
    # Not every version says in its signature that it takes an answer; one that does has more tokens with it.
    told = _fields(processor, mark + _WORDS, [_SQUARE], suffix=[_WORDS]) if names else {}
    takes = "input_ids" in told and told["input_ids"].shape[1] > ids.shape[1]
    return {name: int(told[name][0, -1]) if takes else 0 for name in names}
