"""The visible part of a run folder: `report.html` and `figures/`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vlmend.report.card import case_figure
from vlmend.report.content import cards
from vlmend.report.figures import metrics_figure, save
from vlmend.report.html import write
from vlmend.report.rulers import rulers_figure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vlmend.report.content import Report

__all__ = ["fill"]


def fill(
    folder: Path, report: Report, *, case_pictures: bool = False, on_picture: Callable[[], None] | None = None
) -> Path:
    """Write the report and its figures into a run folder.

    Args:
        folder: the run folder.
        report: what to write.
        case_pictures: also draw one picture for each case.
        on_picture: called after each of them.

    Returns:
        The path of the report.
    """
    figures = folder / "figures"
    for ending in ("png", "svg"):
        save(metrics_figure(report.proofs), figures / f"metrics.{ending}")
        save(rulers_figure(report.proofs), figures / f"rulers.{ending}")
    if case_pictures:
        methods = [proof.method for proof in report.proofs]
        for card in cards(report):
            save(case_figure(card, methods), figures / f"{_file_name(card.id)}.png")
            if on_picture is not None:
                on_picture()
    return write(report, folder / "report.html")


def _file_name(case: str) -> str:
    """A case's id as a file name."""
    return re.sub(r"[^\w.-]+", "_", case)
