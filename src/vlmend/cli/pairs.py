"""`vlmend pairs`: worse answers for good ones, by weakened pictures and by errors written into them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import DeviceOption, LimitOption, ModelArgument, folder_option, load_model, placed
from vlmend.cli.console import JsonFlag, Reply, progress, replying, working
from vlmend.cli.dosing import CURVE, STEP, dosed, step_of
from vlmend.cli.tables import quiet_table
from vlmend.data.identity import identity
from vlmend.errors import DataError, UnknownNameError, VlmendError
from vlmend.ranks import Ranks, shares_work
from vlmend.runs import Run
from vlmend.words import counted

if TYPE_CHECKING:
    from vlmend.alignment.checkable import Checkable
    from vlmend.alignment.inject import Injector
    from vlmend.alignment.pairs import Made, Way
    from vlmend.data.records import EditCase
    from vlmend.models.chat import Chat
    from vlmend.models.vlm import VLM

__all__ = ["pairs"]

_WAYS = ("weaken", "inject")


@shares_work
def pairs(
    model: ModelArgument,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Pictures with questions and good answers: conversations, cases, or preferences."
        ),
    ],
    out: Annotated[Path, folder_option("The folder to write to; a run that was cut short there goes on.")],
    by: Annotated[str, typer.Option(metavar="A,B", help="How worse answers are made: weaken, inject.")] = (
        "weaken,inject"
    ),
    images: Annotated[Path | None, typer.Option(help="The folder with the pictures; the file's by default.")] = None,
    step: Annotated[int | None, typer.Option(help="Weaken: step of noise, 0 to 999; measured by default.")] = None,
    snr: Annotated[float | None, typer.Option(help="Weaken: signal-to-noise ratio in dB, instead of a step.")] = None,
    kl: Annotated[
        float | None, typer.Option(help="Weaken: nats a token between what is said with and without noise, instead.")
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weaken: the step at the top of this curve.json of vlmend weaken."),
    ] = None,
    where: Annotated[str, typer.Option(help="Weaken: where the noise goes: pixels or picture.")] = "pixels",
    temperature: Annotated[float, typer.Option(min=0.0, help="Weaken: of the draws; 0 for none.")] = 0.2,
    contrast: Annotated[
        float, typer.Option(min=0.0, help="Weaken: answers by (1 + A) x with noise - A x without; 0 for none.")
    ] = 0.0,
    rewriter: Annotated[
        str,
        typer.Option(
            metavar="HOW", help="Inject: own (the model's language model), resample, a chat model's folder, or a URL."
        ),
    ] = "auto",
    rewriter_model: Annotated[str, typer.Option(help="Inject: the endpoint's name of its model.")] = "default",
    answers: Annotated[str, typer.Option(help="Inject: what answers are: description, question, auto.")] = "auto",
    words: Annotated[
        str, typer.Option(metavar="FILE", help="Objects that count as a difference, as CHAIR lists them; world; none.")
    ] = "auto",
    ratio: Annotated[
        tuple[float, float], typer.Option(help="Inject: least and most length, over that of the good answer.")
    ] = (0.8, 1.25),
    weakened_ratio: Annotated[tuple[float, float], typer.Option(help="Weaken: the same.")] = (0.5, 2.0),
    plausible: Annotated[
        float, typer.Option(help="Least mean log-probability a token of a worse answer, in nats.")
    ] = -6.0,
    tries: Annotated[int, typer.Option(min=1, help="How often an answer that is not kept is made again.")] = 3,
    formats: Annotated[
        str, typer.Option("--format", metavar="A,B", help="Of the shards: jsonl, json, parquet, arrow.")
    ] = "jsonl",
    shard: Annotated[int, typer.Option(min=1, help="Pairs in a shard.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    limit: LimitOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Make a worse answer for every good one, check it, and write pairs as TRL's columns with a manifest."""
    with replying(as_json) as reply:
        from vlmend.alignment import shards
        from vlmend.alignment.inject import mode_of
        from vlmend.alignment.pairs import Check, Injecting, Weakened, made_pairs, make
        from vlmend.alignment.weaken import Weakening
        from vlmend.edits.edit import library_versions

        ranks = Ranks.launched()
        chosen = _listed(by, "--by", _WAYS, "way")
        forms = _listed(formats, "--format", shards.FORMATS, "format of pairs")
        by_what, value, why = _amount(step, snr, kl, curve)
        noise = Weakening(by_what, value, where, seed)  # pyright: ignore[reportArgumentType]
        mode_of(answers, "")  # pyright: ignore[reportArgumentType]
        if math.isnan(plausible):  # no answer is as likely as that, and none is less likely
            raise VlmendError("--plausible takes a number of nats, not nan")
        for option, (least, most) in (("--ratio", ratio), ("--weakened-ratio", weakened_ratio)):
            if not 0 < least <= most:
                raise VlmendError(f"{option} takes least and most, both above 0, not {least:g} and {most:g}")
        how, place = _resolved(rewriter, model), placed(device)
        checkable = _checkable(words, model)
        cases = _cases(data, images)[:limit]
        if not cases:
            raise DataError("no record in it can be used", path=data)
        vlm = load_model(model, device)
        about = {"model": vlm.name, "fingerprint": vlm.fingerprint, "data": identity(cases, opened=False)}
        versions = library_versions()
        injector = (
            _injector(how, rewriter_model, vlm, checkable, answers, max_new_tokens, place)
            if "inject" in chosen
            else None
        )
        if "weaken" in chosen and not why:
            depends = {**about, "words": words, "contrast": contrast, "max_new_tokens": max_new_tokens}
            depends |= {"where": where, "seed": seed, "versions": versions}
            if ranks.first:
                dosed(vlm, cases, checkable, noise, out / "curve", depends, contrast, max_new_tokens)
            ranks.wait()
            found, why = step_of(out / "curve" / CURVE)
            noise = replace(noise, value=found)
        ways: list[Way] = []
        for name in chosen:
            if name == "weaken":
                check = Check(checkable, weakened_ratio, plausible)
                ways.append(Weakened(vlm, noise, check, tries, temperature, contrast, max_new_tokens))
            elif injector is not None:
                ways.append(Injecting(injector, Check(checkable, ratio, plausible), tries, seed))
        settings = {
            **about,
            "by": chosen,
            "noise": [noise.by, noise.value, noise.where] if "weaken" in chosen else None,
            "noise_from": why if "weaken" in chosen else None,
            "temperature": temperature,
            "contrast": contrast,
            "rewriter": [how, rewriter_model, answers],
            "words": words,
            "ratios": [list(ratio), list(weakened_ratio)],
            "plausible": plausible,
            "tries": tries,
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "versions": versions,
        }
        with Run(out, settings, ranks) as run:
            mine = {case.id for case in ranks.share(cases)}
            done = sum(record["id"] in mine for record in run.records)
            with progress("Making worse answers", len(ways) * len(mine), done=done) as advance:
                make(vlm, cases, ways, run, advance, ranks)
        if ranks.count > 1:
            ranks.wait()
            if not ranks.first:
                return
        with working("Writing the pairs"), Run(out, settings) as run:
            found, dropped = made_pairs(cases, ways, run.records)
            about = {**settings, "source": {"file": data.name, "sha256": _digest(data), "records": len(cases)}}
            manifest = shards.write(out, found, dropped, about, forms=forms, most=shard)
            run.finish({"pairs": manifest["pairs"], "by": manifest["by"]})
        if noise.by == "step" and "weaken" in chosen:
            reply.line(f"Step of noise: {noise.value} ({why}).")
        _show(reply, manifest, len(cases), dropped)
        reply.line(str(out / shards.MANIFEST))
        reply.document = {"out": str(out), **manifest}


