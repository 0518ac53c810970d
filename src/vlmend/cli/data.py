"""`vlmend data`: what is in a file of cases or of preferences, and what training gives away of evaluation."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import CasesArgument
from vlmend.cli.console import JsonFlag, Reply, replying, working
from vlmend.cli.tables import quiet_table
from vlmend.words import counted

if TYPE_CHECKING:
    from vlmend.data.formats import Format
    from vlmend.data.records import EditCase
    from vlmend.data.splits import Leak, Split
    from vlmend.data.summary import Summary

app = typer.Typer(
    help="Files of edit cases and of preferences: what is in them, and what they give away.", no_args_is_help=True
)

ImagesOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="What image paths are relative to; the file's folder by default.")
]

SHOWN = 5


@app.command()
def summary(file: CasesArgument, images: ImagesOption = None, as_json: JsonFlag = False) -> None:
    """Count a file's cases, probes, pictures, answers and duplicates; or the pairs of a file of preferences."""
    with replying(as_json) as reply:
        from vlmend.data.formats import recognise
        from vlmend.data.formats.preferences import holds_pairs
        from vlmend.data.summary import summarise

        with working(f"Reading {file}"):
            pairs = holds_pairs(file)
        if pairs:
            _summarise_pairs(reply, file, images)
            return
        with working(f"Reading {file}"):
            form = recognise(file)
            found = summarise(form.read(file, images, check_images=False))
        _show_summary(reply, file, form.NAME, found)
        reply.document = {"file": str(file), "format": form.NAME, **asdict(found)}


