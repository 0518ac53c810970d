"""Training on pairs: what must hold before the first step, what comes out, and what a kill leaves."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import get_scheduler

from conftest import CORE, CROSSING, FAMILIES, assert_untouched, hooks_of, weights_of
from vlmend import Edit
from vlmend.alignment.adapters import FullAdapter, LoRAAdapter
from vlmend.alignment.collate import Collator, fitting, preflight, token_log_probs
from vlmend.alignment.contrast import CONTRASTS
from vlmend.alignment.policy import Policy
from vlmend.alignment.recipes import objective
from vlmend.alignment.reference import _key, asked_of
from vlmend.alignment.train import DOING, SCHEDULES, Alignment, align
from vlmend.alignment.weaken import alpha_bar
from vlmend.data.records import PreferencePair, SkippedPair
from vlmend.errors import RunError, UnknownNameError, VlmendError

LORA = LoRAAdapter(rank=4, alpha=8.0, dropout=0.0)
QUICK = Alignment(adapter=LORA, lr=5e-3, steps=4, batch=2, warmup=0.0, schedule="constant", log_every=1, save_every=2)
_NOUNS = ("cat", "dog", "cup", "hat", "bus", "tree")


@pytest.fixture
def pairs(picture):
    """Six, each with a picture of its own; the answers differ in one word, which is labelled."""
    return [
        PreferencePair(
            id=f"p{n}",
            question="what is this",
            chosen=f"a red {noun}",
            rejected=f"a blue {noun} there",
            image=picture(n),
            chosen_spans=((2, 5),),
            rejected_spans=((2, 6),),
        )
        for n, noun in enumerate(_NOUNS)
    ]


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[] if f in (*CORE, *CROSSING) else pytest.mark.slow) for f in (*FAMILIES, *CROSSING)],
)
def test_every_family_is_aligned(tiny, pairs, tmp_path, family) -> None:
    vlm = tiny(family)
    before, hooks = weights_of(vlm), hooks_of(vlm)
    edit = align(vlm, pairs, tmp_path / "run", QUICK)
    assert_untouched(vlm, before)
    assert hooks_of(vlm) == hooks
    first, *_, last = records(tmp_path / "run")
    assert first["margin"] == 0 and first["loss"] == pytest.approx(0.693147, abs=1e-5) and first["grad_norm"] > 0
    assert last["margin"] > 0

    def margin() -> float:
        batch = Collator(vlm, frozenset({"chosen", "rejected"})).batch(pairs)
        said = [float(one.sum().detach()) for one in token_log_probs(vlm.run(batch.prepared))]
        return sum(said[: len(pairs)]) - sum(said[len(pairs) :])

    plain = margin()
    with vlm.using(Edit.load(tmp_path / "run" / "edit")):
        assert margin() > plain
    assert edit.id == Edit.load(tmp_path / "run" / "edit").id


@pytest.mark.parametrize("family", ["llava", *CROSSING])
def test_pairs_with_and_without_pictures_are_trained_together(tiny, pairs, tmp_path, family) -> None:
    """Where layers look at pictures, a step of pairs without one has no part in theirs."""
    some = [replace(pair, image=None) if n in (1, 3, 5) else pair for n, pair in enumerate(pairs)]
    align(tiny(family), some, tmp_path, replace(QUICK, batch=1, steps=6))
    found = records(tmp_path)
    assert found[0]["margin"] == 0 and all(record["grad_norm"] > 0 for record in found)


@pytest.mark.parametrize("text", ["sft", "mdpo", "ipo", "sigmoid + 0.5*sigmoid(span_weight=2)", "apo-zero", "mpo"])
def test_objectives_move_what_they_should(llava, pairs, tmp_path, text) -> None:
    align(llava, pairs, tmp_path, replace(QUICK, objective=text, steps=8))
    found = records(tmp_path)
    assert found[-1]["loss"] < found[0]["loss"]


def test_weights_themselves_are_trained_against_what_they_were(llava, pairs, tmp_path) -> None:
    before = weights_of(llava)
    method = replace(QUICK, adapter=FullAdapter(layers="last"), cached=True)
    edit = align(llava, pairs, tmp_path, method)
    assert_untouched(llava, before)
    assert records(tmp_path)[0]["margin"] == pytest.approx(0, abs=1e-5) and records(tmp_path)[-1]["margin"] > 0
    assert edit.names and all("layers" in name for name in edit.names)


def test_the_reference_of_trained_weights_must_be_asked_before() -> None:
    with pytest.raises(VlmendError, match="cached=true"):
        Alignment(adapter=FullAdapter())
    Alignment(objective="sft", adapter=FullAdapter())


def test_cached_and_run_references_train_alike(llava, pairs, tmp_path) -> None:
    for name, cached in (("run", False), ("cached", True)):
        align(llava, pairs, tmp_path / name, replace(QUICK, cached=cached))
    for one, other in zip(records(tmp_path / "run"), records(tmp_path / "cached"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


@pytest.mark.parametrize("cached", [False, True])
def test_autocast_rounds_policy_and_reference_alike(tiny, pairs, tmp_path, cached) -> None:
    method = replace(QUICK, bf16=True, cached=cached)
    plain = align(tiny("llava"), pairs, tmp_path / "plain", replace(method, bf16=False))
    made = align(tiny("llava"), pairs, tmp_path / "run", method)
    first, *_, last = records(tmp_path / "run")
    assert abs(first["margin"]) <= (0.05 if cached else 0) and last["margin"] > 0
    assert last["loss"] == pytest.approx(records(tmp_path / "plain")[-1]["loss"], abs=0.05) and made.id != plain.id


def test_layers_run_again_give_the_same_gradient(vlm, pairs) -> None:
    gradients = []
    for again in (False, True):
        with LORA.trained(vlm) as trained:
            policy = Policy(vlm, trained, objective("bpo"), None, recompute=again)
            policy(Collator(vlm, frozenset({"chosen", "rejected"})).batch(pairs))["loss"].backward()
            gradients.append([parameter.grad for parameter in policy.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_training_that_was_cut_short_ends_as_one_that_was_not(llava, pairs, tmp_path) -> None:
    method = replace(QUICK, steps=6, adapter=replace(LORA, dropout=0.2))
    whole = align(llava, pairs, tmp_path / "whole", method)

    def stop(what: str, done: int, _total: int) -> None:
        if (what, done) == ("training", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        align(llava, pairs, tmp_path / "cut", method, progress=stop)
    resumed = align(llava, pairs, tmp_path / "cut", method)
    assert resumed.id == whole.id
    losses = [[(record["step"], record["loss"]) for record in records(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_a_finished_training_is_not_done_again(llava, pairs, tmp_path) -> None:
    made = align(llava, pairs, tmp_path, QUICK)

    def never(what: str, *_: int) -> None:
        assert what == DOING[0]

    assert align(llava, pairs, tmp_path, QUICK, progress=never).id == made.id
    with pytest.raises(RunError, match="settings"):
        align(llava, pairs, tmp_path, replace(QUICK, lr=1e-4))
    with pytest.raises(RunError, match="pairs"):  # as many of the same names, from the same place
        align(llava, [replace(pairs[0], rejected="a green cat"), *pairs[1:]], tmp_path, QUICK)


def test_only_the_language_model_is_trained_unless_more_is_named(llava, pairs, tmp_path) -> None:
    names = align(llava, pairs, tmp_path / "language", QUICK).names
    assert names and not any("projector" in name or "vision" in name for name in names)
    more = replace(QUICK, adapter=replace(LORA, modules=("attn", "connector")))
    names = align(llava, pairs, tmp_path / "connector", more).names
    assert any("projector" in name for name in names)
    assert records(tmp_path / "connector")[0]["margin"] == 0  # the reference keeps its own connector


def test_pairs_that_cannot_be_trained_on_are_left_out_and_listed(llava, pairs, tmp_path) -> None:
    bad = [
        replace(pairs[0], id="empty", chosen=" "),
        replace(pairs[0], id="same", rejected=pairs[0].chosen + " "),
        replace(pairs[0], id="gone", image=tmp_path / "gone.png"),
    ]
    kept, skipped = fitting(llava, [*bad, *pairs])
    assert kept == pairs
    assert [one.id for one in skipped] == ["empty", "same", "gone"]
    assert "chosen answer is empty" in skipped[0].reason and "gone.png" in skipped[2].reason
    _, long = fitting(llava, pairs, longest=5)
    assert len(long) == len(pairs) and "more than 5" in long[0].reason
    with pytest.raises(VlmendError, match=r"^pairs\.json: of 4 pairs none can be trained on.*'tied': two answers"):
        left_out = [SkippedPair("tied", "two answers of one score")]
        align(llava, bad, tmp_path / "run", QUICK, source="pairs.json", left_out=left_out)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_answer_with_what_stands_for_a_picture_is_left_out(vlm, pairs, tmp_path, side) -> None:
    mark = vlm.tokenizer.decode([vlm.parts.image_token])
    bad = replace(pairs[0], **{"id": "marked", side: f"a red {mark} cat"})
    _, skipped = fitting(vlm, [bad])
    assert skipped == [SkippedPair("marked", f"its {side} answer has what stands for a picture in it")]


def test_one_pair_that_cannot_be_run_does_not_end_a_training(llava, pairs, tmp_path) -> None:
    mark = llava.tokenizer.decode([llava.parts.image_token])
    bad = replace(pairs[0], id="marked", chosen=f"a red {mark} cat", chosen_spans=())
    with pytest.raises(VlmendError, match="visual tokens"):
        preflight(llava, Collator(llava, frozenset({"chosen"})).batch([bad]))
    edit = align(llava, [bad, *pairs], tmp_path / "run", QUICK, left_out=[SkippedPair("tied", "of one score")])
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["skipped"]
    assert [one["id"] for one in noted] == ["tied", "marked"]
    assert edit.chosen["pairs"]["count"] == 6 and edit.chosen["pairs"]["skipped"] == 2


@pytest.mark.parametrize(
    ("text", "lack", "reason"),
    [
        ("mdpo", {"image": None}, "no picture to weaken"),
        ("sigmoid(other_weight=0) + sft", {"chosen_spans": (), "rejected_spans": ()}, "no labelled spans"),
    ],
)
def test_a_pair_without_what_the_objective_reads_is_left_out(llava, pairs, tmp_path, text, lack, reason) -> None:
    bad = replace(pairs[0], id="bad", **lack)
    assert fitting(llava, [bad], what=objective("bpo")) == ([bad], [])
    method = replace(QUICK, objective=text, batch=1, steps=7)
    align(llava, [bad, *pairs], tmp_path / "run", method)
    (noted,) = json.loads((tmp_path / "run" / "run.json").read_text())["skipped"]
    assert noted["id"] == "bad" and reason in noted["reason"]
    with pytest.raises(VlmendError, match=f"none can be trained on.*'bad'.*{reason}"):
        align(llava, [bad], tmp_path / "none", method)
    assert not (tmp_path / "none").exists()


def test_a_picture_is_processed_once_for_all_pairs_that_ask_the_same(llava, pairs, monkeypatch) -> None:
    fields, calls, moved = llava._preparer.fields, [], []
    monkeypatch.setattr(llava._preparer, "fields", lambda *given: calls.append(given) or fields(*given))
    twice = [*pairs, *(replace(pair, id=f"{pair.id}-again", rejected="a hat") for pair in pairs)]
    kept, _ = fitting(llava, twice, progress=lambda *given: moved.append(given))
    assert kept == twice
    assert len(calls) == len(pairs)
    assert moved == [(number, 12) for number in range(1, 13)]


def test_the_reference_is_kept_by_what_was_asked(llava, pairs, tmp_path) -> None:
    collator = Collator(llava, frozenset({"chosen", "rejected"}))
    moved: list[tuple[int, int]] = []
    found = asked_of(llava, collator, pairs, tmp_path, progress=lambda *given: moved.append(given))
    assert moved == [(6, 6)]
    assert len(found) == 2 * len(pairs)
    found.of(collator.batch(pairs[2:4]), llava.device)
    with pytest.raises(RunError, match="'p0'"):
        found.of(collator.batch([replace(pairs[0], chosen="a hat")]), llava.device)
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(b"damaged")
    with pytest.raises(RunError, match="remove it"):
        asked_of(llava, collator, pairs, tmp_path)


@pytest.mark.parametrize("place", range(6))
def test_a_reference_of_another_model_is_noticed(llava, pairs, tmp_path, place) -> None:
    """Whichever answer it is of, of whichever side."""
    what = objective("mdpo")
    collator = Collator(llava, what.sides, contrast=CONTRASTS["crop"])
    batch = collator.batch(pairs[:2])
    found = asked_of(llava, collator, pairs[:2], tmp_path)
    with LORA.trained(llava) as trained:
        Policy(llava, trained, what, found)(batch)
        key = _key(batch.prepared.rows[place])
        found._known[key] = found._known[key] - 0.1
        answer = f"{('chosen', 'rejected', 'weakened')[place // 2]} answer of pair 'p{place % 2}'"
        with pytest.raises(VlmendError, match=f"by 0.1 nats.*{answer}.*not of this model"):
            Policy(llava, trained, what, found)(batch)


def test_preflight_refuses_answers_without_an_end(llava, pairs) -> None:
    batch = Collator(llava, frozenset({"chosen", "rejected"})).batch(pairs)
    preflight(llava, batch)
    rows = batch.prepared.rows
    cut = replace(batch, prepared=replace(batch.prepared, rows=(replace(rows[0], target_N=rows[0].target_N[:-1]),)))
    with pytest.raises(VlmendError, match="does not end it"):
        preflight(llava, cut)
    fewer = rows[0].visual_T.clone()
    fewer[int(fewer.nonzero()[0])] = False
    with pytest.raises(VlmendError, match="visual tokens"):
        preflight(llava, replace(batch, prepared=replace(batch.prepared, rows=(replace(rows[0], visual_T=fewer),))))


def test_labelled_spans_are_those_words(llava, pairs) -> None:
    batch = Collator(llava, frozenset({"chosen", "rejected"}), spans=True).batch(pairs[:1])
    words = [
        llava.tokenizer.decode(row.target_N[inside]).split()
        for row, inside in zip(batch.prepared.rows, batch.spans, strict=True)
    ]
    assert words == [["red"], ["blue"]]


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_weakened_picture_is_as_large_and_drawn_by_the_pair(llava, pairs, name) -> None:
    sides = frozenset({"chosen", "weakened"})
    one, again, other = (
        Collator(llava, sides, contrast=CONTRASTS[name], seed=seed).batch(pairs[:2]).prepared.rows for seed in (0, 0, 1)
    )
    assert [row.sizes for row in one[:2]] == [row.sizes for row in one[2:]]
    assert one[0].pictures != one[2].pictures
    assert [row.pictures for row in one] == [row.pictures for row in again]
    assert (one[2].pictures == other[2].pictures) == (name == "black")


def test_noise_leaves_as_much_of_a_picture_as_its_step_says() -> None:
    grey = Image.new("RGB", (64, 48), (192, 192, 192))
    made = np.asarray(CONTRASTS["noise"](grey, random.Random(0)), dtype=float) / 127.5 - 1
    kept = float(alpha_bar()[500])
    assert np.median(made) == pytest.approx(kept**0.5 * (192 / 127.5 - 1), abs=0.03)
    assert np.quantile(made, 0.5) - np.quantile(made, 0.1587) == pytest.approx((1 - kept) ** 0.5, abs=0.03)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": 0}, "lr is a number above 0"),
        ({"batch": 0}, "batch is at least 1"),
        ({"epochs": 0}, "there must be a step"),
        ({"epochs": math.nan, "steps": 3}, "there must be a step"),
        ({"objective": "dpo?"}, "not understood"),
        ({"steps": -1}, "steps is a number from 0 on, not -1"),
        ({"longest": -5}, "longest is a number from 0 on, not -5"),
        ({"clip": -1.0}, "clip is a number from 0 on, not -1"),
        ({"clip": math.nan}, "clip is a number from 0 on, not nan"),
        ({"weight_decay": -1.0}, "weight_decay is a number from 0 on, not -1"),
        ({"warmup": -3.0}, "warmup is a share of the steps, at least 0 and below 1, not -3"),
        ({"warmup": math.nan}, "warmup is a share"),
        ({"seed": -1}, "seed is a whole number from 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "seed is a whole number"),
        ({"schedule": "silly"}, "no schedule named 'silly'; there are: constant"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message) -> None:
    with pytest.raises(VlmendError, match=message):
        Alignment(**wrong)


@pytest.mark.parametrize("alpha", [math.nan, math.inf, 0.0, -1.0])
def test_an_alpha_that_scales_nothing_is_refused(alpha) -> None:
    with pytest.raises(VlmendError, match="alpha is a number above 0"):
        LoRAAdapter(alpha=alpha)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_need_nothing_but_steps(name) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    rate = get_scheduler(name, optimiser, num_warmup_steps=0, num_training_steps=3)
    assert Alignment(schedule=name).schedule == name
    assert rate.get_last_lr() == [0.1]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="crop"):
        Alignment(contrast="fog")
    with pytest.raises(UnknownNameError):
        Alignment(objective="bpoo")


def test_a_loss_that_diverges_says_so(llava, pairs, tmp_path) -> None:
    with pytest.raises(VlmendError, match="smaller learning rate"):
        align(llava, pairs, tmp_path, replace(QUICK, lr=1e30, steps=20))
