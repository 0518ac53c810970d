"""How commands speak: answers on stdout, progress and complaints on stderr, `--json` as one document."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console, RenderableType

__all__ = ["JsonFlag", "Reply", "bars", "complain", "progress", "replying", "tracking", "working"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def complain(message: str) -> None:
    """One line on stderr, however many lines the message has."""
    typer.echo("vlmend: " + " ".join(message.split()), err=True)


class Reply:
    """What a command answers: `say` for people, `document` for programs; one of the two is shown.

    Of several processes one answers: the others leave ``document`` as it is, and print none.
    """

    def __init__(self, stdout: TextIO, as_json: bool) -> None:
        self.as_json = as_json
        self.document: Mapping[str, Any] | None = None
        self._console = Console(file=stdout, highlight=False, emoji=False, markup=False)
        self._stdout = stdout

    def say(self, *renderables: RenderableType) -> None:
        """Print for people; nothing under `--json`."""
        if not self.as_json:
            for renderable in renderables:
                self._console.print(renderable)

    def line(self, text: str) -> None:
        """Print one line as it is, never wrapped: a path stays whole."""
        if not self.as_json:
            self._stdout.write(text + "\n")
            self._stdout.flush()


@contextmanager
def replying(as_json: bool) -> Generator[Reply]:
    """A reply; while it is open, what libraries print goes to stderr under `--json`."""
    stdout = sys.stdout
    reply = Reply(stdout, as_json)
    if not as_json:
        yield reply
        return
    with redirect_stdout(sys.stderr):
        yield reply
    if reply.document is None:
        return
    json.dump(reply.document, stdout, ensure_ascii=False, indent=2, allow_nan=False)
    stdout.write("\n")


@contextmanager
def working(what: str) -> Generator[None]:
    """A spinner on stderr for work of unknown length."""
    quiet_libraries()
    with Console(stderr=True).status(what):
        yield


@contextmanager
def progress(what: str, total: int, *, done: int = 0) -> Generator[Callable[[], None]]:
    """A bar on stderr, where that is a terminal, of which ``done`` steps were finished before; call what it yields once
    per finished step."""
    steps = done

    def advance() -> None:
        nonlocal steps
        steps += 1
        moved(steps, total)

    with tracking(what) as moved:
        moved(done, total)
        yield advance


@contextmanager
def tracking(what: str) -> Generator[Callable[[int, int], None]]:
    """As `progress`, where the number of steps is not known yet; call what it yields with (finished, all)."""
    with bars() as moved:
        yield partial(moved, what)


@contextmanager
def bars() -> Generator[Callable[[str, int, int], None]]:
    """Several bars below each other, each by what is being done; call what it yields with that, and (finished, all)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        tasks: dict[str, Any] = {}

        def moved(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what[:1].upper() + what[1:], total=None)
            shown.update(tasks[what], completed=done, total=total)

        yield moved


def quiet_libraries() -> None:
    """Keep the chatter of model libraries off the terminal; their errors still raise."""
    warnings.filterwarnings("ignore", module=r"(transformers|torch|huggingface_hub)\b")
