"""How fast in-context editing is measured with its demonstrations first. See README.md beside this file.

32 demonstrations stand before the picture, in all prompts of an edit alike. An edit is made and its five probes are
measured (`vlmend.compare`; two of them before the edit too, those whose answers must stay), with what rows begin with
run once: the demonstrations, and behind them each picture. "Without" is the same call with every row run whole;
"pictures" with what rows begin with up to their picture run once for rows about the same picture, as for other editors;
"plain" makes the edit and runs every probe whole and by itself. "Again" runs the probes of an edit that is in force and
has been asked before: its demonstrations are known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from meter import Timed, gflop, matmul_limit, report, timed
from mid import cases as mid_cases
from mid import mid
from torch import Tensor
from vead import fastest, figures_of, plain_editing

import vlmend
from vlmend import VLM, Edit, EditCase, Example, Probe
from vlmend.data.formats import plain
from vlmend.editors.ike import IKE
from vlmend.models.beginnings import Openings
from vlmend.models.prepared import Preparer

COUNT, ROUNDS = 32, 3


def main() -> None:
    limit = matmul_limit()
    with tempfile.TemporaryDirectory() as folder:
        vlm = mid(Path(folder) / "mid")
        file = Path(folder) / "demonstrations.jsonl"
        plain.write(list(pool()), file)
        editor = IKE(str(file), count=COUNT, layout="demonstrations-first")
        warm, case = mid_cases()

        def measured(one: EditCase = case) -> Any:
            vlm._begun._openings = Openings()  # those of an edit that is only made now are not known
            return vlmend.compare(vlm, [editor], [one], protocol="visedit", max_new_tokens=0, gains=False)

        measured(warm)
        edit = editor.fit(vlm, [case])
        shared = forced(vlm, edit, case)
        again = fastest(lambda: forced(vlm, edit, case), 2)
        work = gflop(measured)
        with patch.object(Preparer, "opened", lambda *_: 0):
            pictures = fastest(measured, 2)
        rounds: list[tuple[Timed, Timed]] = []
        for _ in range(ROUNDS):  # by turns, so that a slow minute of the machine is both's
            shared_run = timed(measured)[1]
            with whole_rows(vlm):
                rounds.append((shared_run, timed(measured)[1]))
        best, without = (min(some, key=lambda took: took.seconds) for some in zip(*rounds, strict=True))
        with whole_rows(vlm):
            took_plain = fastest(lambda: plain_editing(vlm, editor, case), 2)
            apart = forced(vlm, edit, case)
        with vlm.using(edit):
            row = vlm.prepare([case.request]).rows[0]
        print(
            f"{COUNT} demonstrations ({row.opened} tokens of {len(row.ids_T)}) first: {best.seconds:.2f} CPU s, "
            f"{without.seconds:.2f} without reuse, {pictures.seconds:.2f} with that of pictures alone, "
            f"{took_plain.seconds:.2f} one by one; again {again.seconds:.2f}"
        )
        report(
            ratio=median(whole.seconds / once.seconds for once, whole in rounds),
            ratio_to_pictures_alone=pictures.seconds / best.seconds,
            ratio_of_plain=took_plain.seconds / best.seconds,
            without_cpu_s=without.seconds,
            pictures_cpu_s=pictures.seconds,
            again_cpu_s=again.seconds,
            largest_difference_of_logits=max(
                float((one - other).abs().max()) for one, other in zip(shared, apart, strict=True)
            ),
            **figures_of(best, took_plain, work, limit),
        )


def pool() -> Iterator[EditCase]:
    """Cases without pictures, a demonstration each, of a usual length."""
    things = ("kite", "tray", "band", "film", "song", "table", "hand", "man", "sport", "holding", "brown")
    for at, (thing, place) in enumerate(product(things, ("table", "hand", "left"))):
        other = things[at % len(things) - 1]
        yield EditCase(
            f"pool-{at}",
            Example(f"What color is the {thing} on the {place}?", None, f"the {other}"),
            probes=(
                Probe("text_generality", Example(f"Which colour does the {thing} on the {place} have?", None, other)),
                Probe("text_locality", Example(f"nq question: who wrote the {thing} in the film", None, "the band")),
            ),
        )


@torch.no_grad()
def forced(vlm: VLM, edit: Edit, case: EditCase) -> list[Tensor]:
    """The logits of the request and its probes with an edit, in one call."""
    examples = [case.request, *(probe.example for probe in case.probes)]
    return [row.logits_NV for row in vlm.run(vlm.prepare(examples), edit).rows]


@contextmanager
def whole_rows(vlm: VLM) -> Generator[None, None, None]:
    """Within the block nothing that rows begin with is run once for several."""
    holds, vlm._begun.holds = vlm._begun.holds, False
    try:
        yield
    finally:
        vlm._begun.holds = holds


if __name__ == "__main__":
    main()
