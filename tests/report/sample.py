"""A small report made by hand: two editors, two cases, one of them with markup in its answers."""

from __future__ import annotations

from PIL import Image

from vlmend.report import CaseCard, EditorScores, Interval, Measure, MetricRow, ProbeRow, Report, Verdict


def interval(mean: float, n: int = 2) -> Interval:
    return Interval(mean=mean, low=max(0.0, mean - 0.25), high=min(1.0, mean + 0.25), n=n)


def metrics(after: float) -> tuple[MetricRow, ...]:
    gains = {"forced_token": 0.25, "forced_exact": 0.0, "free_exact": 0.0}
    return (
        MetricRow("reliability", {key: Measure(interval(b), interval(after)) for key, b in gains.items()}),
        MetricRow("text_generality", {key: Measure(interval(b), interval(after)) for key, b in gains.items()}),
        MetricRow("image_locality", {key: Measure(None, interval(0.5, n=4)) for key in gains}),
    )


def plain(colour: str, size: int = 24) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def report() -> Report:
    kettle = CaseCard(
        id="kettle",
        question="What colour is the kettle?",
        wrong="crimson",
        right="teal",
        after=(Verdict("teal", True), Verdict("crimson", False)),
        picture=plain("red"),
        probes=(
            ProbeRow(
                "image_locality",
                "What is on the table?",
                "a mug",
                "a spoon",
                (Verdict("a spoon", True), Verdict("a saucer", False)),
                plain("blue"),
            ),
        ),
    )
    markup = CaseCard(
        id="markup",
        question="Is 1 < 2 & <b>true</b>?",
        wrong="<script>alert(1)</script>",
        right="yes",
        after=(Verdict("yes", True), Verdict("", False)),
        picture=None,
        probes=(),
    )
    return Report(
        title="Two wrong answers",
        model="toy",
        editors=(
            EditorScores("ft", "steps=15", metrics(1.0), seconds_per_edit=0.5, peak_mb=300.0),
            EditorScores("null", "", metrics(0.0)),
        ),
        cases=(kettle, markup),
        facts={"Seed": "7"},
        command="vlmend bench toy cases.json --editors ft,null",
        created="2026-01-02 03:04",
    )
