from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vlmend import Example, Target, attribute
from vlmend.attribution.noise import shared_heat, window_heat
from vlmend.attribution.places import windows
from vlmend.attribution.target import OWN, strands
from vlmend.errors import AttributionError, PartsError
from vlmend.models.attention import AttentionCall, attention_modules
from vlmend.models.layout import Place
from vlmend.models.trace import rewritten

QUESTION = "what colour is the cup ?"
RADII = (0, 1, 3)
GRID = [Place(0, (x * 4.0, y * 4.0, x * 4.0 + 4, y * 4.0 + 4)) for y in range(6) for x in range(6)]


@pytest.fixture(scope="module")
def seen(golden):
    """The attention of the golden model's layer 2 for its first sample, and where things stand in it."""
    layer, vlm = 2, golden.vlm
    modules = attention_modules(vlm.parts, (layer,))
    (strand,) = strands(vlm, golden.examples[0], OWN)
    clean = strand.read(vlm, {"attention": modules[layer]})
    call = AttentionCall.of(vlm.parts, layer, clean.of("attention"))
    return SimpleNamespace(call=call, visual=clean.strand.visual, queries=clean.strand.positions)


def members(radius):
    return [near.nonzero().flatten() for near in windows(GRID, [(24, 24)], radius)]


def test_the_states_are_the_golden_ones(golden, seen):
    wanted_1TD = golden.numbers["heat.attn_input_layer2"]
    length = wanted_1TD.shape[1]
    torch.testing.assert_close(seen.call.states_1TD[:, :length], wanted_1TD, rtol=0, atol=1e-5)
    assert seen.queries == (length - 1,)
    clean_D = seen.call.output_1TD[0, length - 1]
    torch.testing.assert_close(clean_D, golden.numbers["heat.attn_clean_output_last"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("radius", RADII)
def test_visedit_gives_these(golden, seen, radius):
    """Noise as published: every window has its own, the beginning of one stream."""
    cells, stream = members(radius), golden.numbers["heat.seeded.noise_stream"]

    def noise(index):
        count = 10 * len(cells[index]) * 64
        return stream[:count].reshape(10, len(cells[index]), 64)

    found = window_heat(seen.call, seen.visual, cells, seen.queries, noise).mean(-1)
    torch.testing.assert_close(found, golden.numbers[f"heat.seeded.r{radius}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("radius", RADII)
def test_shared_noise_gives_these(golden, seen, radius):
    near = windows(GRID, [(24, 24)], radius)
    found = shared_heat(seen.call, seen.visual, near, seen.queries, golden.numbers["heat.field.noise"])
    assert found is not None
    torch.testing.assert_close(found, golden.numbers[f"heat.field.per_draw.r{radius}"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.mean(-1), golden.numbers[f"heat.field.r{radius}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", [OWN, Target("three birds")], ids=["own", "answer"])
def test_the_short_way_is_the_exact_one(vlm, picture, target):
    """In every layer of every family: grouped heads, rotary embeddings of one and three axes, biases, norms of queries
    and keys, sliding windows; and it is the short way that was taken."""
    example = Example(QUESTION, picture(1))
    fast, exact = (
        attribute(vlm, example, "perturbation", target, layers="all", radius=1, draws=2, path=path)
        for path in ("auto", "exact")
    )
    assert not any("computed by itself" in note for note in fast.notes)
    torch.testing.assert_close(fast.scores, exact.scores, rtol=1e-3, atol=1e-6)
    assert (fast.scores >= -1e-6).all()
    assert fast.scores.max() > 1e-5
    assert fast.mean("layer").heat().shape == (36, 44)


def test_where_the_short_way_does_not_hold(llava, picture):
    """An attention whose last row also sees the other rows' outputs: the exact way is taken, and the result says so."""
    example = Example(QUESTION, picture(1))
    (module,) = attention_modules(llava.parts, (1,)).values()
    settings = {"layers": [1], "radius": 1, "draws": 2}
    with rewritten({module: lambda output: output + output.mean(1, keepdim=True)}):
        found = attribute(llava, example, "perturbation", **settings)
        exact = attribute(llava, example, "perturbation", path="exact", **settings)
    assert "layer 1: every window was computed by itself, because sharing noise gave" in found.notes[0]
    assert torch.equal(found.scores, exact.scores)
    assert not attribute(llava, example, "perturbation", **settings).notes


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3"])
def test_what_noise_takes_from_the_target(tiny, picture, family):
    """The window of everything: one score, made by hand in a run with that noise."""
    model = tiny(family)
    example, target = Example(QUESTION, picture(1)), Target("red")
    found = attribute(model, example, "perturbation", target, layers=[1], radius=1.0, draws=1, measure="target", seed=4)
    (strand,) = strands(model, example, target)
    (module,) = attention_modules(model.parts, (1,)).values()
    clean = strand.read(model, {"attention": module})
    states = clean.of("attention").input.clone()
    noise = torch.randn(1, len(strand.visual), states.shape[-1], generator=torch.Generator().manual_seed(4)) * 0.7
    states[0, strand.visual] += noise[0]
    output = AttentionCall.of(model.parts, 1, clean.of("attention")).again(states)
    with rewritten({module: lambda _: output}):
        noisy = strand.read(model)
    lost = float(strand.value(clean.logits_NV, "log_prob") - strand.value(noisy.logits_NV, "log_prob"))
    assert found.scores.flatten().tolist() == pytest.approx([lost] * len(strand.visual), abs=1e-5)
    both = attribute(
        model, example, "perturbation", Target("red", against="red"), layers=[1], draws=1, measure="target"
    )
    assert both.scores.abs().max() < 1e-6


def test_the_patches_of_a_model_whose_tokens_have_no_place(tiny, picture):
    model = tiny("blip2")
    example = Example(QUESTION, picture(1))
    found = attribute(model, example, "perturbation", layers=[0, 3], draws=2)
    assert found.axes == {"layer": (0, 3), "place": tuple(range(16))}
    assert "vision encoder's patches" in found.notes[0]
    assert (found.scores > 0).all()
    assert found.at(layer=3).heat().shape == (36, 44)
    lost = attribute(model, example, "perturbation", Target("red"), draws=2, measure="target")
    assert lost.axes == {"place": tuple(range(16))}
    assert lost.scores.abs().max() > 0


def test_windows_are_those_of_the_published_grid():
    """Chebyshev distance on a regular grid, cut at its border; radii as shares grow with the grid."""
    for radius in (0, 1, 3):
        near = windows(GRID, [(24, 24)], radius)
        for i, row in enumerate(near.tolist()):
            for j, inside in enumerate(row):
                assert inside == (max(abs(i // 6 - j // 6), abs(i % 6 - j % 6)) <= radius)
    assert torch.equal(windows(GRID, [(24, 24)], 0.17), windows(GRID, [(24, 24)], 1))
    coarse = [Place(0, (x * 8.0, y * 8.0, x * 8.0 + 8, y * 8.0 + 8)) for y in range(3) for x in range(3)]
    assert int(windows(coarse, [(24, 24)], 0.34)[4].sum()) == 9
    assert int(windows(GRID, [(24, 24)], 0.34)[14].sum()) == 25
    apart = [Place(0, (0, 0, 4, 4)), Place(1, (0, 0, 4, 4)), Place(0, None)]
    assert torch.equal(windows(apart, [(8, 8), (8, 8)], 0.5), torch.eye(3, dtype=torch.bool))
    with pytest.raises(AttributionError, match="not negative"):
        windows(GRID, [(24, 24)], -1)


def test_two_pictures_are_apart(llava, picture):
    example = Example("<image> and <image>", (picture(1), picture(2, (20, 30))))
    found = attribute(llava, example, "perturbation", draws=2)
    assert found.heat(0).shape == (36, 44)
    assert found.heat(1).shape == (30, 20)
    assert {place.picture for place in found.places} == {0, 1}


@pytest.mark.parametrize(
    ("settings", "target", "error", "message"),
    [
        ({"layers": [9]}, OWN, PartsError, "no layer 9"),
        ({"draws": 0}, OWN, AttributionError, "0 draws"),
        ({}, Target("red", against="blue"), AttributionError, "measure='target'"),
    ],
)
def test_what_makes_no_sense_is_refused(llava, picture, settings, target, error, message):
    with pytest.raises(error, match=message):
        attribute(llava, Example("what ?", picture(1)), "perturbation", target, **settings)
    with pytest.raises(AttributionError, match="has no picture"):
        attribute(llava, Example("who wrote the song"), "perturbation")
