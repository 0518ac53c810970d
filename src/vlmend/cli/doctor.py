"""`vlmend doctor`: is this environment sound, and can this model be used?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from vlmend.cli.arguments import DeviceOption, load_model
from vlmend.cli.console import JsonFlag, Reply, progress, replying, working

if TYPE_CHECKING:
    from vlmend.models.families import Family
    from vlmend.models.vlm import VLM

__all__ = ["Check", "doctor"]

UNSOUND = 1


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Also load this model, show its parts and check it.")
    ] = None,
    families: Annotated[
        bool, typer.Option("--families", help="Also try every model family that transformers knows, without weights.")
    ] = False,
    device: DeviceOption = "cpu",
    as_json: JsonFlag = False,
) -> None:
    """Check the installation and, if one is named, a model. Exit code 1 if anything is wrong with these."""
    with replying(as_json) as reply:
        with working("Looking at the installation"):
            checks = [*versions(), torchvision()]
        _show_checks(reply, checks)
        document: dict[str, Any] = {"checks": [asdict(check) for check in checks], "model": None}
        if model:
            document["model"], promises = _model(reply, model, device)
            checks += promises
        if families:
            document["families"] = _families(reply)
        reply.document = document
    if not all(check.ok for check in checks):
        raise typer.Exit(UNSOUND)


def versions() -> Iterator[Check]:
    """Python and every core dependency against the range this package asks for."""
    from packaging.requirements import Requirement

    yield Check("python", True, platform.python_version())
    for line in importlib.metadata.requires("vlmend") or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(wanted.name, False, f"not installed, {wanted.specifier} is needed")
            continue
        fits = wanted.specifier.contains(found, prereleases=True)
        yield Check(wanted.name, fits, found if fits else f"{found}, {wanted.specifier} is needed")


def torchvision() -> Check:
    """Transformers uses torchvision wherever it is installed, so one that does not import breaks every processor."""
    from vlmend.models.backends import torchvision_problem

    name = "torchvision"
    problem = torchvision_problem()
    if problem is not None:
        return Check(name, False, f"installed but broken ({problem}); uninstall it or match it to torch")
    if importlib.util.find_spec(name) is None:
        return Check(name, True, "not installed; pictures are prepared with Pillow")
    return Check(name, True, importlib.metadata.version(name))


def describe(vlm: VLM) -> dict[str, Any]:
    """A loaded model in words and numbers: its parts, and what one sample picture becomes."""
    from vlmend.models.verify import sample

    parts = vlm.parts
    prepared = vlm.prepare([sample()])
    visual = prepared.rows[0].visual_T.nonzero().flatten().tolist()
    tensors = list(vlm.model.parameters())
    return {
        "name": vlm.name,
        "fingerprint": vlm.fingerprint,
        "class": type(vlm.model).__name__,
        "parameters": sum(tensor.numel() for tensor in tensors),
        "memory_mb": round(sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20, 1),
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "device": str(vlm.device),
        "decoder_layers": len(parts.layers),
        "visual_tokens": len(visual),
        "visual_positions": [*visual[:1], *visual[-1:]],
        "parts": dict(parts.paths),
    }


def _model(reply: Reply, name: str, device: str) -> tuple[dict[str, Any], list[Check]]:
    from vlmend.models.checkup import checkup

    vlm = load_model(name, device)
    with working("Looking at the model"):
        description = describe(vlm)
        promises = [Check(found.name, found.ok, found.detail) for found in checkup(vlm)]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for key, value in description.items():
        shown = "\n".join(f"{part}: {path}" for part, path in value.items()) if isinstance(value, dict) else value
        table.add_row(Text(key.replace("_", " "), "bold"), str(shown))
    reply.say("", table, "")
    _show_checks(reply, promises)
    return description | {"checks": [asdict(check) for check in promises]}, promises


def _families(reply: Reply) -> dict[str, Any]:
    from vlmend.models.families import examine, registered

    names = registered()
    found: list[Family] = []
    with progress("Trying families", len(names)) as step:
        for name in names:
            found.append(examine(name))
            step()
    counts = {"registered": len(found), **Counter(family.state for family in found)}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("family", "state", "decoder layers, or why not"):
        table.add_column(column)
    for family in found:
        table.add_row(family.name, family.state, family.reason or family.parts["layers"])
    reply.say("", table, "", ", ".join(f"{count} {state}" for state, count in counts.items()))
    return {"counts": counts, "families": [asdict(family) for family in found]}


def _show_checks(reply: Reply, checks: list[Check]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for check in checks:
        mark = Text("ok", "green") if check.ok else Text("WRONG", "bold red")
        table.add_row(mark, check.name, check.detail)
    reply.say(table)
