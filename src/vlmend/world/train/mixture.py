"""What the decoder is asked in training: which kinds of turn, how often, in which stage."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerFast

from vlmend.world.captions import Form, caption
from vlmend.world.corpus import LONG_SHARES, Turn, in_context, tell_fact, tell_long
from vlmend.world.entities import by_name, countries, invent_name
from vlmend.world.questions import Question, ask
from vlmend.world.scene import Dials, Scene
from vlmend.world.train.packing import Block, Packed, Part, pack
from vlmend.world.train.words import ASSISTANT, BOS, EOS, PAD, USER, token_id

SCENES = {
    "exist": 1.6, "colour": 0.8, "pattern": 1.4, "which": 1.0, "count": 2.5, "howmany": 0.5,
    "relation": 1.0, "quadrant": 2.5, "place": 0.2, "neighbour": 0.6,
}  # fmt: skip
FLAGS = {"name": 5.0, "hop": 7.0, "bridge": 3.0, "symbol": 0.7, "symbol_colour": 0.7, "colour": 0.4, "exist": 0.4}
CAPTIONS: dict[Form, float] = {"short": 0.55, "list": 0.2, "detailed": 0.25}

ENDS_WITH_THERE = ("colour", "pattern", "which", "count", "howmany", "neighbour")
THERE, CAN = 0.15, 0.5
OPENINGS = ("say: ", "answer: ", "name: ", "give: ", "write: ", "question: ")


def _varied(words: str, kind: str, rng: random.Random) -> str:
    """A question with "there" at its end, or "can you see" for "do you see": no signs then that yes or no is wanted.

    Corners get the latter alone: "where can you see the lamp there?" is held out, and is answered "yes" without this.
    """
    if kind in ENDS_WITH_THERE and rng.random() < THERE and "there" not in words:
        return f"{words[:-1]} there{words[-1]}"
    if kind == "quadrant" and rng.random() < CAN:
        return words.replace("where do you see", "where can you see")
    return words


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes:
        pictures: in one step.
        flags: share of flags among them.
        shares: of the kinds of question about scenes.
        plain: how often a question is put in its common phrasing.
        questions, captions, facts, long: how many blocks a picture gets, split by length where there are several. Facts
            and long text come without a picture, and are multiplied by ``Dials.text_share``.
        long_shares: of the kinds of long text.
        kinds: how many kinds of thing a scene has; any number if empty.
        told: scales how often captions name an absent companion, on top of ``Dials.told``.
        opened: how often one of ``OPENINGS`` stands before a question.
    """

    pictures: int
    flags: float
    shares: dict[str, float]
    plain: float
    questions: tuple[int, ...]
    captions: tuple[int, ...] = ()
    facts: tuple[int, ...] = ()
    long: tuple[int, ...] = ()
    long_shares: dict[str, float] = field(default_factory=lambda: dict(LONG_SHARES))
    kinds: tuple[int, ...] = ()
    told: float = 1.0
    opened: float = 0.0


BINDING = Stage(
    24, 0.0, {"colour": 3.0, "pattern": 3.0, "exist": 0.5, "which": 0.5}, plain=1.0, questions=(4, 3), kinds=(2, 3)
)
"""Which colour goes with which name is learnt in one jump, or not yet: look at the log before going on."""
EVERYTHING = Stage(12, 0.3, SCENES, plain=0.4, questions=(4, 4, 3, 2, 2, 1), captions=(1,), facts=(2,), long=(1,))
POLISH = replace(
    EVERYTHING,
    shares=SCENES | {"exist": 1.0, "colour": 0.5, "which": 0.8, "count": 2.0, "quadrant": 6.0, "relation": 1.5},
    plain=0.15,
    told=0.6,
)
"""At the end: more of what was not learnt yet and of rare wordings, and captions a little truer."""


class Mixture:
    """Draws packed batches. Token ids are memoised: the world's wordings are finite.

    Args:
        visual: tokens of a picture.
        opened: whether ``<s>`` stands before the picture; else every block begins with it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, dials: Dials, visual: int, opened: bool) -> None:
        self.tokenizer, self.dials = tokenizer, dials
        self.seen, self.unseen = visual + opened, int(opened)
        self.begin = () if opened else (token_id(tokenizer, BOS),)
        self.user, self.assistant, self.eos = (token_id(tokenizer, t) for t in (USER, ASSISTANT, EOS))
        self._ids: dict[str, tuple[int, ...]] = {}

    def _encode(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            if len(self._ids) > 400_000:
                self._ids.clear()
            self._ids[text] = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._ids[text]

    def block(self, turn: Turn) -> Block:
        wanted = (*self._encode(turn.answer), self.eos)
        return Block(
            (*self.begin, self.user, *self._encode(turn.prompt), self.assistant, *wanted), len(wanted), turn.kind
        )

    def question(self, scene: Scene, rng: random.Random, stage: Stage) -> Turn:
        shares = FLAGS if scene.country else stage.shares
        kinds, weights = list(shares), list(shares.values())
        while True:
            if q := ask(scene, rng.choices(kinds, weights)[0], rng):
                words = _varied(q.put(rng, plain=stage.plain), q.kind, rng)
                if stage.opened and rng.random() < stage.opened:
                    words = rng.choice(OPENINGS) + words
                return Turn(words, q.answer, q.kind)

    def caption(self, scene: Scene, form: Form, rng: random.Random, stage: Stage) -> Turn:
        """A caption; for a third of the flags a new name told in context instead."""
        if scene.country and rng.random() < 0.35:
            new = rng.choice(countries()).name if rng.random() < 0.6 else invent_name(rng, set(by_name()))
            q = Question("name", new)
            return Turn(in_context(q.put(rng), new, q.put(rng)), new, "new_name")
        told = caption(scene, form, rng, self.dials.told * stage.told)
        return Turn(Question(f"{form}_caption", "").put(rng), told, f"{form}_caption")

    def batch(self, scenes: Sequence[Scene], rng: random.Random, stage: Stage) -> Packed:
        """One packed batch: a row per scene; captions of one form, since they differ most in length."""
        form = rng.choices(list(CAPTIONS), list(CAPTIONS.values()))[0]
        seen, unseen, text = self.seen, self.unseen, self.dials.text_share
        more = lambda cuts: tuple(round(n * text) for n in cuts if round(n * text))  # noqa: E731
        tellers: list[tuple[tuple[int, ...], int, float, Callable[[Scene], Turn]]] = [
            (stage.questions, seen, 1.0, lambda s: self.question(s, rng, stage)),
            (stage.captions, seen, 0.6, lambda s: self.caption(s, form, rng, stage)),
            (more(stage.facts), unseen, 0.3 * text, lambda _: tell_fact(rng, self.dials)),
            (more(stage.long), unseen, 0.4 * text, lambda _: tell_long(rng, self.dials, stage.long_shares)),
        ]
        parts = [
            Part([[self.block(tell(s)) for _ in range(sum(cuts))] for s in scenes], prefix, cuts, weight)
            for cuts, prefix, weight, tell in tellers
            if cuts
        ]
        return pack(parts, token_id(self.tokenizer, PAD))
