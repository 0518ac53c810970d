"""`vlmend build`: an edit benchmark out of one's own questions or captions."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import (
    DeviceOption,
    ModelArgument,
    SkipMissingOption,
    check_askable,
    folder_option,
    load_model,
    placed,
    typed_device,
    usable_cases,
)
from vlmend.cli.console import JsonFlag, progress, replying
from vlmend.errors import DataError, UnknownNameError, VlmendError
from vlmend.words import counted

if TYPE_CHECKING:
    from vlmend.build.rewording import Rephraser
    from vlmend.data.records import EditCase

__all__ = ["build"]

_DRAWN_AT = 0.7  # temperature of rewordings


def build(
    model: ModelArgument,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Pictures with questions and right answers, in any format that is read."),
    ],
    out: Annotated[Path, folder_option("The folder to write to; a run that was cut short there goes on.")],
    kind: Annotated[str, typer.Option(help="What answers are: vqa (short answers) or caption.")] = "vqa",
    words: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What captions name: a file of objects as CHAIR's list, world, none; CHAIR's else.",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=0, help="How often each answer is drawn again; an error is wrong every time.")
    ] = 2,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of these draws.")] = 0.7,
    n: Annotated[int | None, typer.Option(min=1, help="At most so many errors.")] = None,
    rephrase: Annotated[
        str, typer.Option(metavar="HOW", help="templates, none, a chat model's folder, or the URL of an endpoint.")
    ] = "templates",
    rephrase_model: Annotated[str, typer.Option(help="The endpoint's name of its model.")] = "default",
    pictures: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A diffusers text-to-image pipeline that paints second pictures."),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            metavar="NOTE",
            help="The note that says what a picture shows; else question and answer, or the right caption.",
        ),
    ] = None,
    score: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="A CLIP-like model that second pictures must convince, too.")
    ] = None,
    text_locality: Annotated[Path | None, typer.Option(help="Questions without pictures that must stay.")] = None,
    image_locality: Annotated[Path | None, typer.Option(help="Questions about other pictures that must stay.")] = None,
    train: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the cases that is for training.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first so many records.")] = None,
    skip_missing: SkipMissingOption = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Keep what a model gets wrong for good; add rewordings, second pictures and questions that must stay; divide it so
    that training gives nothing of the evaluation away; and write it, what is whole of it as MMEdit's JSON, too, with a
    data card."""
    with replying(as_json) as reply:
        from vlmend.build.benchmark import LeftOut, Plan
        from vlmend.build.benchmark import build as run_all
        from vlmend.build.card import card, statistics
        from vlmend.build.content import contents
        from vlmend.build.errors import KINDS, Asking
        from vlmend.build.pictures import Diffused, Scorer
        from vlmend.data.grouping import grouped
        from vlmend.edits.edit import library_versions
        from vlmend.runs import Run, whole, write_json

        if kind not in KINDS:
            raise UnknownNameError("kind of data", kind, KINDS)
        synonyms = _synonyms(words, kind)
        place = placed(device)
        wanted, absent = usable_cases(data, limit, skip_missing=skip_missing)
        if blind := [case.id for case in wanted if not case.request.pictures]:
            raise VlmendError(f"{data}: record '{blind[0]}' has no picture")
        if caption:
            grouped(wanted, caption)
        pools: dict[str, list[EditCase]] = {}
        skipped = [LeftOut("read", "picture missing or not read", name) for name in absent]
        for option, file, pictured in (
            ("--text-locality", text_locality, False),
            ("--image-locality", image_locality, True),
        ):
            pools[option], absent = _pool(option, file, pictured, skip_missing)
            skipped += [LeftOut("read", f"picture missing or not read, of {option}")] * len(absent)
        plan = Plan(
            asking=Asking(kind, draws, temperature, seed, max_new_tokens, synonyms),
            rephraser=_rephraser(rephrase, rephrase_model, kind, place),
            painter=Diffused(pictures, device=place) if pictures else None,
            caption=caption,
            scorer=Scorer(score, place) if score else None,
            text_pool=[case.request for case in pools["--text-locality"]],
            image_pool=[case.request for case in pools["--image-locality"]],
            most=n,
            train=train,
            seed=seed,
        )
        if not (out / "run.json").exists():  # one that goes on need not have every tool there any more
            plan.check()
        vlm = load_model(model, device)
        check_askable(vlm, [*wanted, *(case for pool in pools.values() for case in pool)])
        settings = {
            "model": vlm.name,
            "fingerprint": vlm.fingerprint,
            "data": contents(wanted),
            **{option.strip("-"): contents(pool) for option, pool in pools.items()},
            "kind": kind,
            "words": synonyms and hashlib.blake2b(synonyms.encode(), digest_size=8).hexdigest(),
            "draws": draws,
            "temperature": temperature,
            "rephrase": [rephrase, rephrase_model],
            "pictures": [pictures, caption, score],
            "n": n,
            "train": train,
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "versions": library_versions(),
        }
        with Run(out, settings) as run:
            with progress("Asking, rewording, judging pictures", len(wanted), done=len(run.records)) as advance:
                made = run_all(vlm, wanted, out, plan, run, advance)
            made = replace(made, left_out=(*skipped, *made.left_out))
            run.finish(statistics(made))
        files = {"--words": words, "--text-locality": text_locality, "--image-locality": image_locality}
        typed = _typed(model, data, out, settings | {"limit": limit}, files)
        command = shlex.join([*typed, *(["--skip-missing"] if skip_missing else []), *typed_device(device)])
        about = {
            "Model": f"{vlm.name} (weights {vlm.fingerprint[:12]})",
            "Data": f"{counted(len(wanted), 'record')} of {data.name}",
        }
        about |= {
            "Seed": str(seed),
            "Errors": f"wrong in the greedy answer and in {draws} drawn at temperature {temperature:g}",
        }
        with whole(out / "README.md") as part:
            part.write_text(card(made, about=about, command=command), encoding="utf-8")
        write_json(out / "statistics.json", statistics(made))
        reply.say(
            f"{len(made.train)} training and {len(made.evaluation)} evaluation cases of "
            f"{counted(made.asked, 'record')}; {'nothing leaks' if made.clean else 'something leaks'}."
        )
        reply.line(str(out / "README.md"))
        reply.document = {"out": str(out), "seed": seed, **statistics(made)}


