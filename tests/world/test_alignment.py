"""The study of alignment: what is asked, how answers are scored, and that trainings are not repeated."""

from __future__ import annotations

import json

import pytest

import vlmend
from vlmend.alignment.adapters import LoRAAdapter
from vlmend.alignment.train import Alignment
from vlmend.data.records import PreferencePair
from vlmend.errors import VlmendError
from vlmend.runs import Run
from vlmend.world.alignment import Asked, found, lead, study
from vlmend.world.exam.scenes import SCENE_KINDS


@pytest.fixture(scope="module")
def asked():
    return Asked.drawn(6, seed=3)


def right(asked, *, companions=(), few=False):
    """Answers that are all right, but for the companions that are named too, or for half of what is there."""
    said = {}
    for mode, scenes in asked.scenes.items():
        texts = []
        for scene in scenes:
            there = list(scene.counts)[: 1 if few else None]
            texts.append(" and ".join(f"a {kind}" for kind in (*there, *(companions and scene.expected))))
        said[mode] = texts
    for name in ("pope", *SCENE_KINDS):
        said[name] = [example.answer for example in asked.examples[name]]
    return said


def test_what_is_asked_is_drawn_again_and_lacks_companions(asked) -> None:
    again = Asked.drawn(6, seed=3)
    assert asked.scenes == again.scenes and asked.exist == again.exist
    assert all(scene.expected for scene in asked.scenes["counter"])
    assert len(asked.exist) >= 12 and [one.answer for one in asked.exist] == ["yes", "no"] * (len(asked.exist) // 2)
    assert [example.answer for example in asked.examples["pope"]] == [one.answer for one in asked.exist]
    assert all(len(asked.examples[kind]) == 3 for kind in SCENE_KINDS)


def test_right_answers_score_all_and_nothing_made_up(asked) -> None:
    one = found(asked, [right(asked)])
    assert one.companion.mean == one.chair_i.mean == one.chair_i_natural.mean == 0
    assert one.coverage.mean == one.coverage_natural.mean == one.pope_f1.mean == 1
    assert {kind: e.mean for kind, e in one.questions.items()} == dict.fromkeys((*SCENE_KINDS, "all"), 1)


def test_companions_that_are_named_count_and_silence_costs_coverage(asked) -> None:
    one = found(asked, [right(asked, companions=True)])
    assert one.companion.mean == 1 and 0 < one.chair_i.mean < 1 and one.coverage.mean == 1
    shy = found(asked, [right(asked, few=True)])
    assert shy.companion.mean == 0 and shy.coverage.mean < 1 and shy.words.mean < one.words.mean


def test_seeds_are_pooled_over_the_same_scenes(asked) -> None:
    both = found(asked, [right(asked), right(asked, companions=True)])
    assert both.by_seed == [0, 1] and both.companion.mean == pytest.approx(0.5)


def test_the_whole_of_what_is_made_up_and_of_the_words(asked) -> None:
    """Objects named on both sorts of scenes count alike, and lengths are apart."""
    one = found(asked, [right(asked, companions=True)])
    named = [one.chair_i.n, one.chair_i_natural.n]
    assert one.chair_i_total.n == sum(named)
    wanted = (one.chair_i.mean * named[0] + one.chair_i_natural.mean * named[1]) / sum(named)
    assert one.chair_i_total.mean == pytest.approx(wanted)
    lengths = [len(text.split()) for text in right(asked, companions=True)["natural"]]
    assert one.words_natural.mean == pytest.approx(sum(lengths) / len(lengths))


def test_arms_are_paired_by_scene(asked) -> None:
    """One of two seeds names every companion; the other arm none."""
    half = lead(asked, [right(asked), right(asked, companions=True)], [right(asked)])
    assert half.mean == pytest.approx(0.5) and half.n == found(asked, [right(asked)]).companion.n
    assert lead(asked, [right(asked)], [right(asked, companions=True)]).mean == -1


@pytest.mark.slow
def test_a_study_trains_each_arm_once(asked, tmp_path) -> None:
    vlm = vlmend.load("demo")
    example = asked.examples["natural"][0]
    pairs = [
        PreferencePair(f"p{n}", example.question, "a kettle.", "a dog.", example.image, origin="weakened")
        for n in range(4)
    ]
    method = Alignment(adapter=LoRAAdapter(rank=2), steps=2, batch=2, log_every=1)

    def done(folder):
        calls, arms = [], ["base", "sft", "bpo weakened"]
        with Run(folder, {}) as run:
            study(vlm, pairs, arms, [0, 1], asked, folder, run, method, progress=lambda: calls.append(1))
        records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        return len(calls), [(record["arm"], record["seed"]) for record in records]

    each = [("base", 0), ("sft", 0), ("sft", 1), ("bpo weakened", 0), ("bpo weakened", 1)]
    assert done(tmp_path) == (5, each)
    assert done(tmp_path) == (0, each)
    with Run(tmp_path, {}) as run, pytest.raises(VlmendError, match="origin 'injected'"):
        study(vlm, pairs, ["bpo injected"], [0], asked, tmp_path, run, method)
