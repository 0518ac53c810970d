"""What the defects of EasyEdit's SERAC do to a score; that ours has none of them is in `test_serac` as well."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from vlmend import Probe
from vlmend.data.records import (
    IMAGE_GENERALITY,
    IMAGE_LOCALITY,
    SAME_QUESTION_LOCALITY,
    TEXT_GENERALITY,
    TEXT_LOCALITY,
)
from vlmend.editors.serac import SERAC
from vlmend.editors.serac_training import SERACLesson, SERACTraining
from vlmend.editors.shelf import Trained
from vlmend.evaluation.editing import evaluate
from vlmend.evaluation.protocols import LEGACY

TINY = SERACTraining(
    width=32, size=16, batch=3, lr=1e-2, retargets=0, invented=0.0,
    learns=(TEXT_GENERALITY, IMAGE_GENERALITY), keeps=(TEXT_LOCALITY, IMAGE_LOCALITY, SAME_QUESTION_LOCALITY),
)  # fmt: skip


@pytest.fixture(scope="module")
def asked(cases, picture):
    """The cases, each with its question about another picture, which must stay."""
    return [
        replace(
            case,
            probes=(*case.probes, Probe(SAME_QUESTION_LOCALITY, replace(case.request, image=picture(33), answer="no"))),
        )
        for case in cases
    ]


def learnt(vlm, cases, method=TINY, steps: int = 120) -> Trained:
    """Weights that were learnt on the very cases."""
    lesson = SERACLesson(method, vlm, cases, cases)
    optimizer = torch.optim.Adam(lesson.module.parameters(), lr=method.lr)
    for step in range(steps):
        loss, _ = lesson.loss(range(lesson.count), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lesson.check()  # finds the bar
    tensors = {name: x.detach().clone() for name, x in lesson.module.state_dict().items()}
    return Trained("serac", vlm.fingerprint, lesson.facts, tensors, {})


@pytest.fixture(scope="module")
def weights(tiny, asked) -> Trained:
    return learnt(tiny("llava"), asked)


def editor(vlm, weights: Trained, **settings) -> SERAC:
    made = SERAC(**settings)
    made._shelved[vlm.fingerprint] = made.read(weights, vlm)
    return made


def score(vlm, edit, case, kind: str) -> float:
    """EasyEdit's, of the probes of a kind."""
    records = evaluate(vlm, edit, [case], protocol="legacy", max_new_tokens=0).records
    scores = [LEGACY.score(record)[1] for record in records if record.kind == kind]
    return sum(scores) / len(scores)


def test_the_answer_in_the_scopes_text(llava, asked, weights):
    """The classifier is told the right answer with the question: T-Gen is that of a question nobody could ask."""
    case = asked[0]
    (probe,) = case.probes_of(TEXT_GENERALITY)
    answer, table_VD = case.request.answer, llava.model.get_input_embeddings().weight.detach()

    def apart(text: str) -> torch.Tensor:  # squared distance of texts, as of [CLS] states, from that of the edit
        words = llava.tokenizer(f"{case.request.question} {answer}", add_special_tokens=False).input_ids
        others = llava.tokenizer(text, add_special_tokens=False).input_ids
        return (table_VD[words].mean(0) - table_VD[others].mean(0)).square().sum()

    row = llava.run(llava.prepare([probe.example])).rows[0]
    base_NV, told_NV = (one_hot(one, len(table_VD)).float() for one in (row.logits_NV.argmax(-1), row.target_N))
    unit = apart(probe.example.question) / -math.log(0.48)  # asked without an answer it is just out of scope

    def published(text: str) -> float:
        s = float((-apart(text) / unit).exp())
        said_N = ((1 - s) * base_NV + s * told_NV).argmax(-1)  # both models are sure of what they say
        return float((said_N == row.target_N)[: row.answer_length].float().mean())

    assert published(probe.example.question) == 0.0
    assert published(f"{probe.example.question} {answer}") == 1.0
    edit = editor(llava, weights).fit(llava, [case])
    assert score(llava, edit, case, TEXT_GENERALITY) == 1.0
    assert llava.generate(llava.prepare([replace(probe.example, answer=None)]), edit) == [answer]  # and asked freely


def test_a_scope_of_words_alone(llava, asked, weights):
    """The classifier reads no picture: the same question about another picture gets the edit's answer."""
    for case in asked:
        edit = editor(llava, weights).fit(llava, [case])
        assert score(llava, edit, case, SAME_QUESTION_LOCALITY) == 1.0
        blind = replace(case, request=replace(case.request, image=None))
        (query,) = llava.queries(llava.prepare([blind.request]))
        (op,) = editor(llava, weights).fit(llava, [blind]).ops
        assert op.mixing(query).score > op.bar  # whatever the picture, none is read
        published = editor(llava, weights, bar=0.0).fit(llava, [case])
        assert score(llava, published, case, SAME_QUESTION_LOCALITY) == 0.0


def test_a_connector_that_is_drawn(llava, asked, weights):
    """The projection of pictures is drawn for every edit: what was learnt to be said with a picture is not."""
    case, name = asked[1], "speaker.see.weight"
    assert score(llava, editor(llava, weights).fit(llava, [case]), case, "reliability") == 1.0
    for seed in range(3):
        drawn = torch.empty(weights.tensors[name].shape)
        torch.nn.init.xavier_uniform_(drawn, generator=torch.Generator().manual_seed(seed))
        published = replace(weights, tensors={**weights.tensors, name: drawn})
        assert score(llava, editor(llava, published).fit(llava, [case]), case, "reliability") < 0.7


def test_pictures_that_the_loss_leaves_out(llava, asked):
    """Without their divergence in the loss nothing teaches that they must stay: M-Loc is lost, T-Loc is not."""
    loss_alone = replace(TINY, scope_weight=0.0)  # what a classifier of its own learns is no part of it
    found: dict[tuple[str, ...], list[float]] = {}
    for keeps in ((TEXT_LOCALITY,), TINY.keeps):
        fitted = editor(llava, learnt(llava, asked, replace(loss_alone, keeps=keeps)), route="soft")
        edit = fitted.fit(llava, asked[:1])
        found[keeps] = [score(llava, edit, asked[0], kind) for kind in (TEXT_LOCALITY, IMAGE_LOCALITY)]
    assert found == {(TEXT_LOCALITY,): [1.0, 0.0], TINY.keeps: [1.0, 1.0]}


def test_mixing_that_is_always_soft(llava, asked):
    """A question that is not in scope is answered by a mixture all the same, and its likeliest tokens are others."""
    weights = learnt(llava, asked, steps=5)  # hardly
    found: dict[str, float] = {}
    for route in ("soft", "hard"):
        edits = [editor(llava, weights, route=route).fit(llava, [case]) for case in asked]
        scores = [score(llava, edit, case, IMAGE_LOCALITY) for edit, case in zip(edits, asked, strict=True)]
        found[route] = sum(scores) / len(scores)
    assert found["soft"] < 0.5 < found["hard"] == 1.0
