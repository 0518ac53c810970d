"""What is asked, what should be answered, and what an edit must change or leave alone."""

from __future__ import annotations

from dataclasses import dataclass

from vlmend.models.pictures import Picture, Pictures, listed

__all__ = [
    "IMAGE_GENERALITY",
    "IMAGE_LOCALITY",
    "NO_IMAGE_LOCALITY",
    "OOD_GENERALITY",
    "PORTABILITY",
    "PUBLISHED",
    "SAME_IMAGE_LOCALITY",
    "SAME_QUESTION_LOCALITY",
    "TEXT_GENERALITY",
    "TEXT_LOCALITY",
    "EditCase",
    "Example",
    "PreferencePair",
    "Probe",
    "SkippedPair",
    "Span",
]

Span = tuple[int, int]
"""Some characters of a text, ``text[start:end]``."""

TEXT_GENERALITY = "text_generality"
IMAGE_GENERALITY = "image_generality"
TEXT_LOCALITY = "text_locality"
IMAGE_LOCALITY = "image_locality"
PUBLISHED = (TEXT_GENERALITY, IMAGE_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)
"""MMEdit's kinds of probe."""

PORTABILITY = "portability"
OOD_GENERALITY = "ood_generality"
SAME_IMAGE_LOCALITY = "same_image_locality"
SAME_QUESTION_LOCALITY = "same_question_locality"
NO_IMAGE_LOCALITY = "no_image_locality"


@dataclass(frozen=True, slots=True)
class Example:
    """One question, with or without pictures, and its answer where one is known.

    ``image`` is one picture, or several in their order; an ``<image>`` in the question says where each stands, and
    without any they stand before it. ``aliases`` are other answers that count as right.
    """

    question: str
    image: Pictures = None
    answer: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures one by one; empty where there is none."""
        return listed(self.image)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The answer and its aliases; empty where no answer is known."""
        return () if self.answer is None else (self.answer, *self.aliases)


@dataclass(frozen=True, slots=True)
class Probe:
    """An example asked to see what an edit did.

    ``kind`` says what is expected: at ``*_generality`` the edit's target, at ``*_locality`` what the model said before,
    at ``portability`` what follows from the edited fact and others. ``hops`` is how many other facts that takes.
    ``premises`` are what a right answer rests on beside the edit, where that is told, as questions with answers: those
    facts, or what must be recognised in the probe's picture. ``notes`` is what else the file says of the probe: (field,
    JSON text).
    """

    kind: str
    example: Example
    hops: int | None = None
    premises: tuple[Example, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class EditCase:
    """One wrong answer to be mended, with the probes that measure its side effects.

    ``request.answer`` is the target; ``rejected`` is what the model said; ``source`` is where the case comes from;
    ``notes`` is what else the file says of it: (field, JSON text). ``counterfactual`` says that the target is made up;
    else the model was wrong and the target is the truth.
    """

    id: str
    request: Example
    rejected: str | None = None
    probes: tuple[Probe, ...] = ()
    source: str | None = None
    notes: tuple[tuple[str, str], ...] = ()
    counterfactual: bool = False

    def probes_of(self, kind: str) -> tuple[Probe, ...]:
        """The probes of one kind, in their order."""
        return tuple(probe for probe in self.probes if probe.kind == kind)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A better and a worse answer to one question.

    ``image`` is as in `Example`. ``chosen_spans`` and ``rejected_spans`` are the characters in which they differ, where
    that is told; ``origin`` says how the worse answer came to be ("weakened", "injected", or what a file calls it), and
    ``notes`` what else is known: (field, JSON text).
    """

    id: str
    question: str
    chosen: str
    rejected: str
    image: Pictures = None
    chosen_spans: tuple[Span, ...] = ()
    rejected_spans: tuple[Span, ...] = ()
    origin: str = ""
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures one by one; empty where there is none."""
        return listed(self.image)

    @property
    def labelled(self) -> bool:
        """Whether it is told in what the answers differ."""
        return bool(self.chosen_spans or self.rejected_spans)

    def example(self, answer: str) -> Example:
        """Its question with one of its answers."""
        return Example(self.question, self.image, answer)


@dataclass(frozen=True, slots=True)
class SkippedPair:
    """A pair that is left out, or an answer that would have made some, and why."""

    id: str
    reason: str
