"""Hallucination, measured on answers: POPE, CHAIR, Object HalBench and AMBER, without a judge.

Every function takes answers and what is true, and returns a frozen result: the protocol's name and version, rates with
95 % intervals, always beside them how much of what is there was named and how long the answers are, and a record for
every answer. Numbers of different protocols cannot be compared.
"""

from __future__ import annotations

from vlmend.evaluation.hallucination.amber import amber_describing, amber_score, amber_yes_no
from vlmend.evaluation.hallucination.chair import chair, true_objects
from vlmend.evaluation.hallucination.object_halbench import object_halbench
from vlmend.evaluation.hallucination.pope import pope

__all__ = ["amber_describing", "amber_score", "amber_yes_no", "chair", "object_halbench", "pope", "true_objects"]
