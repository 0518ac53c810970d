"""Running the command line in this process, with stdout and stderr apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

if TYPE_CHECKING:
    from vlmend import EditCase, Example, Probe


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """All of stdout as one JSON document; anything before or after it fails."""
        return json.loads(self.stdout)

    def is_a_users_mistake(self, *words: str) -> bool:
        """One line on stderr that has these words, nothing on stdout, exit code 2."""
        lines = self.stderr.strip().splitlines()
        assert self.code == 2, self.stderr
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("vlmend: ")
        assert "Traceback" not in self.stderr
        assert self.stdout == ""
        assert all(word in lines[0] for word in words), lines[0]
        return True


@pytest.fixture
def vlmend_cli() -> Callable[..., Outcome]:
    """`vlmend_cli("ask", ...)` runs the command."""
    from vlmend.cli.app import app

    def run(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
        unexpected = result.exception if not isinstance(result.exception, SystemExit) else None
        if unexpected is not None:
            raise unexpected
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def cases_file(tmp_path_factory: pytest.TempPathFactory, cases: list[EditCase]) -> Path:
    """The shared cases as an E-VQA file with its pictures beside it."""
    from vlmend.data.formats import mmedit

    folder = tmp_path_factory.mktemp("cases")

    def on_disk(example: Example, name: str) -> Example:
        if example.image is None:
            return example
        path = folder / f"{name}.png"
        example.image.save(path)
        return replace(example, image=path, aliases=())

    def saved(case: EditCase) -> EditCase:
        request = on_disk(case.request, case.id)
        probes: list[Probe] = []
        for probe in case.probes:
            same = probe.example.image is case.request.image
            example = on_disk(probe.example, case.id if same else f"{case.id}-{probe.kind}")
            probes.append(replace(probe, example=example))
        return replace(case, request=request, probes=tuple(probes))

    path = folder / "evqa.json"
    mmedit.write([saved(case) for case in cases], path)
    return path


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory, picture):
    """BPO's format: eight records of a good and a worse answer, their pictures beside."""
    folder = tmp_path_factory.mktemp("pairs")
    records = []
    for number, noun in enumerate(("cat", "dog", "cup", "hat", "bus", "tree", "sofa", "lamp")):
        picture(number).save(folder / f"{number}.png")
        answers = [{"score": 1, "response": f"a red {noun}", "type": "gt"}]
        answers.append({"score": 0, "response": f"a blue {noun}", "type": "llm-hal"})
        records.append({"prompt": "<image>\nwhat is this", "image": f"{number}.png", "completions": answers})
    path = folder / "pairs.json"
    path.write_text(json.dumps(records))
    return path
