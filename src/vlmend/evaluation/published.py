"""What papers report of editors, to be set beside what is measured here.

In per cent, teacher-forced, one edit at a time.

* Cheng et al., *Can We Edit Multimodal Large Language Models?*, EMNLP 2023, arXiv 2310.08475, Table 2. Its image
  generality is a bar chart; the numbers of that are those that EasyEdit's README had until its commit 3e6aa68.
* Chen et al., *LiveEdit*, CVPR 2025, Table 1, E-VQA. Its fine-tunings are left out: of which layers is not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_GENERALITY, TEXT_LOCALITY
from vlmend.evaluation.kinds import RELIABILITY

__all__ = ["REPORTS", "Report", "reported"]


@dataclass(frozen=True)
class Report:
    """What one source has of one backbone and task.

    Attributes:
        source: what it is quoted as.
        metrics: kinds of probe.
        numbers: editor -> its numbers, in the order of ``metrics``.
    """

    source: str
    metrics: tuple[str, ...]
    numbers: Mapping[str, tuple[float, ...]]


_MMEDIT = "MMEdit (arXiv 2310.08475), Table 2"
_MMEDIT_METRICS = (RELIABILITY, TEXT_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)
_README = "EasyEdit's README for MMEdit"
_LIVEEDIT = "LiveEdit (CVPR 2025), Table 1"
_LIVEEDIT_METRICS = (RELIABILITY, TEXT_GENERALITY, IMAGE_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)

_MMEDIT_NUMBERS: Mapping[tuple[str, str], Mapping[str, tuple[float, ...]]] = {
    ("blip2", "evqa"): {
        "ft-vision": (60.98, 49.79, 100, 8.47),
        "ft-last": (58.66, 49.22, 21.67, 3.06),
        "ke": (80.00, 77.40, 93.79, 66.43),
        "ike": (99.95, 91.59, 13.16, 1.88),
        "serac": (99.40, 99.40, 100, 1.33),
        "mend": (99.40, 98.80, 99.94, 96.65),
    },
    ("blip2", "eic"): {
        "ft-vision": (18.94, 5.86, 100, 8.40),
        "ft-last": (16.60, 3.50, 24.96, 7.12),
        "ke": (5.60, 4.40, 95.00, 64.32),
        "ike": (96.70, 78.20, 13.36, 2.17),
        "serac": (99.70, 99.68, 100, 6.84),
        "mend": (96.11, 95.82, 94.54, 70.84),
    },
    ("minigpt4", "evqa"): {
        "ft-vision": (36.3, 0.3, 100, 9.29),
        "ft-last": (0.10, 0, 72.60, 15.75),
        "ke": (91.80, 89.00, 96.91, 67.83),
        "ike": (100, 94.89, 13.46, 3.67),
        "serac": (87.70, 87.60, 100, 14.22),
        "mend": (98.80, 98.60, 98.23, 81.08),
    },
    ("minigpt4", "eic"): {
        "ft-vision": (3.10, 0, 100, 8.56),
        "ft-last": (0, 0, 53.50, 12.68),
        "ke": (34.40, 29.20, 97.30, 64.36),
        "ike": (90.90, 81.60, 14.23, 4.68),
        "serac": (91.74, 91.43, 100, 4.56),
        "mend": (96.55, 96.08, 98.41, 75.25),
    },
}

_README_NUMBERS = {
    ("minigpt4", "evqa"): {"ke": (88.60,), "ike": (99.95,), "serac": (88.10,), "mend": (99.60,)},
    ("blip2", "evqa"): {"ke": (74.60,), "ike": (99.79,), "serac": (99.20,), "mend": (99.40,)},
    ("minigpt4", "eic"): {"ke": (13.60,), "ike": (91.00,), "serac": (91.47,), "mend": (93.35,)},
    ("blip2", "eic"): {"ke": (1.60,), "ike": (96.55,), "serac": (99.72,), "mend": (93.48,)},
}
_LIVEEDIT_NUMBERS = {
    ("llava", "evqa"): {
        "mend": (91.23, 90.05, 91.29, 91.02, 90.22),
        "serac": (89.33, 83.72, 84.97, 82.05, 23.78),
        "t-patcher": (35.95, 36.12, 28.65, 93.87, 97.61),
        "lte": (94.16, 93.57, 93.59, 94.08, 86.26),
        "liveedit": (94.28, 94.51, 88.01, 100, 100),
    },
    ("blip2", "evqa"): {
        "mend": (93.13, 92.76, 93.07, 92.00, 75.81),
        "serac": (88.39, 84.50, 84.25, 85.82, 26.00),
        "t-patcher": (70.14, 65.80, 53.05, 98.11, 85.33),
        "lte": (95.74, 93.86, 86.90, 97.93, 87.97),
        "liveedit": (96.67, 94.20, 93.82, 100, 100),
    },
}

REPORTS: Mapping[str, tuple[tuple[str, ...], Mapping[tuple[str, str], Mapping[str, tuple[float, ...]]]]] = {
    _MMEDIT: (_MMEDIT_METRICS, _MMEDIT_NUMBERS),
    _README: ((IMAGE_GENERALITY,), _README_NUMBERS),
    _LIVEEDIT: (_LIVEEDIT_METRICS, _LIVEEDIT_NUMBERS),
}
"""Source -> its metrics, and (backbone, task) -> editor -> its numbers in their order."""


def reported(backbone: str, task: str) -> list[Report]:
    """What there is of a backbone ("llava", "blip2", "minigpt4") and a task ("evqa", "eic")."""
    found = ((source, metrics, numbers.get((backbone, task))) for source, (metrics, numbers) in REPORTS.items())
    return [Report(source, metrics, mine) for source, metrics, mine in found if mine]