def _listed(given: str, option: str, known: Sequence[str], kind: str) -> list[str]:
    found = list(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))
    if not found:
        raise VlmendError(f"{option} names no {kind}")
    for name in found:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return found


def _amount(step: int | None, snr: float | None, kl: float | None, curve: Path | None) -> tuple[str, float, str]:
    """How much noise is asked for, and who says so: nobody, where it is to be measured."""
    amounts = {"step": step, "snr": snr, "kl": kl}
    given = [name for name, value in {**amounts, "curve": curve}.items() if value is not None]
    if len(given) > 1:
        raise VlmendError(f"--{given[0]} and --{given[1]} say the same thing: give one of them")
    if curve is not None:
        return "step", *step_of(curve)
    return next(((name, value, "given") for name, value in amounts.items() if value is not None), ("step", STEP, ""))


def _cases(data: Path, images: Path | None) -> list[EditCase]:
    """Questions with good answers, whatever kind of file they are in; pictures are looked for one by one later."""
    from vlmend.alignment.pairs import positives
    from vlmend.data.formats import read
    from vlmend.data.formats.preferences import holds_pairs, read_preferences

    with working(f"Reading {data}"):
        if holds_pairs(data):
            return positives(read_preferences(data, images, check_images=False).pairs)
        return read(data, images, check_images=False)


