"""How fast MEND's editor is used. See README.md beside this file.

MEND on the MLPs of the last three layers of a LLaVA of 58 M parameters, rank 1920 (28.6 M parameters of its own): an
edit is made and its five probes are measured (`vlmend.evaluate`), two of them before the edit too, those whose answers
must stay, as the published evaluation does; "with gains" all five are. The plain way makes the edit and runs every
probe by itself.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch
from meter import gflop, matmul_limit, report, timed
from mid import cases as mid_cases
from mid import mid
from vead import batch, fastest, figures_of, plain_editing

import vlmend
from vlmend.editors.mend import MEND
from vlmend.editors.mend_training import MENDTraining
from vlmend.editors.training import train


def main() -> None:
    limit = matmul_limit()
    with tempfile.TemporaryDirectory() as folder:
        vlm = mid(Path(folder) / "mid")
        trained = Path(folder) / "mend"
        taught = get_context("spawn").Process(target=teach, args=(Path(folder) / "mid", trained))
        taught.start()
        taught.join()
        editor = MEND(str(trained))
        warm, case = mid_cases()
        for one in (warm, case):
            editor.fit(vlm, [one])
        vlmend.evaluate(vlm, editor, [warm], protocol="visedit", max_new_tokens=0)
        fitted = fastest(lambda: editor.fit(vlm, [case]))
        ours = lambda: vlmend.compare(vlm, [editor], [case], protocol="visedit", max_new_tokens=0, gains=False)  # noqa: E731
        best = fastest(ours)
        gains = fastest(lambda: vlmend.compare(vlm, [editor], [case], protocol="visedit", max_new_tokens=0))
        work = gflop(ours)
        with torch.no_grad():
            own = sum(p.numel() for p in editor.shelved(vlm).network.parameters()) / 1e6
        _, plain = timed(lambda: plain_editing(vlm, editor, case))
        print(
            f"edit alone {fitted.seconds:.2f} CPU s; with its evaluation {best.seconds:.2f} ({gains.seconds:.2f} with "
            f"gains), against {plain.seconds:.2f}"
        )
        figures = figures_of(best, plain, work, limit)
        report(
            ratio=plain.seconds / best.seconds,
            limit_gflop_per_s=limit,
            editor_m_parameters=own,
            edit_alone_cpu_s=fitted.seconds,
            with_gains_cpu_s=gains.seconds,
            **figures,
        )


def teach(model: Path, folder: Path) -> None:
    """One step of training, in a process of its own: its memory is none of the edit's."""
    train(replace(MENDTraining(), steps=1, batch=1, held_out=0.3), vlmend.load(str(model)), batch(), folder)


if __name__ == "__main__":
    main()
