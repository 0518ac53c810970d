"""The `vlmend` application: the commands put together, and what happens when one fails."""

from __future__ import annotations

import errno
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from vlmend import __version__
from vlmend.cli import (
    align,
    ask,
    bench,
    build,
    convert,
    data,
    demo,
    diagnose,
    doctor,
    edit,
    editors,
    edits,
    measure,
    pairs,
    sequence,
    train_editor,
    weaken,
    world,
)
from vlmend.cli.console import complain
from vlmend.errors import VlmendError
from vlmend.ranks import check_shares

__all__ = ["app"]

USER_MISTAKE = 2
INTERRUPTED = 130  # as shells report Ctrl-C

_USAGE: Any = typer.BadParameter.__base__  # Click's UsageError, which some versions of typer hold a copy of
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # names no file where a library writes


class Commands(TyperGroup):
    """The group of all commands: a user's mistake is one line on stderr and exit code 2, Ctrl-C is one line and 130."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command."""
        try:
            return super().parse_args(ctx, args)
        except _USAGE as error:
            _refuse(error, ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; one that does not share its work is refused among several processes."""
        found = super().resolve_command(ctx, args)
        name, command, rest = found
        words = [name, *rest[:1]] if isinstance(command, TyperGroup) else [name]
        # no command of a group shares its work
        check_shares(getattr(command, "callback", None), " ".join(("vlmend", *filter(None, words))))
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            _leave(INTERRUPTED, error, "interrupted", "give the same command again")
        except _USAGE as error:
            _refuse(error, ctx)
        except VlmendError as error:
            _leave(USER_MISTAKE, error, str(error))
        except OSError as error:
            if error.filename is None and error.errno not in _NO_ROOM:
                raise
            _leave(USER_MISTAKE, error, f"{error.filename or 'a file cannot be written'}: {error.strerror}")


def _leave(code: int, error: BaseException, problem: str, advice: str = "") -> NoReturn:
    """Say in one line what happened and what is left of the work; without such notes, the advice."""
    notes: list[str] = getattr(error, "__notes__", [])
    complain("; ".join((problem, *(notes or filter(None, [advice])))))
    raise typer.Exit(code)


def _refuse(error: Any, ctx: Any) -> NoReturn:
    """Say in one line what Click does not take; a group without a command shows its help, as ever."""
    if type(error).__name__ == "NoArgsIsHelpError":
        raise error
    _leave(USER_MISTAKE, error, error.format_message().rstrip("."), f"see {(error.ctx or ctx).command_path} --help")


app = typer.Typer(
    name="vlmend",
    cls=Commands,
    help="Diagnose, edit and prove fixes to vision-language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Diagnose, edit and prove fixes to vision-language models."""


app.command()(demo.demo)
app.command()(ask.ask)
app.command()(diagnose.diagnose)
app.command()(edit.edit)
app.command()(editors.editors)
app.command()(train_editor.train_editor)
app.command()(bench.bench)
app.command()(build.build)
app.command()(sequence.sequence)
app.command()(measure.measure)
app.command()(weaken.weaken)
app.command()(align.align)
app.command()(pairs.pairs)
app.command()(doctor.doctor)
app.add_typer(convert.app, name="convert")
app.add_typer(data.app, name="data")
app.add_typer(edits.app, name="edits")
app.add_typer(world.app, name="world")
