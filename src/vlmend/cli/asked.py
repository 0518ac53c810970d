"""Which suites `measure` asks, made of the files that were named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmend.errors import UnknownNameError, VlmendError

if TYPE_CHECKING:
    from vlmend.evaluation.hallucination.asking import Suite
    from vlmend.evaluation.judged.judge import Judge

__all__ = ["Named", "suites_of"]

_ROLE = re.compile(r"[\w-]*\.[a-z]+")


@dataclass(frozen=True)
class Named:
    """Files as they were named: suite -> role -> path; the role of a suite's own file is empty."""

    option: str
    paths: Mapping[str, Mapping[str, Path]]

    @classmethod
    def read(cls, option: str, given: Sequence[str], suites: Sequence[str], *, roles: bool = False) -> Named:
        """Of ``PATH``, ``SUITE=PATH`` and, with ``roles``, ``SUITE.ROLE=PATH`` or ``.ROLE=PATH``.

        Raises:
            VlmendError: it is not told which of several suites a path is for, or one is named twice.
        """
        paths: dict[str, dict[str, Path]] = {}
        for text in given:
            name, equals, path = text.partition("=")
            suite, _, role = name.partition(".") if roles and _ROLE.fullmatch(name) else (name, "", "")
            if not equals or (suite and suite not in suites) or not (suite or role):
                suite, role, path = "", "", text
            if not suite:
                if len(suites) > 1:
                    raise VlmendError(f"{option} takes SUITE=PATH where several suites are asked, not '{text}'")
                suite = suites[0]
            mine = paths.setdefault(suite, {})
            if role in mine:
                raise VlmendError(f"{option} names two paths for '{f'{suite}.{role}' if role else suite}'")
            mine[role] = Path(path)
        return cls(option, paths)

    def of(self, suite: str) -> Path | None:
        """A suite's own."""
        return self.paths.get(suite, {}).get("")

    def beside(self, suite: str) -> dict[str, Path]:
        """The other roles."""
        return {role: path for role, path in self.paths.get(suite, {}).items() if role}


def suites_of(
    names: str,
    files: Sequence[str],
    images: Sequence[str],
    prompts: Sequence[str],
    scenes: int,
    protocol: str | None,
    limit: int | None,
    skip_missing: bool,
    judge: Judge | None,
) -> Sequence[Suite]:
    """What is to be asked: of a published file where one is named, else of scenes of the demo world.

    Raises:
        UnknownNameError: there is no such suite, or protocol.
        DataError: a file is wrong.
        VlmendError: options do not go together.
    """
    from vlmend.evaluation.suites import SUITES as PUBLISHED
    from vlmend.evaluation.suites import Given
    from vlmend.world.suites import SUITES as DRAWN

    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted:
        raise VlmendError("--suite names no suite")
    for name in wanted:
        if name not in PUBLISHED and name not in DRAWN:
            raise UnknownNameError("suite", name, {*PUBLISHED, *DRAWN})
    if protocol is not None and len(wanted) > 1:
        raise VlmendError("--protocol goes with one suite")
    if not files:
        for option, given in (("--images", images), ("--limit", limit), ("--skip-missing", skip_missing)):
            if given:
                raise VlmendError(f"{option} goes with --file")
    file = Named.read("--file", files, wanted, roles=True)
    folder, prompt = Named.read("--images", images, wanted), Named.read("--judge-prompt", prompts, wanted)
    made: list[Suite] = []
    for name in wanted:
        path = file.of(name)
        if path is None:
            if name not in DRAWN:
                usual = PUBLISHED[name].file
                raise VlmendError(f"suite '{name}' is asked from a file: --file {name}=.../{usual}")
            made.append(DRAWN[name](scenes, protocol=protocol))
            continue
        suite, beside = PUBLISHED[name], file.beside(name)
        for role in beside:
            if role not in suite.beside:
                raise UnknownNameError(f"file of suite '{name}'", role, suite.beside)
        if suite.judged and judge is None:
            raise VlmendError(f"suite '{name}' is judged: give --judge-model, and --judge or recorded --replies")
        if prompt.of(name) and not suite.judged:
            raise VlmendError(f"--judge-prompt goes with a judged suite, which '{name}' is not")
        given = Given(path, beside, folder.of(name), protocol, limit, skip_missing, judge, prompt.of(name))
        made.append(suite.make(given))
    return made
