"""A user's own five lines about photographs, from a summary of the file to a report, on models of three families."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vlmend

QUICK = ("--max-new-tokens", 4)
PROBES = {"text_generality": 1, "portability": 1, "text_locality": 1, "image_locality": 1}


@pytest.fixture(scope="module")
def own(fixtures: Path) -> Path:
    return fixtures / "photographs" / "own.jsonl"


@pytest.fixture(params=["llava", "qwen2_5_vl", "blip2"])
def model(request: pytest.FixtureRequest, tiny_folder: Callable[..., Path]) -> Path:
    return tiny_folder(request.param)


def test_summary(vlmend_cli: Callable[..., Any], own: Path) -> None:
    document = vlmend_cli("data", "summary", own, "--json").document
    assert (document["format"], document["cases"], document["pictures"], document["missing"]) == ("plain", 5, 3, [])
    assert {kind["kind"]: kind["count"] for kind in document["kinds"]} == {"edit": 5, **PROBES}
    assert document["without_target"] == document["repeated"] == []
    assert "5 cases, plain format" in vlmend_cli("data", "summary", own).stdout


def test_the_model_is_sound(vlmend_cli: Callable[..., Any], model: Path) -> None:
    outcome = vlmend_cli("doctor", model, "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.document["model"]
    assert all(check["ok"] for check in found["checks"])
    assert found["visual_tokens"] > 0


def test_edits(vlmend_cli: Callable[..., Any], own: Path, model: Path, tmp_path: Path) -> None:
    """One edit a line, each of which does in a new process's model what the command said it does."""
    settings = ("--set", "lr=0.02", "--set", "steps=20", "--set", "layers=all")
    outcome = vlmend_cli("edit", model, own, "--out", tmp_path / "fixes", *settings, *QUICK, "--json")
    assert outcome.code == 0, outcome.stderr
    edits = outcome.document["edits"]
    assert [one["target"] for one in edits] == ["a brown bear", "grass", "bananas", "yellow", "blue"]
    assert all(one["after"] != one["before"] for one in edits)
    one, photograph = edits[3], own.parent / "COCO_val2014_000000526675.jpg"
    asked = vlmend_cli("ask", model, photograph, one["question"], "--edit", one["folder"], *QUICK, "--json")
    assert asked.document["answer"] == one["after"]
    verified = vlmend_cli("edits", "verify", model, one["folder"], *QUICK, "--json").document
    assert [request["after"] for request in verified["edits"][0]["requests"]] == [one["after"]]


def test_bench(vlmend_cli: Callable[..., Any], own: Path, model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("--editors", "ft,null", "--set", "ft.steps=2")
    outcome = vlmend_cli("bench", model, own, "--out", run, *settings, *QUICK, "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.document["editors"]
    assert {kind: summary["n"] for kind, summary in found["ft"].items()} == {"reliability": 5, **PROBES}
    assert found["null"]["reliability"]["tf_token_acc"]["gain"]["mean"] == 0
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert len(records) == 10
    page = (run / "report.html").read_text()
    for case in vlmend.read(own):
        assert case.request.question in page
    assert page.count("data:image/") >= 3
