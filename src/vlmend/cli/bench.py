"""`vlmend bench`: measure editors on a file of cases."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.arguments import (
    CasesArgument,
    DeviceOption,
    EditorSettingOption,
    EditorsOption,
    LimitOption,
    ModelArgument,
    SkipMissingOption,
    by_module,
    check_askable,
    check_places,
    folder_option,
    load_model,
    make_editors,
    read_cases,
    typed_device,
)
from vlmend.cli.console import JsonFlag, replying, working
from vlmend.cli.measuring import described, measure
from vlmend.cli.tables import Comparison
from vlmend.ranks import Ranks, shares_work

if TYPE_CHECKING:
    from vlmend.evaluation.proof import Proof
    from vlmend.evaluation.stats import Estimate

__all__ = ["bench"]


@shares_work
def bench(
    model: ModelArgument,
    cases: CasesArgument,
    out: Annotated[Path, folder_option("The run folder; a run that was cut short there goes on.")],
    editors: EditorsOption = "ft",
    setting: EditorSettingOption = None,
    modules: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Each editor that can, once in each place: language, connector, vision, a path."
        ),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="All edits in force at once, instead of every case edited alone.")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(metavar="NOTE", help="Scores also apart, by what cases note under this name."),
    ] = None,
    edit: Annotated[
        list[Path] | None, typer.Option(help="A saved edit that is in force before and after; may be repeated.")
    ] = None,
    limit: LimitOption = None,
    skip_missing: SkipMissingOption = False,
    max_new_tokens: Annotated[
        int, typer.Option(min=0, help="Longest answer, in tokens; 0 for teacher-forced scores alone.")
    ] = 32,
    protocol: Annotated[
        str, typer.Option(help="Whose questions and scores: default, legacy (EasyEdit's) or visedit.")
    ] = "default",
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Edit every case alone with each editor, or all at once, measure before and after, and write a report."""
    with replying(as_json) as reply:
        from vlmend.data.grouping import grouped
        from vlmend.editors.base import Labelled
        from vlmend.edits.edit import Edit, stacked
        from vlmend.evaluation.protocols import protocol_of

        ranks = Ranks.launched()
        methods, way = by_module(make_editors(editors, setting or ()), modules or ""), protocol_of(protocol)
        unplaced = [method.name for method in methods if modules and not isinstance(method, Labelled)]
        if unplaced and ranks.first:
            reply.line(f"Measured once, without a choice of module: {', '.join(unplaced)}")
        wanted = read_cases(cases, limit, skip_missing=skip_missing)
        groups = grouped(wanted, by) if by else {}
        vlm = load_model(model, device)
        check_askable(vlm, wanted)
        check_places(vlm.parts, modules or "")
        standing = [Edit.load(folder) for folder in edit or ()]
        measured = partial(
            measure, vlm, methods, wanted, out, protocol=way, max_new_tokens=max_new_tokens, at_once=together
        )
        with vlm.using(stacked(standing) if standing else None):
            if ranks.count > 1:
                measured(ranks=ranks)
                ranks.wait()
                if not ranks.first:
                    return
            proofs = measured()
        command = ["vlmend", "bench", model, str(cases), "--editors", editors, "--out", str(out)]
        command += [word for one in setting or () for word in ("--set", one)]
        command += typed_device(device)
        command += ["--modules", modules] if modules else []
        command += ["--together"] if together else []
        command += ["--by", by] if by else []
        command += [word for one in edit or () for word in ("--edit", str(one))]
        command += ["--limit", str(limit)] if limit else []
        command += ["--skip-missing"] if skip_missing else []
        command += ["--max-new-tokens", str(max_new_tokens)] if max_new_tokens != 32 else []
        command += ["--protocol", protocol] if protocol != "default" else []
        with working("Writing the report"):
            from vlmend.report.comparison import together as scores_of
            from vlmend.report.content import cost_of
            from vlmend.report.folder import fill
            from vlmend.report.html import headlines

            titled = {f"{by}: {value}": ids for value, ids in groups.items()}
            title = f"{len(wanted)} answers of {Path(vlm.name).name}, edited {'at once' if together else 'one by one'}"
            report = described(title, proofs, wanted, cases.name, shlex.join(command), titled)
            path = fill(out, report)
        reply.say(Comparison(proofs, titled), *headlines(proofs), "", "Report:")
        reply.line(str(path))
        overall = scores_of(proofs)
        reply.document = {
            "run": str(out),
            "report": str(path),
            "cases": len(wanted),
            "protocol": way.name,
            "editors": {proof.method: proof.metrics for proof in proofs},
            "apart": {proof.method: proof.metrics_apart for proof in proofs},
            "by": {value: _on(proofs, ids) for value, ids in groups.items()},
            "overall": {one.title: _by_editor(proofs, one.scores) for one in overall},
            "ahead of the first": {one.title: _by_editor(proofs, one.leads) for one in overall},
            "costs": {proof.method: asdict(cost_of(proof)) for proof in proofs},
        }


def _on(proofs: Sequence[Proof], cases: Sequence[str]) -> dict[str, Any]:
    """Of some cases, what each editor's metrics and mean gain are."""
    from vlmend.evaluation.overall import SCORES, overall

    some = [proof.of(cases) for proof in proofs]
    gains = [overall(proof.records, SCORES["gain"]) for proof in some]
    return {
        "cases": len(cases),
        "editors": {proof.method: proof.metrics for proof in some},
        SCORES["gain"].title: _by_editor(some, gains),
    }


def _by_editor(proofs: Sequence[Proof], estimates: Sequence[Estimate | None]) -> dict[str, Any]:
    """What was estimated for each editor as JSON values; a mean of nothing is left out."""
    pairs = zip(proofs, estimates, strict=True)
    return {proof.method: asdict(one) for proof, one in pairs if one is not None and one.n}
