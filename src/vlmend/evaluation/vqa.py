"""Answers made alike as the VQA challenge does before it compares them.

Source: "Evaluation code" at https://visualqa.org/evaluation.html (VQA v2.0): lower case; no periods but decimal points;
number words as digits; no articles; contractions with their apostrophe; other punctuation but apostrophe and colon as a
space, a comma between digits as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["vqa_matches", "vqa_normalised"]

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = frozenset({"a", "an", "the"})

_FULL_STOP = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d)")
_PUNCTUATION = re.compile(r"[^\w\s':.]|_")

# Words that are words without their apostrophe too ("well", "its", "were") are left as they are.
_CONTRACTIONS = (
    "ain't aren't can't couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he's he'd've how'd "
    "how'll how's I'd've I'm I've isn't it'd it'll it'd've might've mightn't mustn't must've needn't oughtn't shan't "
    "she'd've she's shouldn't should've somebody's someone's something's that's that'd there's there'd they'd they'll "
    "they're they've wasn't weren't we've what'll what're what's what've when's where's where'd where've who'd who'll "
    "who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've"
)
_APOSTROPHES = {word.lower().replace("'", ""): word.lower() for word in _CONTRACTIONS.split()}


def vqa_normalised(text: str) -> str:
    """An answer as it is compared; text of articles and punctuation alone stays as it is, in lower case."""
    plain = text.lower().replace("\u2019", "'")
    plain = _FULL_STOP.sub("", plain)
    plain = _PUNCTUATION.sub(" ", _THOUSANDS.sub("", plain))
    words = (_DIGITS.get(word, word) for word in plain.split() if word not in _ARTICLES)
    return " ".join(_APOSTROPHES.get(word, word) for word in words) or text.strip().lower()


def vqa_matches(said: str, accepted: Iterable[str]) -> bool:
    """Whether an answer is one of those that are accepted, made alike."""
    wanted = {vqa_normalised(answer) for answer in accepted}
    return vqa_normalised(said) in wanted
