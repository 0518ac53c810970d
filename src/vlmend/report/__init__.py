"""Figures and the self-contained HTML report of a run."""

from vlmend.report.content import Report
from vlmend.report.html import render, write

__all__ = ["Report", "render", "write"]