def _is_demo(model: str) -> bool:
    from vlmend.models.bundled import BUNDLED

    return model in BUNDLED


def _resolved(rewriter: str, model: str) -> str:
    if rewriter == "auto":
        return "resample" if _is_demo(model) else "own"  # the demo models follow no instructions
    if rewriter in ("own", "resample") or rewriter.startswith(("http://", "https://")) or Path(rewriter).is_dir():
        return rewriter
    raise VlmendError(f"--rewriter takes own, resample, a folder or a URL, not '{rewriter}'")


def _injector(
    how: str, name: str, vlm: VLM, checkable: Checkable | None, answers: Any, max_new_tokens: int, place: str
) -> Injector:
    from vlmend.alignment.inject import Resampler, Rewriter
    from vlmend.models.chat import EndpointChat, FolderChat, OwnChat

    if how == "resample":
        if checkable is None:
            raise VlmendError("--rewriter resample needs words that can be checked: leave out --words none")
        return Resampler(vlm, checkable, max_new_tokens=max_new_tokens)
    chat: Chat
    if how == "own":
        chat = OwnChat(vlm, max_new_tokens=max_new_tokens)
    elif how.startswith(("http://", "https://")):
        chat = EndpointChat(how, name, max_new_tokens=max_new_tokens)
    else:
        chat = FolderChat(how, max_new_tokens=max_new_tokens, device=place)
    chat.check()  # before the long work
    return Rewriter(chat, answers)


def _checkable(words: str, model: str) -> Checkable | None:
    from vlmend.alignment.checkable import Checkable
    from vlmend.data.formats.coco import SYNONYMS, read_synonyms

    if words == "none":
        return None
    if words == "world" or (words == "auto" and _is_demo(model)):
        from vlmend.world.checkable import checkable

        return checkable()
    return Checkable.of_objects(read_synonyms(SYNONYMS if words == "auto" else words))


def _digest(data: Path) -> str | None:
    from vlmend.alignment.shards import digest

    return digest(data) if data.is_file() else None


def _show(reply: Reply, manifest: dict[str, Any], records: int, dropped: Sequence[Made]) -> None:
    from vlmend.alignment import shards
    from vlmend.alignment.pairs import UNREADABLE

    table = quiet_table(f"{manifest['pairs']} pairs of {records} records", "", "What became of it")
    table.add_column("Records", justify="right")
    for way, counts in manifest["by"].items():
        table.add_row(way, "pairs", str(counts["pairs"]))
        for why, count in counts["dropped"].items():
            table.add_row("", f"dropped: {why}", str(count))
        if counts["pairs"]:
            likely = counts["log_probs"]
            said = f"log-probability a token: {likely['chosen']:.2f} good, {likely['rejected']:.2f} worse"
            table.add_row("", said, "")
    reply.say(table)
    unread = {made.id: made.detail for made in dropped if UNREADABLE in made.why}
    if unread:
        first, why = next(iter(unread.items()))
        reply.line(
            f"{counted(len(unread), 'record')} could not be asked, '{first}' first: {why} ({shards.DROPPED} names all)"
        )
