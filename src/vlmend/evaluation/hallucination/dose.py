"""The dose curve: what a model makes up of pictures that are weakened more and more.

With some noise a model that knows what usually goes together names more of what it expects and cannot see; with a lot
of it what is expected gives way to what noise looks like, and nothing that is there is named any more. The step in
between, where what is expected and absent is named most, makes the most telling worse answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmend.alignment.weaken import Weakening, weakened
from vlmend.data.records import Example
from vlmend.evaluation.stats import Estimate, bootstrap, wilson
from vlmend.models.contrast import Contrast
from vlmend.models.vlm import VLM
from vlmend.runs import Log

__all__ = ["Described", "Dose", "dose_curve", "worst"]

BATCH = 64


@dataclass(frozen=True)
class Described:
    """A picture to be described, of which is known what it shows.

    Attributes:
        id: its name.
        example: what is asked.
        present: names of the objects in it.
        expected: names of objects that are not in it, and that go with what is.
    """

    id: str
    example: Example
    present: frozenset[str]
    expected: frozenset[str]


@dataclass(frozen=True)
class Dose:
    """What was said at one step of noise.

    Attributes:
        step: of the schedule.
        snr: signal-to-noise ratio in dB, mean over pictures; ``None`` at step 0.
        expected: share of expected and absent objects that are named.
        invented: share of named objects that are not there (CHAIR_i).
        recall: share of the objects present that are named.
        words: in a description.
    """

    step: int
    snr: float | None
    expected: Estimate
    invented: Estimate
    recall: Estimate
    words: Estimate

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> Dose:
        """From a run folder's record."""
        rates = {name: Estimate(**record[name]) for name in ("expected", "invented", "recall", "words")}
        return cls(record["step"], record["snr"], **rates)


def dose_curve(
    vlm: VLM,
    described: Sequence[Described],
    steps: Sequence[int],
    named: Callable[[str], Iterable[str]],
    how: Weakening,
    log: Log,
    *,
    contrast: float = 0.0,
    max_new_tokens: int = 64,
    progress: Callable[[], None] = lambda: None,
) -> list[Dose]:
    """Describe all pictures greedily at every step; those that the log has are not done again.

    Args:
        vlm: the model.
        described: at least one, with an expected object among all.
        steps: of the schedule; each record's noise is the same at all, but for its strength.
        named: the objects that a text names.
        how: where the noise goes, and its seed.
        log: gets every step's record.
        contrast: described by (1 + this) log-likelihoods with noise - this times those without; 0 for none.
        max_new_tokens: longest description.
        progress: called after every batch that was described now.
    """
    found = {record["step"]: Dose.restored(record) for record in log.records}
    for step in steps:
        if step not in found:
            found[step] = _dose(vlm, described, step, named, how, contrast, max_new_tokens, progress)
            log.append(asdict(found[step]))
    return [found[step] for step in steps]


def worst(curve: Sequence[Dose]) -> Dose:
    """Where most of what is expected and absent is named; of equal doses the weakest."""
    return max(curve, key=lambda dose: (dose.expected.mean, -dose.step))


def _dose(
    vlm: VLM,
    described: Sequence[Described],
    step: int,
    named: Callable[[str], Iterable[str]],
    how: Weakening,
    contrast: float,
    max_new_tokens: int,
    progress: Callable[[], None],
) -> Dose:
    said: list[str] = []
    ratios: list[float] = []
    for start in range(0, len(described), BATCH):
        some = described[start : start + BATCH]
        way = Weakening("step", step, how.where, how.seed)
        asked = [one.example for one in some]
        made, noise = weakened(vlm, asked, [one.id for one in some], way)
        against = Contrast(vlm.prepare(asked), contrast) if contrast else None
        said += [one.text for one in vlm.replies(made, max_new_tokens=max_new_tokens, against=against)]
        ratios += [one.snr for one in noise]
        progress()
    told = [(one, frozenset(named(text))) for one, text in zip(described, said, strict=True)]
    return Dose(
        step,
        sum(ratios) / len(ratios) if step else None,
        _share(sum(len(one.expected & names) for one, names in told), sum(len(one.expected) for one, _ in told)),
        _share(sum(len(names - one.present) for one, names in told), sum(len(names) for _, names in told)),
        _share(sum(len(one.present & names) for one, names in told), sum(len(one.present) for one, _ in told)),
        bootstrap([float(len(text.split())) for text in said]),
    )


def _share(count: int, of: int) -> Estimate:
    return wilson(count, of) if of else Estimate(0, 0.0, 0.0, 0.0)  # no nan: it is written as JSON
