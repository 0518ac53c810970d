"""What the papers report of editors, to be set beside what is measured here.

Cheng et al., *Can We Edit Multimodal Large Language Models?*, EMNLP 2023, arXiv 2310.08475, Table 2: reliability, text
generality, text locality, image locality, in per cent, teacher-forced. Its image generality is a bar chart without
numbers. It has no LLaVA.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlmend.data.records import IMAGE_LOCALITY, TEXT_GENERALITY, TEXT_LOCALITY
from vlmend.evaluation.kinds import RELIABILITY

__all__ = ["METRICS", "PUBLISHED", "SOURCE"]

SOURCE = "MMEdit (arXiv 2310.08475), Table 2"
METRICS = (RELIABILITY, TEXT_GENERALITY, TEXT_LOCALITY, IMAGE_LOCALITY)

Numbers = tuple[float, float, float, float]

PUBLISHED: Mapping[tuple[str, str], Mapping[str, Numbers]] = {
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
"""(Backbone, task) -> editor -> its numbers, in the order of `METRICS`."""
