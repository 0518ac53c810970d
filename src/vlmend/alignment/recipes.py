"""Objectives by name, and as text that a command line takes.

    objective("bpo")                                            # a name of `OBJECTIVES` or of `LOSSES`
    objective("mdpo", beta=0.2)                                 # a setting, for every term that has it
    objective("0.8*sigmoid + 0.2*bco(beta=0.5) + sft")          # any weighted sum
    0.8 * objective("sigmoid") + objective("anchor", delta=1)   # the same in Python

The second line is `OBJECTIVES["mdpo"]` with beta = 0.2 in all three terms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vlmend.alignment.objectives import LOSSES, Objective, Setting, Term
from vlmend.errors import UnknownNameError, VlmendError

__all__ = ["OBJECTIVES", "objective"]

OBJECTIVES: Mapping[str, str] = {
    "bpo": "sigmoid",  # arXiv 2403.08730
    "mdpo": "sigmoid + image + anchor",  # arXiv 2406.11839
    "mpo": "0.8*sigmoid + 0.2*bco + sft",  # arXiv 2411.10442
}
"""Name -> the sum that it stands for; the names in `LOSSES` are objectives too."""

_TERM = re.compile(
    r"\s*(?:(?P<weight>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*\*)?"
    r"\s*(?P<name>[a-z][a-z-]*)"
    r"\s*(?:\((?P<settings>[^()]*)\))?\s*(?P<more>\+|$)"
)


def objective(text: str, **settings: Setting) -> Objective:
    """An objective by its name, or a weighted sum of such names as text.

    Args:
        text: ``[weight*]name[(setting=value, ...)]``, one or several with ``+`` between them; the names are those of
            `OBJECTIVES` and `LOSSES`.
        settings: set in every term that has them, unless the text sets them there.

    Raises:
        UnknownNameError: nothing is registered under a name, or no term has a setting.
        VlmendError: the text is no sum of names, or a setting is wrong.
    """
    whole = Objective(tuple(term for one in _terms(text) for term in one.terms))
    return _with(whole, settings, over=False)


def _terms(text: str) -> Iterator[Objective]:
    place, more = 0, "+"
    while more:
        found = _TERM.match(text, place)
        if found is None:
            rest = text[place:].strip()
            problem = f"is not understood from '{rest}' on" if rest or not place else "lacks an objective after the '+'"
            raise VlmendError(f"objective '{text}' {problem}")
        place, more = found.end(), found["more"]
        one = _named(found["name"])
        yield float(found["weight"] or 1) * _with(one, dict(_settings(text, found["settings"] or "")), over=True)


def _named(name: str) -> Objective:
    if name in OBJECTIVES:
        return objective(OBJECTIVES[name])
    if name in LOSSES:
        return Objective((Term(name),))
    raise UnknownNameError("objective", name, OBJECTIVES.keys() | LOSSES.keys())


def _settings(text: str, listed: str) -> Iterator[tuple[str, Setting]]:
    for item in filter(None, map(str.strip, listed.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise VlmendError(f"objective '{text}': '{item}' is not of the form setting=value")
        try:
            yield name, float(value)
        except ValueError:
            yield name, value


def _with(whole: Objective, settings: Mapping[str, Setting], *, over: bool) -> Objective:
    """The same with settings in the terms that know them, over those that a term has or under them."""
    known = {name for term in whole.terms for name in LOSSES[term.loss].settings}
    for name in settings:
        if name not in known:
            raise UnknownNameError(f"setting of objective '{whole}'", name, known)
    terms: list[Term] = []
    for term in whole.terms:
        given = {name: value for name, value in settings.items() if name in LOSSES[term.loss].settings}
        merged = dict(term.settings) | given if over else given | dict(term.settings)
        terms.append(replace(term, settings=tuple(sorted(merged.items()))))
    return Objective(tuple(terms))
