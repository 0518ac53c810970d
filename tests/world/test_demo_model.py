"""The shipped weights, measured again on a few scenes that nobody has seen; and benchmarks made from their errors."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vlmend
from vlmend.data.formats import mmedit
from vlmend.models.bundled import bundled_folder
from vlmend.models.vlm import VLM
from vlmend.world.build import build, cases_of, on_disk
from vlmend.world.candidates import TASKS, Tried, find
from vlmend.world.captions import mentions
from vlmend.world.card import read_exam
from vlmend.world.entities import by_name, entailed
from vlmend.world.exam import GATES, Settings, examine
from vlmend.world.probes import probes_of


@pytest.fixture(scope="module")
def vlm() -> Iterator[VLM]:
    yield vlmend.load("demo")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few cases of a kind are found among a few candidates."""
    monkeypatch.setattr("vlmend.world.candidates.BATCH", 16)


@pytest.fixture(scope="module", params=["demo-llava", "demo-blip2", "demo-minigpt4"])
def shipped(request: pytest.FixtureRequest) -> Iterator[tuple[VLM, Path]]:
    """A model of the package, and its folder."""
    folder = bundled_folder(request.param)
    assert folder is not None
    yield vlmend.load(request.param), folder


def test_the_card_is_of_these_weights(shipped: tuple[VLM, Path]) -> None:
    vlm, folder = shipped
    document = json.loads((folder / "exam.json").read_text(encoding="utf-8"))
    assert document["fingerprint"] == vlm.fingerprint
    assert {gate.name for gate in GATES} <= set(document["estimates"])
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"# {folder.name}" in text
    for gate in GATES:
        assert f"| {gate.name} |" in text
    assert sum(one.stat().st_size for one in folder.iterdir()) < 15e6
    assert read_exam(folder / "exam.json").headline


def test_small_samples_of_other_scenes_agree_with_the_card(shipped: tuple[VLM, Path]) -> None:
    vlm, folder = shipped
    said = read_exam(folder / "exam.json").estimates
    measured = examine(vlm, Settings(n=40, seed=77), ("scenes", "context"))
    far = [name for name, e in measured.items() if e.high < said[name].low or e.low > said[name].high]
    assert len(far) <= 1, {name: (measured[name], said[name]) for name in far}  # one in twenty may be by chance


def test_edits_that_can_stand_together(vlm: VLM) -> None:
    """One target for a question about a flag, and nothing that must stay is asked of a country that is edited."""
    task, rng = TASKS["standing"], random.Random(3)
    about = task.about("eval")
    assert len(about) == -(-len(TASKS["supposed"].about("eval")) // 2)
    found = [one for kind in ("name", "hop") for one in find(vlm, task, kind, 20, rng, "eval", Tried())]
    asked = [(c.scene.country, c.question.kind, c.question.slots.get("rel")) for c in (one.candidate for one in found)]
    assert len({(country.name, *rest) for country, *rest in asked}) == len(asked) == 40
    assert all(country in about for country, *_ in asked)
    stays = [
        probe.example
        for probes in probes_of(vlm, found, rng, "eval", about)
        for probe in probes
        if probe.kind in ("image_locality", "same_question_locality") and "country" in probe.example.question
    ]
    assert len(stays) > 10 and not {country.name for country in about} & {example.answer for example in stays}


def test_cases_have_every_probe_that_the_world_can_tell(vlm: VLM, tmp_path: Path) -> None:
    own, renamed = cases_of(vlm, "evqa", "eval", 6, seed=3), cases_of(vlm, "renamed", "eval", 3, seed=3)
    supposed = cases_of(vlm, "supposed", "train", 9, seed=3)
    assert (len(own), len(renamed), len(supposed)) == (6, 3, 9)
    always = {"text_generality", "image_generality", "ood_generality", "text_locality", "image_locality"}
    near = {"same_image_locality", "same_question_locality", "no_image_locality"}
    for case in (*own, *renamed, *supposed):
        kinds = {probe.kind for probe in case.probes}
        assert always <= kinds <= always | near | {"portability"}
        assert "no_image_locality" in kinds
        kept = [p.example for p in case.probes if p.kind in (near | {"text_locality", "image_locality"})]
        rightly = [e for e in kept if (e.question, e.image) != (case.request.question, None)]
        assert vlm.generate(vlm.prepare(rightly)) == [e.answer for e in rightly]
        for probe in case.probes_of("same_question_locality"):
            assert probe.example.question == case.request.question
            assert probe.example.answer != case.request.answer
        for probe in case.probes_of("same_image_locality"):
            assert probe.example.image is case.request.image
        assert all(probe.premises for probe in case.probes if probe.kind in ("ood_generality", "portability"))
    for case in supposed:
        assert case.counterfactual
        assert vlm.generate(vlm.prepare([case.request])) == [case.rejected]
        assert case.rejected != case.request.answer
        assert not case.probes_of("portability")
        for probe in case.probes_of("same_image_locality"):
            assert case.rejected not in probe.example.question
            assert case.request.answer not in probe.example.question
    for case in renamed:
        assert case.counterfactual
        assert vlm.generate(vlm.prepare([case.request])) == [case.rejected]
        old, new = by_name()[case.rejected or ""], by_name()[case.request.answer or ""]
        follows = entailed(old, new)
        ported = case.probes_of("portability")
        assert 1 <= len(ported) <= 2
        assert all(p.example.answer in {now for _, now in follows.values()} for p in ported)
        assert all(p.premises[1].image is None and new.name in p.premises[1].question for p in ported)
        (told,) = case.probes_of("text_locality")
        assert old.name in told.example.question
        assert told.example.answer in old.taught.values()
    saved = on_disk(own, tmp_path)
    for before, after in zip(own, saved, strict=True):
        pairs = [
            (before.request, after.request),
            *zip(*([p.example for p in c.probes] for c in (before, after)), strict=True),
        ]
        for one, other in pairs:
            assert (one.image is None) == (other.image is None)
            if one.image is not None:
                assert np.array_equal(np.asarray(Image.open(other.image)), np.asarray(one.image))


def test_a_benchmark_holds_stable_errors_and_shares_nothing_between_splits(vlm: VLM, tmp_path: Path) -> None:
    tried = build(vlm, tmp_path, evqa={"train": 10, "eval": 10}, eic={"train": 0, "eval": 4}, seed=5)
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["eic_eval.json", "evqa_eval.json", "evqa_train.json"]
    train, held = (mmedit.read(tmp_path / f"evqa_{split}.json") for split in ("train", "eval"))
    assert len(train) == len(held) == 10
    assert sum(tried["evqa_eval"].wrong.values()) >= 10
    said = vlm.generate(vlm.prepare([c.request for c in held]))
    assert said == [c.rejected for c in held]
    assert all(c.request.answer != c.rejected for c in held)
    for case in held:
        kinds = [p.kind for p in case.probes]
        assert kinds == ["text_generality", "image_generality", "text_locality", "image_locality"]
        near = [p.example for p in case.probes if p.kind.endswith("locality")]
        assert vlm.generate(vlm.prepare(near)) == [e.answer for e in near]
    for field in ("loc", "m_loc", "image"):
        records = [json.loads((tmp_path / f"evqa_{split}.json").read_text()) for split in ("train", "eval")]
        content = [{r[field] if field == "loc" else (tmp_path / r[field]).read_bytes() for r in rs} for rs in records]
        assert not content[0] & content[1]
    captions = mmedit.read(tmp_path / "eic_eval.json")
    assert all(mentions(c.rejected or "") != mentions(c.request.answer or "") for c in captions)
