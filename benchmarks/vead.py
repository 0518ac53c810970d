"""How fast VisEdit's editor is trained and used. See README.md beside this file.

`training`: four cases are made ready (every row run up to the edit layer), and one training step is taken: the mapper's
targets, the losses with the adapter at work, backward, Adam. The plain way is that of the published code: for every
case the whole model is run up to the edit layer for the edit's signal and for each of four probes, the mapper's targets
come from whole passes above it and from calling each layer's attention for every noisy token with all queries, and the
answers before an edit are run in every step. Both end with the same loss.

`edit`: an edit is made and its five probes are measured as users do it (`vlmend.evaluate`): alone ("cold"), and when
another editor at the same layer has been measured on the case in the same call ("warm"; the second editor's own
seconds). Before the edit two probes are asked, those whose answers must stay, as the published evaluation does; "with
gains" all five are. The plain way makes the edit and runs two probes before it and five after it, each by itself.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from meter import Timed, gflop, matmul_limit, report, timed
from mid import cases as mid_cases
from mid import mid

import vlmend
from vlmend import VLM, Edit, EditCase, Example, Probe
from vlmend.editors import influence
from vlmend.editors.base import Editor
from vlmend.editors.training import train
from vlmend.editors.vead import VEAD
from vlmend.editors.vead_training import VEADLesson, VEADTraining
from vlmend.evaluation.kinds import kind_of

BATCH, LAYER, REPEATS = 4, 6, 6
METHOD = VEADTraining(layers=[LAYER], batch=BATCH, samples=24, draws=1)
"""Edit layer 6 of 12, influences in layers 7 to 11, adapter and mapper 1024 wide, 24 tokens: 5.25 M parameters."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("training", "edit", "all"), default="all")
    given = parser.parse_args()
    limit = matmul_limit()
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"limit_gflop_per_s": limit}
    with tempfile.TemporaryDirectory() as folder:
        vlm = mid(Path(folder) / "mid")
        if given.part != "edit":
            ratios["training"], figures["training"] = training(vlm, limit)
        if given.part != "training":
            ratios["edit"], figures["edit"] = editing(vlm, Path(folder) / "vead", limit)
    report(ratio=ratios, **figures)


def batch() -> list[EditCase]:
    """Four cases about three photographs in turn; each asks about all three."""
    first, second = mid_cases()
    one, two, three = (first.request.image, *(p.example.image for p in first.probes if p.kind.startswith("image")))
    turns = [(one, two, three), (two, three, one), (three, one, two), (one, two, three)]
    made = zip((first, second, first, second), turns, strict=True)
    return [turned(case, pictures, f"{case.id}-{place}") for place, (case, pictures) in enumerate(made)]


def turned(case: EditCase, pictures: Sequence[Any], name: str) -> EditCase:
    """The case with its pictures in another order."""
    shown = {"text_generality": pictures[0], "image_generality": pictures[1], "image_locality": pictures[2]}
    probes = [replace(p, example=replace(p.example, image=shown.get(p.kind))) for p in case.probes]
    return replace(case, id=name, request=replace(case.request, image=pictures[0]), probes=tuple(probes))


def training(vlm: VLM, limit: float) -> tuple[float, dict[str, Any]]:
    some = batch()
    losses: list[float] = []

    def ours() -> None:
        lesson = VEADLesson(METHOD, vlm, some, [])
        losses.append(step(lesson))

    ours()  # warmed
    best = fastest(ours)
    work = gflop(ours)
    loss, took_plain = timed(lambda: plain_training(vlm, some))
    print(f"training: {best.seconds:.2f} CPU s against {took_plain.seconds:.2f}; losses {losses[-1]:.5f}, {loss:.5f}")
    return took_plain.seconds / best.seconds, {
        "cases": len(some),
        "difference_of_losses": abs(losses[-1] - loss),
        **figures_of(best, took_plain, work, limit),
    }


def step(lesson: VEADLesson) -> float:
    """One step of the training, as `vlmend.editors.training` takes it; its loss."""
    optimizer = torch.optim.Adam(lesson.module.parameters(), lr=METHOD.lr)
    loss, _ = lesson.loss(range(len(lesson.learned)), torch.Generator().manual_seed(0))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def plain_training(vlm: VLM, some: Sequence[EditCase]) -> float:
    """The same step as published."""
    own = influence.shared_heat
    influence.shared_heat = lambda *_: None  # every noisy token by itself, through the whole attention
    try:
        lesson = VEADLesson(METHOD, vlm, [], [])
        for case in some:  # the edit's signal and four probes, one by one, pictures encoded each time
            for example in (case.request, case.request, *(p.example for p in case.probes if p.example.pictures)):
                lesson.above.add(vlm.prepare([example]))
            lesson.learned += lesson._prepared([case])
        return step(lesson)
    finally:
        influence.shared_heat = own


def editing(vlm: VLM, folder: Path, limit: float) -> tuple[float, dict[str, Any]]:
    train(replace(METHOD, steps=1, batch=1, held_out=0.3), vlm, batch(), folder)
    editor = VEAD(str(folder))
    warm, case = mid_cases()
    for one in (warm, case):
        editor.fit(vlm, [one])

    def measured(*editors: VEAD, gains: bool = False) -> Callable[[], Any]:
        return lambda: vlmend.compare(vlm, editors, [case], protocol="visedit", max_new_tokens=0, gains=gains)

    ours = measured(editor)
    vlmend.evaluate(vlm, editor, [warm], protocol="visedit", max_new_tokens=0)
    cold, both = fastest(ours), fastest(measured(editor, editor))
    gains = fastest(measured(editor, gains=True))
    work = gflop(ours)
    _, took_plain = timed(lambda: plain_editing(vlm, editor, case))
    second = both.seconds - cold.seconds
    print(
        f"edit: {cold.seconds:.2f} CPU s cold ({gains.seconds:.2f} with gains), {second:.2f} warm, "
        f"against {took_plain.seconds:.2f}"
    )
    return took_plain.seconds / cold.seconds, {
        "with_gains_cpu_s": gains.seconds,
        "warm_cpu_s": second,
        "warm_cpu_s_at_90_gflop_per_s": second * limit / 90.0,
        **figures_of(cold, took_plain, work, limit),
    }


def plain_editing(vlm: VLM, editor: Editor, case: EditCase) -> list[list[int]]:
    """The edit, two probes before it and five after it, each by itself."""
    asked = [Probe("reliability", case.request), *case.probes]
    said = [likeliest(vlm, probe.example, None) for probe in asked if kind_of(probe.kind).keeps]
    edit = editor.fit(vlm, [case])
    return said + [likeliest(vlm, probe.example, edit) for probe in asked]


@torch.no_grad()
def likeliest(vlm: VLM, example: Example, edit: Edit | None) -> list[int]:
    return vlm.run(vlm.prepare([example]), edit).rows[0].logits_NV.argmax(-1).tolist()


def fastest(work: Any, repeats: int = REPEATS) -> Timed:
    return min((timed(work)[1] for _ in range(repeats)), key=lambda took: took.seconds)


def figures_of(best: Timed, plain: Timed, work: float, limit: float) -> dict[str, Any]:
    return {
        "cpu_s": round(best.seconds, 3),
        "plain_cpu_s": round(plain.seconds, 3),
        "cpu_s_at_90_gflop_per_s": round(best.seconds * limit / 90.0, 3),
        "peak_mb": round(best.peak_mb),
        "gflop": round(work, 1),
        "share_of_limit": round(work / best.seconds / limit, 3),
    }


if __name__ == "__main__":
    main()
