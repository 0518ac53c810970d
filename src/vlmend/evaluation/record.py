"""One probe, measured: a line of ``records.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ProbeRecord", "TopIds"]

TopIds = tuple[tuple[int, ...], ...]
"""At every position of an answer, the ids of the likeliest tokens, the likeliest first."""


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One probe (or the request itself, of kind "reliability") before and after an edit.

    Reliability, generality and portability are scored against the probe's answer. Locality is scored against what the
    model did before, so its scores before are 1 by definition. Teacher-forced scores (``tf_``) count the answer's
    tokens only, neither prompt nor end token, and are ``None`` where the probe has no answer.

    Attributes:
        case, kind, question, image, target: what was asked; ``image`` is a file, ``None`` if there is none.
        before, after: the model's own answers (greedy); ``None``, as their scores, where it was asked for none.
        tf_token_acc_before, tf_token_acc_after: share of answer tokens that are most likely, or unchanged.
        tf_exact_before, tf_exact_after: whether all are.
        free_exact_before, free_exact_after: whether the model's own answer is the target (or an alias), or unchanged.
        free_vqa_before, free_vqa_after: the same with both answers normalised as the VQA challenge does.
        kl: locality only: mean over the answer's tokens of KL(before || after), in nats.
        top_before, top_after: locality only: the ten likeliest tokens at each of the answer's positions.
        recognised: whether the unedited model gets right all that the probe rests on; ``None`` if that is not told.
        counterfactual: whether the case's target is made up, not the truth.
    """

    case: str
    kind: str
    question: str
    image: str | None
    target: str | None
    before: str | None
    after: str | None
    tf_token_acc_before: float | None
    tf_token_acc_after: float | None
    tf_exact_before: float | None
    tf_exact_after: float | None
    free_exact_before: float | None
    free_exact_after: float | None
    free_vqa_before: float | None
    free_vqa_after: float | None
    kl: float | None = None
    top_before: TopIds = ()
    top_after: TopIds = ()
    recognised: bool | None = None
    counterfactual: bool = False

    @classmethod
    def restored(cls, fields: Mapping[str, Any]) -> ProbeRecord:
        """From plain JSON values."""
        tops: dict[str, Any] = {name: tuple(map(tuple, fields[name])) for name in ("top_before", "top_after")}
        return cls(**{**fields, **tops})
