"""Why a model answers as it does: how much of it is the picture's doing, where in the picture, and by which modules.

Diagnosis              one question, and the model's own answer
  Weighed              an answer: its tokens' probabilities with the picture and with a grey one
  Map                  heat maps for one token, or for the difference of two answers
  Cause                which kind of error the model's own answer would be (`cause.py`)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlmend.attribution.base import Attributor
from vlmend.attribution.cause import Cause, cause_of
from vlmend.attribution.contributions import Contributions
from vlmend.attribution.decomposition import Decomposition
from vlmend.attribution.integrated_gradients import IntegratedGradients, greyed
from vlmend.attribution.perturbation import Perturbation
from vlmend.attribution.places import layout_of
from vlmend.attribution.result import Attribution
from vlmend.attribution.target import Clean, Target, asked, described, strands
from vlmend.data.records import EditCase, Example
from vlmend.errors import AttributionError, PartsError
from vlmend.models.parts import LayerSpec
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

__all__ = ["LAYERS", "STEPS", "Diagnosis", "Map", "Token", "Weighed", "diagnose"]

STEPS = 24
"""Points on the path of integrated gradients."""

LAYERS = (0.25, 0.5, 0.75)
"""Depths at which noise enters: its maps differ between layers, so that one alone says little."""


@dataclass(frozen=True)
class Token:
    """One token of an answer, and its log probability in nats with the picture (`seen`) and with a grey one."""

    text: str
    seen: float
    grey: float


@dataclass(frozen=True)
class Weighed:
    """An answer fed in, and how likely each of its tokens is."""

    text: str
    tokens: tuple[Token, ...]

    @property
    def seen(self) -> float:
        """Mean log probability of a token with the picture."""
        return sum(token.seen for token in self.tokens) / len(self.tokens)

    @property
    def grey(self) -> float:
        """Mean log probability of a token with a grey picture."""
        return sum(token.grey for token in self.tokens) / len(self.tokens)


@dataclass(frozen=True)
class Map:
    """Heat maps of several methods for the same target.

    Attributes:
        title: the token and its place from 1, or the two answers.
        token: which of the answer's, counted from 0; ``None`` for a difference.
        attributions: one a method; axes layer and place, or place alone.
    """

    title: str
    token: int | None
    attributions: tuple[Attribution, ...]


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What was found about one answer to one question.

    Attributes:
        example: what was asked.
        model, fingerprint: which model; of its weights.
        edits: ids of the edits that were in force.
        said: the model's own answer.
        answers: the answer that is asked after, and the one it is held against, if any.
        modules: scores of layers and modules, one a method.
        maps: one for each token, up to a number of them; the difference of two answers comes first.
        cause: which kind of error the model's own answer would be if it is wrong; ``None`` where it says nothing.
        notes: what the reader must know: a method that has nothing to say and why, another path taken.
    """

    example: Example
    model: str
    fingerprint: str
    edits: tuple[str, ...]
    said: str
    answers: tuple[Weighed, ...]
    modules: tuple[Attribution, ...]
    maps: tuple[Map, ...]
    cause: Cause | None = None
    notes: tuple[str, ...] = ()

    @property
    def seen(self) -> float:
        """The target's value with the picture, in nats: mean log probability of a token; of two answers the first's
        less the second's."""
        return sum(sign * one.seen for sign, one in zip((1, -1), self.answers, strict=False))

    @property
    def grey(self) -> float:
        """The same with a grey picture of the same size: what the question and the model's prior alone say."""
        return sum(sign * one.grey for sign, one in zip((1, -1), self.answers, strict=False))

    @property
    def prior_share(self) -> float:
        """How much of the answer's probability per token (of two answers: of the odds) is there without the picture,
        at most 1; the rest is the picture's share."""
        return math.exp(min(0.0, self.grey - self.seen))


