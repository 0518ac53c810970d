"""The dose curve as commands have it measured, in a run folder with a bar, and the step of noise that it gives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmend.cli.console import progress, working
from vlmend.errors import DataError
from vlmend.runs import Run, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vlmend.alignment.checkable import Checkable
    from vlmend.alignment.weaken import Weakening
    from vlmend.data.records import EditCase
    from vlmend.evaluation.hallucination.dose import Described, Dose
    from vlmend.models.vlm import VLM

__all__ = ["CURVE", "STEP", "curve_of", "dosed", "step_of"]

CURVE = "curve.json"
STEP = 700
"""The step of noise where none can be measured."""

_STEPS = (400, 500, 600, 700, 800)
_PICTURES, _LEAST = 100, 20
_WORDS = 64  # tokens of a description; what is invented later on is said of any picture


def curve_of(
    vlm: VLM,
    described: Sequence[Described],
    steps: Sequence[int],
    named: Callable[[str], Iterable[str]],
    how: Weakening,
    run: Run,
    *,
    contrast: float,
    max_new_tokens: int,
) -> list[Dose]:
    """The dose curve, with a bar; the steps that the run has are not done again."""
    from vlmend.evaluation.hallucination.dose import BATCH, dose_curve

    batches = -(-len(described) // BATCH)
    done = sum(record["step"] in steps for record in run.records)
    with progress("Describing", batches * len(steps), done=batches * done) as advance:
        return dose_curve(
            vlm,
            described,
            steps,
            named,
            how,
            run,
            contrast=contrast,
            max_new_tokens=max_new_tokens,
            progress=advance,
        )


def dosed(
    vlm: VLM,
    cases: Sequence[EditCase],
    checkable: Checkable | None,
    how: Weakening,
    folder: Path,
    settings: Mapping[str, Any],
    contrast: float,
    max_new_tokens: int,
) -> None:
    """Measure on the data's own pictures at which step most is named that is expected and absent, or settle for `STEP`
    where that cannot be told. What ``folder`` says already is not measured again.

    Args:
        folder: a run's, with the settings that the curve depends on; the result is its `CURVE`, for `step_of`.
    """
    from vlmend.evaluation.hallucination.expecting import expecting

    with Run(folder, settings) as run:
        if (folder / CURVE).exists():
            return
        curve: list[Dose] = []
        if checkable is None:
            step, why = STEP, "not measured: no words that can be checked"
        else:
            with working("Looking for what goes together"):
                described = expecting(vlm, cases, checkable.objects, _PICTURES, how.seed)
            if len(described) >= _LEAST:
                most = min(max_new_tokens, _WORDS)
                curve = curve_of(
                    vlm, described, _STEPS, checkable.objects, how, run, contrast=contrast, max_new_tokens=most
                )
            step, why = _top(curve, len(described))
        document = {"model": vlm.name, "step": step, "why": why, "curve": [asdict(dose) for dose in curve]}
        run.finish(document)
        write_json(folder / CURVE, document)


def _top(curve: Sequence[Dose], pictures: int) -> tuple[int, str]:
    """The step to take, and why."""
    from vlmend.evaluation.hallucination.dose import worst

    if not curve:
        return STEP, f"not measured: {pictures} pictures lack an object that is expected, and it takes {_LEAST}"
    top = worst(curve)
    if not top.expected.mean:
        return STEP, f"not measured: nothing expected and absent is named of {pictures} pictures"
    share = f"{100 * top.expected.mean:.0f} % of {top.expected.n}"
    return top.step, f"measured on {pictures} pictures: {share} objects that are expected and absent are named"


def step_of(path: Path) -> tuple[int, str]:
    """The step that a curve's file gives, and why it is that.

    Raises:
        DataError: it is none of `vlmend weaken`'s or `vlmend pairs`'s.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        step = found["step"]
        if type(step) is not int or step not in range(1000):
            raise ValueError
        return step, found.get("why", f"the top of the curve of {found['model']}")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("it is no curve.json of vlmend weaken", path=path) from error
