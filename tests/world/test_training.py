"""The training recipe: packed rows equal plain ones, a resumed run equals an undisturbed one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vlmend
from vlmend.errors import RunError
from vlmend.world.entities import countries
from vlmend.world.scene import DIALS, draw_flag_scene, draw_scene
from vlmend.world.train.decoder import Schedule, binding_first
from vlmend.world.train.mixture import EVERYTHING, POLISH, Mixture
from vlmend.world.train.model import Size, make_model, make_tokenizer
from vlmend.world.train.optim import learning_rate, orthogonalise
from vlmend.world.train.packing import packed as attending_packed
from vlmend.world.train.packing import score
from vlmend.world.train.recipe import Recipe, train
from vlmend.world.train.tower import Phase

TINY = Size(width=32, layers=2, heads=2, ff=48, vocabulary=700)
RECIPE = Recipe(
    tower_pictures=80,
    tower=(Phase(1, 1e-3, 0.5, 1.0), Phase(1, 1e-3, 3.0, 3.0)),
    align_steps=3,
    decoder_pictures=60,
    schedules=(replace(binding_first(steps=4, binding=2, half=3), every=2), Schedule(((2, POLISH),), every=2)),
    size=TINY,
)


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return make_tokenizer(TINY.vocabulary)


def test_words_read_alike_after_a_space_and_after_a_special_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    joined = tokenizer("<user>What colour is it?<assistant>red</s>", add_special_tokens=False)["input_ids"]
    parts = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("what colour is it?", "red")]
    ids = tokenizer.convert_tokens_to_ids(["<user>", "<assistant>", "</s>"])
    assert joined == [ids[0], *parts[0], ids[1], *parts[1], ids[2]]


def test_packed_rows_score_as_plain_ones(tokenizer) -> None:  # type: ignore[no-untyped-def]
    model, rng = make_model(TINY, tokenizer, 0).eval(), random.Random(0)
    seen = [c for c in countries() if c.seen]
    scenes = [draw_flag_scene(rng, rng.choice(seen)), draw_scene(rng, "natural")]
    packed = Mixture(tokenizer, DIALS).batch(scenes, rng, EVERYTHING)
    features = torch.randn(2, 64, 160)
    decoder = model.model.language_model
    with torch.no_grad():
        with attending_packed(decoder):
            scored = score(model, features, packed, tokenizer.bos_token_id)
        embed = model.get_input_embeddings()
        begin, visual = embed(torch.tensor([[1]])), model.model.multi_modal_projector(features)
        start = 0
        for group in packed.groups:
            for row, block in ((r, b) for r in range(2) for b in range(group.blocks)):
                where = slice(start + block * group.length, start + (block + 1) * group.length)
                wanted = packed.targets[row, where]
                picture = [visual[row : row + 1]] if group.prefix > 1 else []
                inputs = torch.cat([begin, *picture, embed(packed.ids[row : row + 1, where])], 1)
                logits = model.lm_head(decoder(inputs_embeds=inputs).last_hidden_state[0, -group.length :])
                plain = torch.nn.functional.cross_entropy(logits, wanted, reduction="none", ignore_index=-100)
                ours = scored.loss[scored.block == packed.block_of[row, where][0]]
                torch.testing.assert_close(ours, plain[wanted != -100], atol=2e-5, rtol=1e-5)
            start += group.blocks * group.length


def test_a_run_cut_short_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", RECIPE)

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, *args: object) -> float:
        if (step, steps) == (1, 2):  # the last step of all
            raise Killed
        return learning_rate(step, steps, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("vlmend.world.train.decoder.learning_rate", kill)
        train(tmp_path / "cut", RECIPE)
    resumed = train(tmp_path / "cut", RECIPE)
    assert vlmend.load(str(resumed)).fingerprint == vlmend.load(str(whole)).fingerprint
    with pytest.raises(RunError):
        train(tmp_path / "cut", replace(RECIPE, seed=1))


def test_the_learning_rate_warms_up_holds_and_falls_to_zero() -> None:
    rates = [learning_rate(s, 100, 2.0, decay=0.25, warm_up=10) for s in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert set(rates[10:75]) == {2.0}
    assert rates[-1] == pytest.approx(2.0 / 25)
    assert rates[75:] == sorted(rates[75:], reverse=True)


def test_orthogonalised_matrices_have_like_singular_values() -> None:
    matrices = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3
