"""A small report made by hand: two editors, two cases, one of them with markup in its answers."""

from __future__ import annotations

import pytest
from PIL import Image

from vlmend.data.records import EditCase, Example, Probe
from vlmend.evaluation.proof import EditCost, ProbeRecord, Proof
from vlmend.report import Report

KETTLE = EditCase(
    id="kettle",
    request=Example("What colour is the kettle?", Image.new("RGB", (24, 24), "red"), "teal"),
    rejected="crimson",
    probes=(
        Probe("text_generality", Example("Name the kettle's colour.", Image.new("RGB", (24, 24), "red"), "teal")),
        Probe("image_locality", Example("What is on the table?", Image.new("RGB", (24, 24), "blue"), "a mug")),
    ),
)
MARKUP = EditCase(
    id="markup",
    request=Example("Is 1 < 2 & <b>true</b>?", None, "yes"),
    rejected="<script>alert(1)</script>",
    probes=(Probe("text_locality", Example("", None, "an empty question is never asked")),),
)


def record(case: EditCase, kind: str, example: Example, before: str, after: str) -> ProbeRecord:
    keeps = kind.endswith("_locality")
    scores = (
        (1.0, float(before == after)) if keeps else (float(before == example.answer), float(after == example.answer))
    )
    return ProbeRecord(
        case=case.id,
        kind=kind,
        question=example.question,
        image=None,
        target=example.answer,
        before=before,
        after=after,
        tf_token_acc_before=scores[0],
        tf_token_acc_after=scores[1],
        tf_exact_before=scores[0],
        tf_exact_after=scores[1],
        free_exact_before=scores[0],
        free_exact_after=scores[1],
        free_vqa_before=scores[0],
        free_vqa_after=scores[1],
    )


def proof(method: str, answers: dict[str, str]) -> Proof:
    """The proof of an editor whose models say `answers` where they say anything new."""
    before = {
        KETTLE.request.question: "crimson",
        KETTLE.probes[0].example.question: "scarlet",
        KETTLE.probes[1].example.question: "a spoon",
        MARKUP.request.question: "<script>alert(1)</script>",
    }
    asked = [
        (KETTLE, "reliability", KETTLE.request),
        *((KETTLE, probe.kind, probe.example) for probe in KETTLE.probes),
        (MARKUP, "reliability", MARKUP.request),
    ]
    records = [
        record(case, kind, example, before[example.question], answers.get(example.question, before[example.question]))
        for case, kind, example in asked
    ]
    return Proof(
        model="toy",
        fingerprint="0123456789abcdef",
        method=method,
        settings={"steps": 15, "lr": 2e-4, "modules": ("mlp.down",), "norm_limit": None} if method == "ft" else {},
        mode="single",
        records=tuple(records),
        costs=(EditCost("kettle", "e1", 0.4, 300.0), EditCost("markup", "e2", 0.6, 310.0)) if method == "ft" else (),
        versions={"vlmend": "0"},
    )


@pytest.fixture
def report() -> Report:
    """Two editors on two cases: one does its work and does some harm, the other makes no difference."""
    mended = {
        KETTLE.request.question: "teal",
        KETTLE.probes[0].example.question: "teal",
        KETTLE.probes[1].example.question: "a saucer",
        MARKUP.request.question: "yes",
    }
    return Report(
        title="Two wrong answers",
        proofs=(proof("ft", mended), proof("null", {MARKUP.request.question: ""})),
        cases=(KETTLE, MARKUP),
        facts={"Seed": "7"},
        command="vlmend bench toy cases.json --editors ft,null",
        created="2026-01-02 03:04",
    )