@app.command("leaks")
def find_leaks(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="The cases an editor is trained on.")],
    evaluation: Annotated[Path, typer.Argument(metavar="EVAL", help="The cases it is evaluated on.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write TRAIN here, in its format, without what leaks.")
    ] = None,
    images: ImagesOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Find what evaluation cases share with training cases, and write a training file without it.

    Pictures are the same when they are the same file; where the two name no file in common, when they are named alike.
    """
    with replying(as_json) as reply:
        from vlmend.data.pictures import relocated
        from vlmend.data.splits import drop, leaks

        with working("Comparing"):
            form, cases, held = _read_both(train, evaluation, images)
            found = leaks(cases, held)
            split = drop(cases, held) if out else None
            if out and split:
                root = images or train.parent
                form.write([relocated(case, lambda file: root / file) for case in split.train], out)
        reply.line(f"{evaluation}: {counted(len(held), 'case')}, against {len(cases)} of {train}")
        _show_leaks(reply, found)
        if split:
            _show_split(reply, len(cases), split, out)
        reply.document = {
            "train": {"file": str(train), "cases": len(cases)},
            "evaluation": {"file": str(evaluation), "cases": len(held)},
            "leaks": [asdict(leak) for leak in found],
            "out": None if split is None else _split_document(split, out),
        }


def _summarise_pairs(reply: Reply, file: Path, images: Path | None) -> None:
    from vlmend.data.formats.preferences import format_of, read_preferences
    from vlmend.data.summary import summarise_pairs

    with working(f"Reading {file}"):
        given = read_preferences(file, images, check_images=False)
        found, name = summarise_pairs(given.pairs, given.left_out), format_of(file)
    reply.line(f"{file}: {counted(found.pairs, 'pair')}, {name} format")
    table = quiet_table("Pairs", "")
    table.add_column("Number", justify="right")
    rows: list[tuple[str, str]] = [(f"worse answer: {name or '–'}", str(n)) for name, n in found.origins.items()]
    rows += [
        ("words, better answer", f"{found.chosen_words:.1f}"),
        ("words, worse answer", f"{found.rejected_words:.1f}"),
        ("the better answer is longer", f"{100 * found.longer:.0f} %"),
        ("pairs with labelled differences", str(found.labelled)),
        ("pictures named", str(found.pictures)),
        ("pictures missing", str(len(found.missing))),
        ("pairs without picture", str(found.without_picture)),
    ]
    for label, number in (*rows, *((f"left out: {why}", str(count)) for why, count in found.left_out.items())):
        table.add_row(label, number)
    reply.say("", table)
    _list(reply, "missing", found.missing)
    reply.document = {"file": str(file), "format": name, **asdict(found)}


def _read_both(train: Path, evaluation: Path, images: Path | None) -> tuple[Format, list[EditCase], list[EditCase]]:
    """Both files, their pictures as absolute paths if that gives them any in common, else as they are written."""
    from vlmend.data.formats import recognise
    from vlmend.data.pictures import case_files, relocated

    form = recognise(train)
    given = (
        form.read(train, Path(), check_images=False),
        recognise(evaluation).read(evaluation, Path(), check_images=False),
    )
    roots = ((images or file.parent).absolute() for file in (train, evaluation))
    placed = [
        [relocated(case, lambda file, root=root: Path(os.path.normpath(root / file))) for case in cases]
        for cases, root in zip(given, roots, strict=True)
    ]
    first, second = ({file for case in cases for file in case_files(case)} for cases in placed)
    cases, held = given if first.isdisjoint(second) else placed
    return form, cases, held


def _show_summary(reply: Reply, file: Path, name: str, found: Summary) -> None:
    reply.line(f"{file}: {counted(found.cases, 'case')}, {name} format")
    table = quiet_table("What is asked", "")
    for column in ("Number", "Answers, words", "Longest"):
        table.add_column(column, justify="right")
    for kind in found.kinds:
        words = (f"{kind.mean_words:.1f}", str(kind.most_words)) if kind.answers else ("–", "–")
        table.add_row(kind.kind.replace("_", " "), str(kind.count), *words)
    reply.say("", table)
    facts = quiet_table("Pictures and repetitions", "")
    facts.add_column("Number", justify="right")
    rows = (
        ("pictures named", found.pictures),
        ("pictures missing", len(found.missing)),
        ("edits without target", len(found.without_target)),
        ("edits asked twice (same picture, same question)", len(found.repeated)),
        ("edits that share their picture with another edit", found.sharing_picture),
        ("pictures so shared", found.shared_pictures),
    )
    for label, number in rows:
        facts.add_row(label, str(number))
    reply.say(facts)
    _list(reply, "missing", found.missing)
    _list(reply, "without target", found.without_target)
    _list(reply, "asked twice", found.repeated)


def _list(reply: Reply, what: str, names: tuple[str, ...]) -> None:
    for name in names[:SHOWN]:
        reply.line(f"{what}: {name}")
    if len(names) > SHOWN:
        reply.line(f"{what}: {len(names) - SHOWN} more (--json lists all)")


def _show_leaks(reply: Reply, found: tuple[Leak, ...]) -> None:
    table = quiet_table("What evaluation cases have in common with training cases", "Item")
    for column in ("Cases with one", "Same in training", "In any role there"):
        table.add_column(column, justify="right")
    for leak in found:
        counts = (len(leak.cases), len(leak.seen))
        table.add_row(_role(leak.role), str(leak.of), *(_share(count, leak.of) for count in counts))
    reply.say("", table)


def _role(role: str) -> str:
    return {"edit": "edit, both"}.get(role, role.replace("_", " "))


def _share(count: int, of: int) -> str:
    if not count:
        return "–"
    percent = f"{100 * count / of:.0f}" if 200 * count >= of else "< 1"
    return f"{count}  {percent:>4} %"


def _show_split(reply: Reply, before: int, split: Split, out: Path | None) -> None:
    from collections import Counter

    reply.line(f"{out}: {len(split.train)} of {before} training cases")
    for (role, why), count in Counter((one.role, one.why) for one in split.dropped).items():
        reply.line(f"  {_role(role)}: {count} × {why}")


def _split_document(split: Split, out: Path | None) -> dict[str, Any]:
    return {"file": str(out), "cases": len(split.train), "dropped": [asdict(one) for one in split.dropped]}
