"""`vlmend world`: the demo world, its models, and the benchmarks made from their errors."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vlmend.cli.arguments import DeviceOption, ModelArgument, folder_option, load_model, placed
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.cli.world_alignment import alignment
from vlmend.cli.world_attribution import attribution
from vlmend.cli.world_cooperation import cooperation
from vlmend.cli.world_table import table as method_table

if TYPE_CHECKING:
    from vlmend.evaluation.stats import Estimate

app = typer.Typer(
    help="The demo world: pictures, models trained on it, benchmarks of their errors.", no_args_is_help=True
)
app.command()(attribution)
app.command()(cooperation)
app.command()(alignment)
app.command("table")(method_table)

_WIDEST = 200  # pictures in a row; more take minutes to draw, and few programs show them

OutOption = Annotated[Path, folder_option("The folder to write to.")]
SeedOption = Annotated[int, typer.Option(help="Seed of what is drawn.")]


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("world.png"),
    seed: SeedOption = 0,
    columns: Annotated[int, typer.Option(min=1, max=_WIDEST, help="Pictures in a row.")] = 8,
    as_json: JsonFlag = False,
) -> None:
    """Draw a sheet of scenes: natural, counter to the prior, uniform, flags; in both looks."""
    with replying(as_json) as reply:
        from vlmend.models.pictures import save_picture
        from vlmend.world.sheet import sheet

        save_picture(sheet(seed, columns), out)
        reply.line(str(out))
        reply.document = {"picture": str(out), "seed": seed}


@app.command()
def train(
    backbone: Annotated[
        str, typer.Argument(help="llava, blip2 (Q-Former and OPT) or minigpt4 (Q-Former and Llama).")
    ] = ("llava"),
    out: Annotated[Path | None, folder_option("The folder to write to; runs/demo-BACKBONE by itself.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn; the shipped model's by itself.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="A shorter run: so many decoder steps, then a third as many of polishing.")
    ] = None,
    device: DeviceOption = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Processes that render pictures and, for a GPU, batches.")] = 2,
    as_json: JsonFlag = False,
) -> None:
    """Train a demo model from nothing; a run that was cut short in OUT goes on."""
    with replying(as_json) as reply:
        from dataclasses import replace

        from vlmend.errors import VlmendError
        from vlmend.world.train.decoder import binding_first, polishing
        from vlmend.world.train.recipe import RECIPES, Means
        from vlmend.world.train.recipe import train as run

        if backbone not in RECIPES:
            raise VlmendError(f"no demo model has the backbone '{backbone}'; there are: {', '.join(RECIPES)}")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        recipe = RECIPES[backbone]
        if seed is not None:
            recipe = replace(recipe, seed=seed)
        if steps is not None:
            recipe = replace(recipe, schedules=(binding_first(steps), polishing(steps // 3)))
        model = run(out or Path("runs") / f"demo-{backbone}", recipe, Means(placed(device), workers))
        reply.line(str(model))
        reply.document = {"model": str(model), "recipe": asdict(recipe)}


@app.command()
def exam(
    model: ModelArgument = "demo",
    n: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 400,
    seed: SeedOption = 9_000_001,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Only these sections: scenes, pope, entities, facts, context, captions, layers, held_out.",
        ),
    ] = None,
    card: Annotated[Path | None, folder_option("Write the model card, its figures and exam.json here.")] = None,
    second: Annotated[Path | None, typer.Option(help="Another seed's exam.json, shown beside in the card.")] = None,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Examine a demo model on scenes that no training has seen; every gate of its card."""
    with replying(as_json) as reply:
        from vlmend.errors import VlmendError
        from vlmend.models.bundled import bundled_folder
        from vlmend.runs import write_json
        from vlmend.world.card import Examined, read_exam, write_card
        from vlmend.world.exam import SECTIONS, Settings, examine
        from vlmend.world.train.recipe import recorded

        if only and card:
            raise VlmendError("--card needs the whole examination: leave out --only")
        if second and not card:
            raise VlmendError("--second is shown in a card: give --card too")
        beside = read_exam(second) if second else None  # before the long work
        sections = only.split(",") if only else list(SECTIONS)
        if unknown := [s for s in sections if s not in SECTIONS]:
            raise VlmendError(f"no section '{unknown[0]}' in the examination; there are: {', '.join(SECTIONS)}")
        vlm = load_model(model, device)
        with working("Examining"):
            estimates = examine(vlm, Settings(n, seed), sections)
        document = {
            "model": model,
            "fingerprint": vlm.fingerprint,
            "recipe": recorded(bundled_folder(model) or Path(model)),
            "n": n,
            "seed": seed,
            "estimates": {name: asdict(e) for name, e in estimates.items()},
        }
        if card:
            write_json(card / "exam.json", document)
            write_card(card, Examined.of(document), beside)
        reply.say(exam_table(estimates))
        reply.document = document


def exam_table(estimates: dict[str, Estimate]) -> Table:
    """Gates first, then what else was measured."""
    from vlmend.world.exam import GATES

    table = Table(title_justify="left", header_style="bold")
    for column in ("Measured", "n", "Value", "95 % interval", "Gate", ""):
        table.add_column(column)
    gates = {gate.name: gate for gate in GATES}
    for name in sorted(estimates, key=lambda key: key not in gates):
        estimate, gate = estimates[name], gates.get(name)
        bounds = gate.bounds if gate else ""
        verdict = ("passed" if gate.holds(estimate) else "FAILED") if gate else ""
        table.add_row(
            name, str(estimate.n), f"{estimate.mean:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}", bounds, verdict
        )
    return table