def _synonyms(words: str | None, kind: str) -> str | None:
    """The words of objects, read and tried: of a file, the demo world's, or none at all."""
    from vlmend.build.errors import Captioned
    from vlmend.data.formats.coco import read_synonyms
    from vlmend.world.catalog import catalog

    if words is None:
        return None
    if kind != "caption":
        raise VlmendError("--words says what captions name: it goes with --kind caption")
    if words == "none":
        return ""
    if words == "world":
        return "\n".join(catalog().kinds)
    text = read_synonyms(words)
    try:
        Captioned(text)
    except VlmendError as error:
        raise DataError(str(error), path=words) from error
    return text


def _rephraser(how: str, name: str, kind: str, place: str) -> Rephraser | None:
    from vlmend.build.rewording import Reworder, Templates
    from vlmend.models.chat import EndpointChat, FolderChat

    if how == "none":
        return None
    if how == "templates":
        return Templates(kind)
    if "://" in how:
        return Reworder(EndpointChat(how, name, temperature=_DRAWN_AT))
    if not Path(how).is_dir():
        shown = "that" if {*how} & {*"@?=:"} else f"'{how}'"  # a URL cut short may carry a key
        raise VlmendError(f"--rephrase takes templates, none, a folder or a URL, not {shown}")
    return Reworder(FolderChat(how, temperature=_DRAWN_AT, max_new_tokens=64, device=place))


def _pool(option: str, file: Path | None, pictured: bool, skip_missing: bool) -> tuple[list[EditCase], list[str]]:
    """What of a file locality can be dealt out of, requests with, or without, pictures; and what was left out of it."""
    if file is None:
        return [], []
    cases, absent = usable_cases(file, None, skip_missing=skip_missing)
    found = [case for case in cases if bool(case.request.pictures) == pictured]
    if not found:
        raise DataError(
            f"{option} takes questions {'about' if pictured else 'without'} pictures, and it has none", path=file
        )
    return found, absent


def _typed(
    model: str, data: Path, out: Path, settings: dict[str, Any], files: Mapping[str, Path | str | None]
) -> Sequence[str]:
    """The command, with what is not as it is of itself."""
    (rephrase, name), (pictures, caption, score) = settings["rephrase"], settings["pictures"]
    options: list[tuple[str, Any, Any]] = [
        ("--kind", settings["kind"], "vqa"),
        ("--draws", settings["draws"], 2),
        ("--temperature", settings["temperature"], 0.7),
        ("--n", settings["n"], None),
        ("--rephrase", rephrase, "templates"),
        ("--rephrase-model", name, "default"),
        ("--pictures", pictures, None),
        ("--caption", caption, None),
        ("--score", score, None),
        *((option, file, None) for option, file in files.items()),
        ("--train", settings["train"], 0.5),
        ("--seed", settings["seed"], 0),
        ("--limit", settings["limit"], None),
        ("--max-new-tokens", settings["max_new_tokens"], 32),
    ]
    given = [word for option, value, usual in options if value != usual for word in (option, str(value))]
    return ["vlmend", "build", model, str(data), "--out", str(out), *given]
