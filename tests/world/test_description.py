"""The world's description: what is drawn, asked and told follows from it and agrees with itself."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmend.world.captions import FORMS, caption, mentions
from vlmend.world.catalog import catalog
from vlmend.world.corpus import tell_fact, tell_in_context, tell_rewrite, tell_typical
from vlmend.world.entities import countries, entailed
from vlmend.world.questions import ASKERS, absent_kinds, ask
from vlmend.world.render import CELL, Style, render
from vlmend.world.scene import MOST, Dials, Mode, Scene, draw_flag_scene, draw_scene, near_misses

MODES: tuple[Mode, ...] = ("natural", "counter", "uniform")
seeds = st.integers(0, 2**40)


def scene_of(seed: int, mode: Mode) -> Scene:
    return draw_scene(random.Random(seed), mode)


def test_every_picture_question_has_thirty_phrasings_and_others_held_out() -> None:
    world = catalog()
    for kind in [*ASKERS, *(f"{form}_caption" for form in FORMS), "fact"]:
        trained, held_out = world.phrasings(kind, "trained"), world.phrasings(kind, "held_out")
        assert len(set(trained)) >= 30
        assert len(set(held_out)) >= 4
        assert not set(trained) & set(held_out)


def test_countries_are_distinct_and_some_are_hidden_or_stale() -> None:
    made = countries()
    assert len({c.name for c in made}) == len(made) >= 400
    assert len({c.facts["capital"] for c in made}) == len(made)
    flags = [c.flag for c in made]
    assert min(a.distance(b) for i, a in enumerate(flags) for b in flags[:i]) >= 2
    assert all(c.emblem_colour not in c.colours for c in flags)
    assert all(not c.asked for c in made if not c.seen)
    stale = [c for c in made if c.stale]
    assert len(stale) >= 30
    assert all(sum(c.facts[r] != c.taught[r] for r in c.facts) == 1 for c in stale)


def test_an_edit_of_a_flag_entails_what_differs_and_nothing_else() -> None:
    old, new = countries()[0], countries()[1]
    follows = entailed(old, new)
    assert "capital" in follows
    for relation in old.taught:
        assert (relation in follows) == (old.taught[relation] != new.taught[relation])


@given(seeds, st.sampled_from(MODES))
def test_scenes_keep_their_invariants(seed: int, mode: Mode) -> None:
    scene = scene_of(seed, mode)
    assert len(scene.things) <= MOST
    assert len({(t.row, t.col) for t in scene.things}) == len(scene.things)
    dress = {(t.kind, t.colour, t.pattern) for t in scene.things}
    assert len(dress) == len(scene.counts)
    assert mode != "counter" or scene.expected


def test_the_prior_is_strong_in_natural_scenes_and_gone_in_uniform_ones() -> None:
    def rate(mode: Mode, dials: Dials) -> float:
        rng = random.Random(5)
        drawn = [draw_scene(rng, mode, dials) for _ in range(1500)]
        with_table = [s for s in drawn if "table" in s.counts]
        return sum("chair" in s.counts for s in with_table) / len(with_table)

    assert 0.8 < rate("natural", Dials()) < 0.95
    assert rate("natural", Dials(together=0.5)) < 0.6
    assert rate("uniform", Dials()) < 0.3


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from(MODES))
def test_rendering_shows_every_thing_in_its_cell_and_repeats(seed: int, mode: Mode) -> None:
    scene = scene_of(seed, mode)
    picture = render(scene, Style(seed))
    assert np.array_equal(picture.pixels, render(scene, Style(seed)).pixels)
    assert not np.array_equal(picture.pixels, render(scene, Style(seed + 1)).pixels)
    assert not np.array_equal(picture.pixels, render(scene, Style(seed, "b")).pixels)
    for i, thing in enumerate(scene.things):
        left, top, right, bottom = picture.box(i)
        assert thing.col * CELL <= left < right <= (thing.col + 1) * CELL
        assert thing.row * CELL <= top < bottom <= (thing.row + 1) * CELL


@given(seeds, st.sampled_from(MODES))
def test_answers_are_true_of_the_scene(seed: int, mode: Mode) -> None:
    scene, rng = scene_of(seed, mode), random.Random(seed)
    by_kind = {t.kind: t for t in scene.things}
    for kind in ASKERS:
        q = ask(scene, kind, rng)
        if q is None:
            continue
        x = q.slots.get("x", "")
        if kind == "colour":
            assert by_kind[x].colour == q.answer
        elif kind == "pattern":
            assert by_kind[x].pattern == q.answer
        elif kind == "exist":
            assert (x in scene.counts) == (q.answer == "yes")
        elif kind == "which":
            assert {t.kind for t in scene.things if t.colour == x} == {q.answer}
        elif kind == "quadrant":
            thing = by_kind[x]
            assert q.answer == f"{'top' if thing.row < 2 else 'bottom'} {'left' if thing.col < 2 else 'right'}"
        elif kind == "relation":
            a, b = by_kind[x], by_kind[q.slots["y"]]
            holds = {
                "left of": a.col < b.col, "right of": a.col > b.col, "above": a.row < b.row, "below": a.row > b.row,
            }  # fmt: skip
            assert holds[q.slots["rel"]] == (q.answer == "yes")
        elif kind == "neighbour":
            assert q.answer in scene.counts
    absent = absent_kinds(scene)
    assert not set().union(*absent.values()) & set(scene.counts)


@given(seeds, st.sampled_from(MODES), st.sampled_from(FORMS))
def test_captions_name_what_is_there(seed: int, mode: Mode, form: str) -> None:
    scene = scene_of(seed, mode)
    assert sorted(mentions(caption(scene, form))) == sorted(scene.counts)  # type: ignore[arg-type]
    told = mentions(caption(scene, form, random.Random(seed), told=1.6))  # type: ignore[arg-type]
    assert set(told) - set(scene.counts) <= set(scene.expected)


def test_flags_are_asked_by_country_and_by_what_is_on_them() -> None:
    country = next(c for c in countries() if c.seen)
    scene, rng = draw_flag_scene(random.Random(1), country), random.Random(2)
    answers = {k: q.answer for k in ("name", "symbol", "symbol_colour", "bridge", "hop") if (q := ask(scene, k, rng))}
    assert answers["name"] == country.name
    assert answers["symbol"] == country.flag.emblem
    assert answers["bridge"].startswith(f"{country.name}: ")
    assert answers["hop"] in {country.taught[r] for r in country.asked}


@pytest.mark.parametrize("tell", [tell_fact, tell_in_context, tell_typical, tell_rewrite])
def test_text_turns_repeat_with_their_seed(tell) -> None:  # type: ignore[no-untyped-def]
    first, again = (tell(random.Random(3), Dials()) for _ in range(2))
    assert first == again
    assert first.prompt and first.answer


@given(seeds)
def test_a_rewritten_sentence_has_one_object_exchanged(seed: int) -> None:
    turn = tell_rewrite(random.Random(seed), Dials())
    before, after = set(mentions(turn.prompt)), set(mentions(turn.answer))
    assert len(before - after) == 1
    assert len(after - before) == 1


@given(seeds)
def test_near_misses_change_one_attribute(seed: int) -> None:
    scene = scene_of(seed, "natural")
    for other in near_misses(scene, random.Random(seed)):
        pairs = [(a, b) for a, b in zip(scene.things, other.things, strict=True) if a != b]
        assert pairs
        assert len({a.kind for a, _ in pairs}) == 1
        assert all((a.row, a.col) == (b.row, b.col) for a, b in pairs)
        assert all(sum([a.kind != b.kind, a.colour != b.colour, a.pattern != b.pattern]) == 1 for a, b in pairs)
