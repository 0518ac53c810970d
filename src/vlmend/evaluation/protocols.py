"""How one number is made of a probe's record: our own way, and those of the published evaluators.

A protocol says how a question is put and what counts as its score; everything else that was measured stands beside it.
A new protocol is one value here and one name in `PROTOCOLS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from vlmend.data.records import IMAGE_LOCALITY, TEXT_LOCALITY, EditCase, Example
from vlmend.errors import UnknownNameError
from vlmend.evaluation.record import ProbeRecord, TopIds

__all__ = ["DEFAULT", "LEGACY", "PROTOCOLS", "VISEDIT", "Protocol", "Scores", "protocol_of"]

Scores = tuple[float | None, float | None]
"""A score before and after the edit; ``None`` where there is nothing to score."""


def _as_it_is(case: EditCase) -> EditCase:
    return case


@dataclass(frozen=True)
class Protocol:
    """A way of scoring.

    Attributes:
        name: what it is asked for by.
        title: what its score is called.
        counts: what the score counts, in a sentence.
        score: a record's score before and after.
        worded: a case with its questions as the protocol puts them; they are edited and measured so.
        free: whether it counts free answers.
    """

    name: str
    title: str
    counts: str
    score: Callable[[ProbeRecord], Scores]
    worded: Callable[[EditCase], EditCase] = _as_it_is
    free: bool = False


def _free(record: ProbeRecord) -> Scores:
    return record.free_exact_before, record.free_exact_after


def _tokens(record: ProbeRecord) -> Scores:
    return record.tf_token_acc_before, record.tf_token_acc_after


_RANKS: Mapping[str, int] = {TEXT_LOCALITY: 1, IMAGE_LOCALITY: 10}


def _easyedit(record: ProbeRecord) -> Scores:
    """Token accuracy, but ranks compared where an answer of MMEdit's two kinds of locality must stay."""
    if record.kind not in _RANKS:
        return _tokens(record)
    ranks = _RANKS[record.kind]
    return _same_ranks(record.top_before, record.top_before, ranks), _same_ranks(
        record.top_before, record.top_after, ranks
    )


def _same_ranks(before: TopIds, after: TopIds, ranks: int) -> float | None:
    """Share of equal ids among the likeliest, rank by rank; answers of different lengths are aligned at their ends."""
    length = min(len(before), len(after))
    pairs = [
        one == other
        for ids, others in zip(before[len(before) - length :], after[len(after) - length :], strict=True)
        for one, other in zip(ids[:ranks], others[:ranks], strict=True)
    ]
    return sum(pairs) / len(pairs) if pairs else None


_ANSWER_CUE = " The answer is:"


def _visedit_words(case: EditCase) -> EditCase:
    """Questions get a cue, caption prompts none; what is asked of unrelated pictures always does, text a "?"."""
    asks = case.request.question.rstrip().endswith("?")
    cue = _ANSWER_CUE if asks else ""
    ends = {TEXT_LOCALITY: "?", IMAGE_LOCALITY: _ANSWER_CUE}
    probes = (replace(probe, example=_followed(probe.example, ends.get(probe.kind, cue))) for probe in case.probes)
    return replace(case, request=_followed(case.request, cue), probes=tuple(probes))


def _followed(example: Example, words: str) -> Example:
    return replace(example, question=example.question + words) if example.question else example


DEFAULT = Protocol(
    name="default",
    title="Free generation",
    counts="The model writes its own answer; it counts if it is the right one, or, for locality, the same as before.",
    score=_free,
    free=True,
)

LEGACY = Protocol(
    name="legacy",
    title="EasyEdit's score",
    counts="Share of the answer's tokens that are likeliest while it is fed in; T-Loc compares the likeliest token "
    "with the one before the edit, M-Loc the ten likeliest rank by rank.",
    score=_easyedit,
)
"""EasyEdit's numbers for MMEdit (arXiv 2310.08475): argmax of the shifted logits against the target's tokens; T-Loc is
agreement of the likeliest token, M-Loc of the ten likeliest rank by rank. Ranks are compared at the answer's positions;
EasyEdit compares them at those of prompt, picture and padding too (and so mixes in what nobody asked about)."""

VISEDIT = Protocol(
    name="visedit",
    title="VisEdit's score",
    counts="Share of the answer's tokens that are likeliest while it is fed in, or, for locality, unchanged.",
    score=_tokens,
    worded=_visedit_words,
)
"""VisEdit's numbers (AAAI 2025): share of the answer's tokens whose argmax is right, or, for locality, what it was.
Cues follow the questions as in its data sets; the model's own chat template stays around them."""

PROTOCOLS: Mapping[str, Protocol] = {one.name: one for one in (DEFAULT, LEGACY, VISEDIT)}


def protocol_of(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
