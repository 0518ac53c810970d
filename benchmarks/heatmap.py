"""How fast VisEdit's noise heat map is drawn. See README.md beside this file.

On the 58 M model: 576 visual tokens, windows of radius 3, 10 draws, one layer. The plain way is the exact one: for each
window that layer's attention is called with ten noisy copies of its input, as the published code does. A sample of the
windows is timed and scaled to all of them, and one whole run of the model is added. Ours is `vlmend.attribute` as users
call it: preparing the question, running the model, and the check against one exact window are included. Both have the
same noise, and must agree on the sampled windows.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import torch
from meter import Timed, gflop, matmul_limit, report, timed
from mid import cases as mid_cases
from mid import mid

import vlmend
from vlmend import VLM, Attribution, EditCase
from vlmend.attribution.noise import window_heat
from vlmend.attribution.perturbation import Perturbation
from vlmend.attribution.places import layout_of, windows
from vlmend.attribution.target import OWN, Clean, strands
from vlmend.models.attention import AttentionCall, attention_modules

RADIUS, DRAWS, NOISE, LAYER = 3, 10, 0.7, 8
METHOD = Perturbation(layers=[LAYER], radius=RADIUS, draws=DRAWS, noise=NOISE)
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=16, help="how many windows the plain way is timed on")
    given = parser.parse_args()
    limit = matmul_limit()
    with tempfile.TemporaryDirectory() as folder:
        vlm = mid(Path(folder))
        warm, case = mid_cases()

        def ours(case: EditCase = case) -> Attribution:
            return vlmend.attribute(vlm, case, METHOD)

        loaded = resident_mb()
        ours(warm)
        best: Timed | None = None
        for _ in range(REPEATS):
            found, took = timed(ours)
            best = took if best is None or took.seconds < best.seconds else best
        assert best is not None
        work = gflop(ours)
        sampled, seconds, scores = plain(vlm, case, given.windows)
    worst = float((found.scores[0, sampled] - scores).abs().max())
    print(
        f"{best.seconds:.2f} CPU s against {seconds:.0f} (scaled from {len(sampled)} of {found.scores.numel()} windows)"
    )
    report(
        ratio=seconds / best.seconds,
        limit_gflop_per_s=limit,
        cells=found.scores.numel(),
        cpu_s=best.seconds,
        plain_cpu_s_scaled=seconds,
        plain_sampled_windows=len(sampled),
        cpu_s_at_90_gflop_per_s=best.seconds * limit / 90.0,
        peak_mb=round(best.peak_mb),
        peak_mb_above_model=round(best.peak_mb - loaded),
        gflop=work,
        share_of_limit=work / best.seconds / limit,
        largest_difference_in_ppm_of_the_highest_score=1e6 * worst / float(found.scores.max()),
        short_way=not found.notes,
    )


def resident_mb() -> float:
    """Memory that the process holds now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def plain(vlm: VLM, case: EditCase, count: int) -> tuple[list[int], float, torch.Tensor]:
    """Window by window: which were timed, the CPU seconds of all with one run of the model, and the scores of those."""
    module = attention_modules(vlm.parts, (LAYER,))[LAYER]

    def read() -> Clean:
        (strand,) = strands(vlm, case.request, OWN)
        return strand.read(vlm, {"attention": module})

    clean, forward = timed(read)
    places = layout_of(vlm, case.request).places
    near_PP = windows(places, clean.strand.row.sizes, RADIUS)
    members = [near.nonzero().flatten() for near in near_PP]
    sampled = sorted({index * len(places) // count + len(places) // (2 * count) for index in range(count)})
    call = AttentionCall.of(vlm.parts, LAYER, clean.of("attention"))
    generator = torch.Generator().manual_seed(METHOD.seed)
    noise_BSD = torch.randn(DRAWS, len(places), call.states_1TD.shape[-1], generator=generator) * NOISE

    def each(some: list[int]) -> torch.Tensor:
        chosen = [members[index] for index in some]
        found = window_heat(
            call, clean.strand.visual, chosen, clean.strand.positions, lambda i: noise_BSD[:, chosen[i]]
        )
        return found.mean(-1)

    each(sampled[:1])  # warmed
    scores, took = timed(lambda: each(sampled))
    return sampled, forward.seconds + took.seconds * len(places) / len(sampled), scores


if __name__ == "__main__":
    main()
