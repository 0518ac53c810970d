"""What `measure` says and is told of a judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmend.errors import VlmendError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlmend.evaluation.judged.judge import Judge

__all__ = [
    "AgainstOption",
    "JudgeKeyOption",
    "JudgeModelOption",
    "JudgeOption",
    "JudgePromptOption",
    "JudgeRunsOption",
    "JudgeTemperatureOption",
    "RepliesOption",
    "make_judge",
]

RECORD = "judge.jsonl"

JudgeOption = Annotated[
    str | None, typer.Option(metavar="URL", help="An OpenAI-compatible endpoint; what it replies is kept in the run.")
]
JudgeModelOption = Annotated[str | None, typer.Option(metavar="NAME", help="The endpoint's name of its model.")]
JudgeKeyOption = Annotated[
    str | None, typer.Option(metavar="VARIABLE", help="The environment variable that holds the endpoint's key.")
]
JudgeRunsOption = Annotated[int, typer.Option(min=1, help="How often each answer is judged; MM-Vet's paper: 5.")]
JudgeTemperatureOption = Annotated[
    float | None, typer.Option(min=0.0, help="Of the judge; the benchmark's own by default.")
]
JudgePromptOption = Annotated[
    list[str] | None, typer.Option(metavar="[SUITE=]FILE", help="Your copy of a benchmark's published judge prompt.")
]
RepliesOption = Annotated[
    list[Path] | None, typer.Option(help="A judge.jsonl of another run, whose replies are used; may be repeated.")
]
AgainstOption = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Another run: judged suites are compared with those of it.")
]


def make_judge(
    url: str | None,
    model: str | None,
    key: str | None,
    out: Path,
    replies: Sequence[Path],
    *,
    runs: int,
    temperature: float | None,
) -> Judge | None:
    """The judge that was named, asked over the network only if an address was given; ``None`` if none was.

    Raises:
        EndpointError: the address cannot be used, or the key is not there.
        RunError: recorded replies cannot be read.
        VlmendError: options that go together were not given together.
    """
    from vlmend.endpoints import Endpoint
    from vlmend.evaluation.judged.judge import Judge
    from vlmend.evaluation.judged.replies import Replies

    if model is None:
        for option, given in (("--judge", url), ("--judge-key", key), ("--replies", replies)):
            if given:
                raise VlmendError(f"{option} goes with --judge-model")
        return None
    if key is not None and url is None:
        raise VlmendError("--judge-key goes with --judge")
    endpoint = None if url is None else Endpoint(url, key)
    return Judge(model, Replies(out / RECORD, more=replies), endpoint, temperature=temperature, runs=runs)
