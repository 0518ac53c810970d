"""A probe's record out of what the model did at it before and after the edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vlmend.data.records import EditCase, Probe
from vlmend.evaluation.kinds import kind_of
from vlmend.evaluation.observing import Observed
from vlmend.evaluation.record import ProbeRecord
from vlmend.evaluation.text import matches
from vlmend.evaluation.vqa import vqa_matches
from vlmend.models.outputs import kl_divergence

__all__ = ["record_of"]


def record_of(
    case: EditCase,
    probe: Probe,
    target: Sequence[int],
    before: Observed | None,
    after: Observed,
    *,
    recognised: bool | None = None,
) -> ProbeRecord:
    """Score one probe.

    Args:
        case: the probe's case.
        probe: what was asked.
        target: the tokens of its answer.
        before, after: what the model did, with log-probabilities where the answer must stay; ``before`` may be
            unknown (``None``) where it need not.
        recognised: whether the unedited model gets right what the probe rests on.
    """
    example, keeps = probe.example, kind_of(probe.kind).keeps
    wanted = before.likeliest if keeps and before else tuple(target)
    said = None if before is None else before.text
    accepted = example.accepted if not keeps else () if said is None else (said,)
    return ProbeRecord(
        case=case.id,
        kind=probe.kind,
        question=example.question,
        image=str(example.image) if isinstance(example.image, Path) else None,
        target=example.answer or None,
        before=said,
        after=after.text,
        tf_token_acc_before=_share(before.likeliest, wanted) if before else None,
        tf_token_acc_after=_share(after.likeliest, wanted),
        tf_exact_before=_all(before.likeliest, wanted) if before else None,
        tf_exact_after=_all(after.likeliest, wanted),
        free_exact_before=_right(matches, said, accepted),
        free_exact_after=_right(matches, after.text, accepted),
        free_vqa_before=_right(vqa_matches, said, accepted),
        free_vqa_after=_right(vqa_matches, after.text, accepted),
        kl=_divergence(before, after) if keeps and before else None,
        top_before=before.top if keeps and before else (),
        top_after=after.top if keeps else (),
        recognised=recognised,
        counterfactual=case.counterfactual,
    )


def _right(match: Callable[[str, Sequence[str]], bool], text: str | None, accepted: Sequence[str]) -> float | None:
    return None if text is None else float(match(text, accepted))


def _share(found: Sequence[int], wanted: Sequence[int]) -> float | None:
    equal = [one == other for one, other in zip(found, wanted, strict=True)]
    return sum(equal) / len(equal) if equal else None


def _all(found: Sequence[int], wanted: Sequence[int]) -> float | None:
    return float(found == wanted) if wanted else None


def _divergence(before: Observed, after: Observed) -> float | None:
    if not before.top or before.log_probs_NV is None or after.log_probs_NV is None:
        return None
    return kl_divergence(before.log_probs_NV, after.log_probs_NV)