def diagnose(
    vlm: VLM,
    example: Asked | EditCase,
    answer: str | None = None,
    against: str | None = None,
    *,
    layers: LayerSpec = LAYERS,
    steps: int = STEPS,
    most: int = 8,
    max_new_tokens: int = 32,
    on_step: Callable[[], None] = lambda: None,
) -> Diagnosis:
    """Trace an answer back to the picture and to the model's modules, with the edits in force.

    Whether the answer comes from the picture is read off by asking again with a grey picture of the same size. Layers
    and modules are scored by `Decomposition` and `Contributions`; heat maps are drawn by `Perturbation` and
    `IntegratedGradients`. A method that does not fit the model is left out and named in the notes.

    Args:
        vlm: a loaded model.
        example: a question with pictures; of an edit case its request is taken.
        answer: what to ask after; the model's own answer if it is left out (its next token, if that answer is empty).
        against: another answer: why the one rather than this.
        layers: where noise enters for the heat maps.
        steps: points on the path of integrated gradients.
        most: heat maps for so many tokens of the answer.
        max_new_tokens: longest answer of the model itself.
        on_step: called after each method and token.

    Raises:
        AttributionError: there is no picture, an answer has no tokens, both answers are the same, or no step.
        PartsError: there is no such layer.
        PromptError: the example cannot be turned into this model's input.
    """
    example = asked(example)
    on_patches = layout_of(vlm, example).of == "patches"
    vlm.parts.layer_indices(layers)
    if steps < 1:
        raise AttributionError(f"the path of gradients needs at least one step, not {steps}")
    said = vlm.generate(vlm.prepare([example]), max_new_tokens=max_new_tokens)[0]
    target = Target(said or None if answer is None else answer, against)
    if target.answer is not None and target.answer == against:
        raise AttributionError(f"both answers are {against!r}: there is no difference to explain")
    answers = _weighed(vlm, example, target)
    tokens = answers[0].tokens
    notes: list[str] = []
    told: dict[tuple[str, str], list[str]] = {}  # what a method says of its own result -> of which

    def found(methods: Sequence[Attributor], target: Target, what: str) -> tuple[Attribution, ...]:
        made: list[Attribution] = []
        for method in methods:
            try:
                made.append(method.attribute(vlm, example, target))
            except (AttributionError, PartsError) as error:
                notes.append(f"{method.name} has nothing to say: {error}")
            on_step()
        for one in made:
            for note in one.notes:
                told.setdefault((one.method, note), []).append(what)
        return tuple(made)

    modules = found((Decomposition(), Contributions()), target, "the answer")
    gradients = IntegratedGradients(steps=steps)
    methods = (gradients,) if on_patches else (Perturbation(layers=layers), gradients)
    if on_patches:
        notes.append(
            "perturbation is left out: this model's visual tokens have no place in the picture, and noise on its "
            "encoder's patches takes a run of the whole model for each of them"
        )
    maps: list[Map] = []
    if len(answers) > 1:
        title = " rather than ".join(f"“{one.text}”" for one in answers)
        maps.append(Map(title, None, found((gradients,), target, title)))
    for index, token in enumerate(tokens[:most]):
        one = target if target.answer is None else Target(target.answer, token=index)
        title = f"{index + 1}. “{token.text.strip() or token.text}”"
        maps.append(Map(title, index, found(methods, one, title)))
    if len(tokens) > most:
        notes.append(f"heat maps are drawn for the first {most} of {len(tokens)} tokens")
    notes.extend(f"{method} for {', '.join(which)}: {note}" for (method, note), which in told.items())
    return Diagnosis(
        example=example,
        model=vlm.name,
        fingerprint=vlm.fingerprint,
        edits=vlm.active_edits,
        said=said,
        answers=answers,
        modules=modules,
        maps=tuple(maps),
        cause=cause_of(vlm, example, said) if said else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def _weighed(vlm: VLM, example: Example, target: Target) -> tuple[Weighed, ...]:
    """Each answer's tokens, with the picture and with a grey one."""
    answers: list[Weighed] = []
    for strand, grey in zip(strands(vlm, example, target), strands(vlm, greyed(example), target), strict=True):
        seen = strand.read(vlm)
        unseen = replace(grey, tokens_N=seen.strand.tokens_N).read(vlm)
        (texts,) = described(vlm, [seen], "log_prob")["tokens"]
        values = zip(texts, _log_probs(seen).tolist(), _log_probs(unseen).tolist(), strict=True)
        answers.append(Weighed("".join(texts).strip(), tuple(Token(*one) for one in values)))
    wanted = (target.answer, target.against)
    return tuple(replace(one, text=text or one.text) for one, text in zip(answers, wanted, strict=False))


@torch.no_grad()
def _log_probs(clean: Clean) -> Tensor:
    """Of each of the strand's tokens: [N]."""
    strand = clean.strand
    assert strand.tokens_N is not None
    values_NV = clean.logits_NV[strand.picks_N.to(clean.logits_NV.device)].float().log_softmax(-1)
    return values_NV.gather(-1, strand.tokens_N.to(values_NV.device)[:, None])[:, 0].cpu()
