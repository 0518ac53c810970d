"""Each protocol gives the numbers of the evaluator that it is named after."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlmend.data.records import EditCase, Example, Probe
from vlmend.errors import UnknownNameError
from vlmend.evaluation.observing import Observed
from vlmend.evaluation.protocols import DEFAULT, LEGACY, PROTOCOLS, VISEDIT, protocol_of
from vlmend.evaluation.scoring import record_of

EXACT = 1e-6
KETTLE = EditCase("kettle", Example("What colour is it?", None, "teal"))


@pytest.fixture(scope="module")
def golden(fixtures):
    numbers = json.loads((fixtures / "edit_metrics.json").read_text())
    return numbers, load_file(fixtures / "edit_metrics.safetensors")


def observed(logits_NV, text=""):
    top = logits_NV.topk(10, dim=-1).indices.tolist()
    return Observed(text, tuple(map(tuple, top)), torch.log_softmax(logits_NV, -1))


def record(kind, before, after, target=()):
    return record_of(KETTLE, Probe(kind, KETTLE.request), target, observed(before), observed(after))


@pytest.mark.parametrize("protocol", [LEGACY, VISEDIT], ids=lambda one: one.name)
@pytest.mark.parametrize("index", range(6))
def test_answers_score_as_in_easyedit_and_vlkeb(golden, protocol, index):
    """Target tokens whose shifted argmax is right: the editor's and the trainer's number, and VLKEB's."""
    numbers, tensors = golden
    expected = numbers["records"][index]
    logits, labels = tensors[f"acc.{index}.logits"][0, :-1], tensors[f"acc.{index}.labels"][0, 1:]
    kept = labels != -100
    unedited = torch.zeros_like(logits[kept])
    made = record("image_generality", unedited, logits[kept], labels[kept].tolist())
    _, after = protocol.score(made)
    for name in ("editor_token_acc", "trainer_token_acc", "vlkeb_token_acc"):
        assert after == pytest.approx(expected[name], abs=EXACT)
    assert made.tf_exact_after == expected["editor_exact_match"]


def test_answers_macro_mean(golden):
    numbers, tensors = golden
    scores: list[float] = []
    for index in range(6):
        logits, labels = tensors[f"acc.{index}.logits"][0, :-1], tensors[f"acc.{index}.labels"][0, 1:]
        kept = labels != -100
        made = record("reliability", logits[kept], logits[kept], labels[kept].tolist())
        scores.append(LEGACY.score(made)[1] or 0.0)
    assert sum(scores) / 6 == pytest.approx(numbers["macro_mean"]["editor_token_acc"], abs=EXACT)


@pytest.mark.parametrize("index", range(5))
def test_locality_is_easyedits_rank_agreement(golden, index):
    """T-Loc: the likeliest token; M-Loc: the ten likeliest, rank by rank; different lengths aligned at their ends."""
    numbers, tensors = golden
    expected = numbers["locality"][index]
    before, after = observed(tensors[f"loc.{index}.pre"][0]), observed(tensors[f"loc.{index}.post"][0])
    empty = record("text_locality", torch.zeros(0, 50), torch.zeros(0, 50))
    for kind, name in (("text_locality", "k1"), ("image_locality", "k10")):
        made = replace(empty, kind=kind, top_before=before.top, top_after=after.top)
        assert LEGACY.score(made) == (1.0, pytest.approx(expected[name], abs=EXACT))


def test_locality_is_visedits_argmax_agreement():
    before = torch.tensor([[0.0, 2, 1] + [-1.0] * 8, [3.0, 0, 0] + [-1.0] * 8])
    after = torch.tensor([[0.0, 1, 2] + [-1.0] * 8, [3.0, 0, 0] + [-1.0] * 8])
    assert VISEDIT.score(record("image_locality", before, after)) == (1.0, 0.5)
    assert LEGACY.score(record("text_locality", before, after)) == (1.0, 0.5)


def test_one_inserted_token_scores_nothing_by_rank():
    """The legacy M-Loc does not see that nine of ten tokens are still there."""
    before = torch.arange(20, 0, -1.0)[None]
    after = before.clone()
    after[0, 15] = 100.0
    assert LEGACY.score(record("image_locality", before, after)) == (1.0, 0.0)


def test_a_locality_probe_without_answer_has_no_legacy_score():
    none = torch.zeros(0, 50)
    assert LEGACY.score(record("text_locality", none, none)) == (None, None)


def worded(question: str) -> list[str]:
    probes = (
        Probe("text_generality", Example("rephrased", None, "teal")),
        Probe("image_generality", Example(question, Path("b.png"), "teal")),
        Probe("text_locality", Example("nq question: who sang it", None, "nobody")),
        Probe("image_locality", Example("What is there?", Path("c.png"), "a mug")),
        Probe("text_locality", Example("", None, "never asked")),
    )
    case = VISEDIT.worded(replace(KETTLE, request=replace(KETTLE.request, question=question), probes=probes))
    return [case.request.question, *(probe.example.question for probe in case.probes)]


def test_visedits_cues():
    cue = " The answer is:"
    rest = ["nq question: who sang it?", f"What is there?{cue}", ""]
    asked = "What colour is it?"
    assert worded(asked) == [asked + cue, "rephrased" + cue, asked + cue, *rest]
    assert worded("a photo of") == ["a photo of", "rephrased", "a photo of", *rest]


def test_registry():
    assert list(PROTOCOLS) == ["default", "legacy", "visedit"]
    assert protocol_of("default") is DEFAULT
    assert DEFAULT.worded(KETTLE) is KETTLE
    with pytest.raises(UnknownNameError, match="no protocol named 'easyedit'; there are: default, legacy, visedit"):
        protocol_of("easyedit")
