"""The training recipe: packed rows equal plain ones, a resumed run equals an undisturbed one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionModel

import vlmend
from vlmend.data.records import Example
from vlmend.errors import RunError, VlmendError
from vlmend.world.entities import countries
from vlmend.world.render import Style, render
from vlmend.world.scene import DIALS, draw_flag_scene, draw_scene
from vlmend.world.train.backbones import BACKBONES, Size
from vlmend.world.train.decoder import Schedule, binding_first
from vlmend.world.train.mixture import EVERYTHING, POLISH, Mixture
from vlmend.world.train.optim import learning_rate, orthogonalise
from vlmend.world.train.packing import packed as attending_packed
from vlmend.world.train.packing import score
from vlmend.world.train.queries import Stage, begin_as
from vlmend.world.train.recipe import Recipe, train
from vlmend.world.train.tower import Phase, vision_config
from vlmend.world.train.words import make_tokenizer

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


@pytest.mark.parametrize("backbone", BACKBONES)
def test_packed_rows_score_as_plain_ones(tokenizer, backbone: str) -> None:  # type: ignore[no-untyped-def]
    built, rng = BACKBONES[backbone].make(TINY, tokenizer, 0), random.Random(0)
    for parameter in built.decoder.parameters():  # no layer is an identity, no bias zero
        torch.nn.init.normal_(parameter, std=0.1)
    built.model.eval()
    seen = [c for c in countries() if c.seen]
    scenes = [draw_flag_scene(rng, rng.choice(seen)), draw_scene(rng, "natural")]
    packed = Mixture(tokenizer, DIALS, built.visual, built.opened).batch(scenes, rng, EVERYTHING)
    features = torch.randn(2, built.visual, 160 if backbone == "llava" else 192)
    with torch.no_grad():
        with attending_packed(built.decoder):
            scored = score(built, features, packed, tokenizer.bos_token_id)
        begin, visual = built.embed(torch.tensor([[1]])), built.projector(features)
        targets = torch.full_like(packed.ids, -100).flatten().index_copy(0, packed.at, packed.targets)
        number = torch.full_like(packed.ids, -1).flatten().index_copy(0, packed.at, packed.block_of)
        targets, number, start = targets.view_as(packed.ids), number.view_as(packed.ids), 0
        for group in packed.groups:
            for row, block in ((r, b) for r in range(2) for b in range(group.blocks)):
                where = slice(start + block * group.length, start + (block + 1) * group.length)
                wanted = targets[row, where]
                picture = [visual[row : row + 1]] if group.prefix > 1 else []
                opening = [begin] if built.opened else []
                inputs = torch.cat([*opening, *picture, built.embed(packed.ids[row : row + 1, where])], 1)
                logits = built.head(built.decoder(inputs_embeds=inputs).last_hidden_state[0, -group.length :])
                plain = torch.nn.functional.cross_entropy(logits, wanted, reduction="none", ignore_index=-100)
                ours = scored.loss[scored.block == number[row, where].max()]
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


@pytest.mark.parametrize("backbone", ["blip2", "minigpt4"])
def test_a_backbone_with_queries_is_trained_and_asked_as_it_was_trained(tmp_path: Path, backbone: str) -> None:
    recipe = replace(RECIPE, backbone=backbone, vision=Stage(2, 1e-3, 4), former=Stage(2, 1e-3, 4))
    vlm = vlmend.load(str(train(tmp_path, recipe)))
    picture = render(draw_scene(random.Random(0), "natural"), Style(0)).image()
    (row,) = vlm.prepare([Example("which thing is red?", picture, "lamp")]).rows
    tokens = vlm.processor.tokenizer.convert_ids_to_tokens(row.ids_T)
    assert tokens[:34] == [*["<image>"] * 32, "<s>", "<user>"]
    assert tokens[-1] == "<assistant>"
    assert vlm.processor.tokenizer.convert_ids_to_tokens(row.target_N) == ["Ġlamp", "</s>"]


def test_a_transplanted_tower_gives_the_same_features_where_there_is_no_class_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    tower = SiglipVisionModel(vision_config()).eval()
    vision = BACKBONES["blip2"].make(TINY, tokenizer, 0).model.vision_model.eval()
    begin_as(vision, tower)
    pixels = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        inputs = vision.embeddings(pixels)[:, 1:]
        ours = vision.post_layernorm(vision.encoder(inputs_embeds=inputs).last_hidden_state)
        torch.testing.assert_close(ours, tower(pixel_values=pixels).last_hidden_state, atol=1e-5, rtol=1e-4)


def test_a_model_without_its_tower_is_named(tmp_path: Path) -> None:
    with pytest.raises(VlmendError, match="demo-nothing"):
        train(tmp_path, replace(RECIPE, tower_from="demo-nothing"))


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
