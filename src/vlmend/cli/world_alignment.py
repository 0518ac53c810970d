"""`vlmend world alignment`: what training on pairs does to a demo model."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmend.cli.align import method_of
from vlmend.cli.arguments import DeviceOption, folder_option, load_model, read_settings
from vlmend.cli.console import JsonFlag, progress, replying, working
from vlmend.errors import VlmendError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from vlmend.evaluation.stats import Estimate
    from vlmend.world.alignment import Findings

__all__ = ["alignment"]

_ASKED = 8_000_001  # `vlmend.world.alignment.SEED`, which is not imported for a help text
_MEASURES = {
    "companions, against the prior": "companion",
    "coverage, against the prior": "coverage",
    "CHAIR_i, against the prior": "chair_i",
    "CHAIR_i, natural": "chair_i_natural",
    "CHAIR_i, all": "chair_i_total",
    "coverage, natural": "coverage_natural",
    "POPE adversarial, F1": "pope_f1",
}
"""What a line is called -> the field of `Findings`."""


def alignment(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="A folder of `vlmend pairs`.")],
    model: Annotated[str, typer.Option(help="A demo model.")] = "demo",
    arms: Annotated[
        str,
        typer.Option(metavar="A,B", help="base, sft, bpo, 'bpo weakened', 'bpo injected', mdpo, vcd, or an objective."),
    ] = "base,sft,bpo",
    seeds: Annotated[str, typer.Option(metavar="N,N", help="Seeds of the trainings.")] = "0,1,2",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of all trainings; may be repeated."),
    ] = None,
    out: Annotated[Path, folder_option("The run folder; a run that was cut short there goes on.")] = Path(
        "runs/alignment"
    ),
    n: Annotated[int, typer.Option(min=2, help="Scenes that are described, of either sort.")] = 400,
    asked_seed: Annotated[int, typer.Option(help="Seed of what is asked.")] = _ASKED,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Train a demo model on pairs in several ways and seeds, and ask it about scenes against the prior."""
    with replying(as_json) as reply:
        from vlmend.data.formats.preferences import read_pairs
        from vlmend.data.identity import identity_of_pairs
        from vlmend.world.alignment import Asked, arm_of, study

        listed = re.split(r",(?![^()]*\))", arms)  # not within the settings of an objective
        names = list(dict.fromkeys(name.strip() for name in listed if name.strip()))
        for name in names:
            arm_of(name)
        try:
            wanted = [int(seed) for seed in seeds.split(",")]
        except ValueError as error:
            raise VlmendError(f"--seeds takes numbers with commas between, not '{seeds}'") from error
        method = method_of("bpo", "lora", read_settings(setting or ()))
        with working(f"Reading {pairs}"):
            given = read_pairs(pairs)
        vlm = load_model(model, device)
        from vlmend.alignment.train import settings_of
        from vlmend.edits.edit import library_versions
        from vlmend.runs import Run

        settings = {
            "model": vlm.name,
            "fingerprint": vlm.fingerprint,
            "pairs": {"file": str(pairs), **identity_of_pairs(given)},
            "training": settings_of(method),
            "asked": {"n": n, "seed": asked_seed},
            "versions": library_versions(),
        }
        with working("Drawing scenes"):
            asked = Asked.drawn(n, asked_seed)
        with Run(out, settings) as run:
            total = sum(len(arm_of(name).seeds(wanted)) for name in names)
            with progress("Training and asking", total, done=len(run.records)) as advance:
                found = study(vlm, given, names, wanted, asked, out, run, method, progress=advance)
            document = {name: asdict(one) for name, one in found.items()}
            run.finish(document)
        reply.say(_table(found), _by_kind(found))
        reply.line(str(out))
        reply.document = {"run": str(out), "seeds": wanted, "arms": document}


def _table(found: Mapping[str, Findings]) -> Table:
    """One line a measure, one column an arm: there are more of the former."""
    from vlmend.cli.tables import quiet_table
    from vlmend.report.words import bounds, percent

    shown = quiet_table("Per cent [95 % interval]", "")
    for name in found:
        shown.add_column(name, justify="right")
    for label, which in _MEASURES.items():
        rates = [getattr(one, which) for one in found.values()]
        shown.add_row(label, *(f"{percent(rate)} [{bounds(rate)}]" for rate in rates))
    for label, which in (("words, against the prior", "words"), ("words, natural", "words_natural")):
        lengths = [getattr(one, which) for one in found.values()]
        shown.add_row(label, *(f"{one.mean:.1f} [{one.low:.1f} to {one.high:.1f}]" for one in lengths))
    for other in list(found)[:-1]:
        leads = [one.companion_less.get(other) for one in found.values()]
        shown.add_row(f"companions less those of {other}", *map(_lead, leads))
    seeds = (", ".join(f"{100 * share:.0f}" for share in one.by_seed) for one in found.values())
    shown.add_row("companions, seed by seed", *seeds)
    return shown


def _lead(less: Estimate | None) -> str:
    from vlmend.report.words import bounds

    return "" if less is None else f"{100 * less.mean:+.1f} [{bounds(less)}]"


def _by_kind(found: Mapping[str, Findings]) -> Table:
    from vlmend.cli.tables import quiet_table
    from vlmend.report.words import bounds, percent

    shown = quiet_table("Questions answered right, per cent [95 % interval]", "")
    for name in found:
        shown.add_column(name, justify="right")
    for kind in next(iter(found.values())).questions:
        rates = [one.questions[kind] for one in found.values()]
        shown.add_row(kind, *(f"{percent(rate)} [{bounds(rate)}]" for rate in rates))
    return shown
