"""How fast edits are scored, and one whole edit with its evaluation. See README.md beside this file.

`demo`: edits of the bundled model are scored (before and after, teacher-forced and free), probe by probe with batch 1
and a key-value cache, and by `vlmend.evaluate`, case by case in turn; the edits are made beforehand.

`mid`: one published edit on the 58 M model: 15 steps on the last layer's MLP (`down` and `up`), two probes before it
and five after. The plain way runs the whole model in every step and encodes the picture each time, as the published
code (EasyEdit, VLKEB) does; vlmend measures all five probes before and after.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from meter import Timed, gflop, matmul_limit, report, timed
from mid import cases as mid_cases
from mid import mid
from torch.nn import functional

import vlmend
from vlmend import FT, VLM, Edit, EditCase, Example, VisualDelta
from vlmend.cli.demo import demo_cases
from vlmend.evaluation.kinds import kind_of

LENGTH = 32
EDITORS = {"ft": FT(layers="last", modules=("mlp.down",)), "visual-delta": VisualDelta()}
FITTED = FT(layers="last", modules=("mlp.down", "mlp.up"), steps=15, lr=1e-4, stop_loss=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("demo", "mid", "all"), default="all")
    parser.add_argument("--cases", type=int, default=12, help="cases of the demo part")
    given = parser.parse_args()
    limit = matmul_limit()
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"limit_gflop_per_s": limit}
    if given.part != "mid":
        for name, editor in EDITORS.items():
            ratios[f"demo {name}"], figures[f"demo {name}"] = scoring(editor, given.cases)
    if given.part != "demo":
        ratios["mid ft"], figures["mid ft"] = whole_edit(limit)
    report(ratio=ratios, **figures)


def scoring(editor: Any, count: int) -> tuple[float, dict[str, Any]]:
    """Plain seconds per edit over ours, on the bundled model."""
    vlm = vlmend.load("demo")
    some = demo_cases(count)
    edits = [editor.fit(vlm, [case]) for case in some]
    plain_once(vlm, edits[0], some[0])  # warmed
    vlmend.evaluate(vlm, edits[0], some[:1], max_new_tokens=LENGTH)
    took = took_plain = 0.0
    peak = differ = probes = 0
    for edit, case in zip(edits, some, strict=True):  # in turn, since the machine's speed changes
        plain, one = timed(lambda edit=edit, case=case: plain_once(vlm, edit, case))
        took_plain += one.seconds
        proof, one = timed(lambda edit=edit, case=case: vlmend.evaluate(vlm, edit, [case], max_new_tokens=LENGTH))
        took += one.seconds
        peak = round(one.peak_mb)
        ours = [(record.before, record.after) for record in proof.records]
        probes += len(ours)
        differ += sum(a != b for a, b in zip(ours, plain, strict=True))
    rate, plain_rate = count / took, count / took_plain
    print(f"{editor.name}: {rate:.2f} edits a second against {plain_rate:.2f}; {differ} answers differ")
    return rate / plain_rate, {
        "edits": count,
        "probes": probes,
        "edits_per_cpu_s": round(rate, 3),
        "plain_edits_per_cpu_s": round(plain_rate, 3),
        "peak_mb": peak,
        "answers_that_differ": differ,
    }


def plain_once(vlm: VLM, edit: Edit, case: EditCase) -> list[tuple[str, str]]:
    """Every probe by itself, before and after; with those of its premises before."""
    said: list[tuple[str, str]] = []
    for probe in (None, *case.probes):
        example = case.request if probe is None else probe.example
        if not example.question:
            continue
        for premise in () if probe is None else probe.premises:
            vlm.answer(premise.image, premise.question, max_new_tokens=LENGTH)
        texts: list[str] = []
        for now in (None, edit):
            prepared = vlm.prepare([example])
            [row.logits_NV.log_softmax(-1) for row in vlm.run(prepared, now).rows]
            texts += vlm.generate(prepared, now, max_new_tokens=LENGTH)
        said.append((texts[0], texts[1]))
    return said


def whole_edit(limit: float) -> tuple[float, dict[str, Any]]:
    """The published procedure's seconds over ours, on the `mid` model."""
    with tempfile.TemporaryDirectory() as folder:
        vlm = mid(Path(folder))
        warm, case = mid_cases()

        def ours(case: EditCase = case) -> vlmend.Proof:
            return vlmend.evaluate(vlm, FITTED, [case], protocol="legacy", max_new_tokens=0)

        ours(warm)
        plain_edit(vlm, warm, steps=1)
        plain, took_plain = timed(lambda: plain_edit(vlm, case, FITTED.steps))
        best: Timed | None = None
        for _ in range(3):
            proof, took = timed(ours)
            best = took if best is None or took.seconds < best.seconds else best
        assert best is not None
        work = gflop(ours)
        mine = [record.tf_token_acc_after for record in proof.records]
        worst = max(abs(one - other) for one, other in zip(mine, plain, strict=True))
        print(f"mid: {best.seconds:.2f} CPU s against {took_plain.seconds:.2f}; scores differ by at most {worst:.1e}")
        return took_plain.seconds / best.seconds, {
            "cpu_s": round(best.seconds, 3),
            "plain_cpu_s": round(took_plain.seconds, 3),
            "cpu_s_at_90_gflop_per_s": round(best.seconds * limit / 90.0, 3),
            "peak_mb": round(best.peak_mb),
            "gflop": round(work, 1),
            "share_of_limit": round(work / best.seconds / limit, 3),
            "largest_difference_of_scores": worst,
        }


def plain_edit(vlm: VLM, case: EditCase, steps: int) -> list[float]:
    """Fine-tune and evaluate as published: the whole model each time, probe by probe. The scores after the edit."""
    asked = [(True, case.request), *((kind_of(probe.kind).keeps, probe.example) for probe in case.probes)]
    before = {index: likeliest(vlm, one) for index, (keeps, one) in enumerate(asked) if keeps and index}
    names = vlm.weights.named(vlm.parts.modules(FITTED.layers, FITTED.modules), matrices_only=True)
    with vlm.weights.borrowed(names) as parameters:
        optimizer = torch.optim.AdamW(parameters.values(), lr=FITTED.lr, weight_decay=0.0)
        for _ in range(steps):
            logits_NV, target_N, _ = forward(vlm, case.request)
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(logits_NV, target_N).backward()
            optimizer.step()
        scores: list[float] = []
        for index, (_, example) in enumerate(asked):
            wanted = before.get(index) or forward_target(vlm, example)
            scores.append(share(likeliest(vlm, example), wanted))
    return scores


def forward(vlm: VLM, example: Example) -> tuple[torch.Tensor, torch.Tensor, int]:
    prepared = vlm.prepare([example])
    row = prepared.rows[0]
    ids = torch.cat([row.ids_T, row.target_N])[None]
    pixels = {} if row.picture is None else {"pixel_values": prepared.pictures[row.picture]["pixel_values"]}
    out = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **pixels)
    count = len(row.target_N)
    return out.logits[0, -count - 1 : -1], row.target_N, row.answer_length


@torch.no_grad()
def likeliest(vlm: VLM, example: Example) -> list[int]:
    logits_NV, _, length = forward(vlm, example)
    return logits_NV[:length].argmax(-1).tolist()


def forward_target(vlm: VLM, example: Example) -> list[int]:
    row = vlm.prepare([example]).rows[0]
    return row.target_N[: row.answer_length].tolist()


def share(found: Sequence[int], wanted: Sequence[int]) -> float:
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


if __name__ == "__main__":
    main()