def _sizes(given: tuple[int, int]) -> tuple[int, int]:
    """What a pair of counts was given as; typer holds no pair to a least value."""
    if min(given) < 0:
        raise typer.BadParameter(f"{min(given)} is below 0.")
    return given


def _pair(what: str) -> Any:
    """An option of two counts: for training and for evaluation."""
    return typer.Option(help=f"{what}: train, eval.", callback=_sizes)


@app.command()
def build(
    model: ModelArgument = "demo",
    out: OutOption = Path("runs/world-bench"),
    evqa: Annotated[tuple[int, int], _pair("E-VQA cases")] = (200, 100),
    eic: Annotated[tuple[int, int], _pair("E-IC cases")] = (60, 40),
    renamed: Annotated[tuple[int, int], _pair("Cases of flags given another name")] = (0, 0),
    supposed: Annotated[tuple[int, int], _pair("Cases of questions given an answer that is not true")] = (0, 0),
    standing: Annotated[tuple[int, int], _pair("Such cases that can all be in force together")] = (0, 0),
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Write edit cases out of the model's own errors: JSON lines with all probes, and JSON as MMEdit publishes it.

    Each scene is drawn three times; an error is one that the model makes in two of these pictures at least.
    """
    with replying(as_json) as reply:
        from vlmend.errors import VlmendError

        wanted = {"evqa": evqa, "eic": eic, "renamed": renamed, "supposed": supposed, "standing": standing}
        if not any(map(any, wanted.values())):
            raise VlmendError("all counts are 0: nothing is to be written; give --evqa, --eic or another")
        vlm = load_model(model, device)
        from vlmend.cli.tables import quiet_table
        from vlmend.world.build import build as run

        sizes: dict[str, Any] = {task: dict(zip(("train", "eval"), pair, strict=True)) for task, pair in wanted.items()}
        with working("Looking for errors"):
            tried = run(vlm, out, **sizes, seed=seed)
        table = quiet_table(
            "Usable: wrong in at least 2 of 3 pictures of a scene (renamed flags: right)", "File", "Kind"
        )
        for column in ("Asked", "Usable"):
            table.add_column(column, justify="right")
        document: dict[str, Any] = {"out": str(out), "seed": seed, "files": {}}
        for name, tally in tried.items():
            document["files"][name] = {k: {"asked": n, "wrong": tally.wrong[k]} for k, n in tally.asked.items()}
            for kind, asked in tally.asked.items():
                table.add_row(f"{name}.json", kind, str(asked), str(tally.wrong[kind]))
        reply.say(table)
        reply.line(str(out))
        reply.document = document


@app.command()
def exemplars(
    out: OutOption = Path("runs/exemplars"),
    n: Annotated[int, typer.Option(min=1, help="Pictures; or facts.")] = 1200,
    seed: SeedOption = 0,
    again: Annotated[bool, typer.Option("--again", help="With a second picture of the same for each.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="Facts asked by name, without pictures, instead.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write pictures with questions and right answers: exemplars for visual-exemplar, or data for vlmend build."""
    with replying(as_json) as reply:
        from vlmend.errors import VlmendError
        from vlmend.world.exemplars import write, write_facts

        if facts and again:
            raise VlmendError("--facts have no pictures: leave out --again")
        with working("Drawing"):
            path = write_facts(out, n, seed) if facts else write(out, n, seed, again=again)
        reply.line(str(path))
        reply.document = {"cases": str(path), "facts" if facts else "pictures": n, "seed": seed}


@app.command()
def positives(
    out: OutOption = Path("runs/positives"),
    captions: Annotated[int, typer.Option(min=0, help="Descriptions.")] = 600,
    questions: Annotated[int, typer.Option(min=0, help="Questions.")] = 600,
    form: Annotated[str, typer.Option(help="Of the descriptions: short, detailed or list.")] = "short",
    kinds: Annotated[
        str | None, typer.Option(metavar="A,B", help="Kinds of question, in turn; all nine by default.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write natural pictures with right answers, as conversations: what vlmend pairs makes worse answers for."""
    with replying(as_json) as reply:
        from vlmend.errors import VlmendError
        from vlmend.world.positives import KINDS, write

        if not captions + questions:
            raise VlmendError("--captions and --questions are both 0: nothing is to be written")
        asked = KINDS if kinds is None else tuple(kind.strip() for kind in kinds.split(",") if kind.strip())
        if not asked:
            raise VlmendError("--kinds names no kind of question")
        with working("Drawing"):
            path = write(out, captions, questions, seed, form, asked)  # pyright: ignore[reportArgumentType]
        reply.line(str(path))
        reply.document = {"conversations": str(path), "captions": captions, "questions": questions, "seed": seed}


@app.command()
def dose(
    out: OutOption = Path("runs/dose"),
    model: Annotated[str, typer.Option(help="The model whose image encoder the small models share.")] = "demo",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Measure hallucination against each dial of the prior, on small models; a study that was cut short goes on."""
    with replying(as_json) as reply:
        from vlmend.world.dose import Trial
        from vlmend.world.dose import dose as run

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
        vlm = load_model(model, device)
        vision: Any = vlm.parts.vision
        records = run(vision, out, Trial(seed=seed), logging.getLogger(__name__).info)
        table = Table(title_justify="left", header_style="bold")
        for column in ("Dial", "Value", *(name for name in records[0] if name not in ("dial", "value"))):
            table.add_column(column)
        for record in records:
            cells = [
                f"{e['mean']:.3f} ({e['low']:.3f} to {e['high']:.3f})" for e in record.values() if isinstance(e, dict)
            ]
            table.add_row(str(record["dial"]), f"{record['value']:g}", *cells)
        reply.say(table)
        reply.line(str(out))
        reply.document = {"run": str(out), "records": records}
