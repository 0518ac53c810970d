"""Pairs of edits that meet in a question, out of the demo world: a flag's country, which a model does not know, and a
fact of that country, which is given another value."""

from __future__ import annotations

import random
from collections.abc import Iterator

from vlmend.data.records import EditCase, Example
from vlmend.errors import EditError
from vlmend.evaluation.cooperation import Composed, Pair
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM
from vlmend.world.corpus import fact
from vlmend.world.entities import countries
from vlmend.world.questions import Question, bridge, hop
from vlmend.world.render import Style, render
from vlmend.world.scene import draw_flag_scene

__all__ = ["pairs_of"]


def pairs_of(vlm: VLM, count: int, *, seed: int) -> list[Pair]:
    """Pairs of a model's own: it names the flag wrongly, and knows the fact of the country by name.

    Composed questions are asked about another drawing of the flag than the one that is edited.

    Args:
        vlm: whose.
        count: how many at most; each is about another country.
        seed: of what is drawn.

    Raises:
        EditError: there are none.
    """
    rng = random.Random(f"{seed}/pairs")
    drawn = list(_drawn(rng))
    said = iter(vlm.generate(vlm.prepare([one for pair, truth in drawn for one in _asked(pair, truth)])))
    found: list[Pair] = []
    for pair, truth in drawn:
        name, known = (matches(next(said), one.accepted) for one in _asked(pair, truth))
        if known and not name:
            found.append(pair)
    if not found:
        raise EditError(f"{vlm.name} names every flag rightly, or knows no fact by name: there are no pairs of edits")
    return found[:count]


def _asked(pair: Pair, truth: Example) -> tuple[Example, ...]:
    return pair.seen.request, truth


def _drawn(rng: random.Random) -> Iterator[tuple[Pair, Example]]:
    """A pair for each country whose flag no training has shown, and the question of its fact with what is true."""
    unseen = [country for country in countries() if not country.seen]
    for country in rng.sample(unseen, len(unseen)):
        relation = rng.choice([name for name in country.facts if name != country.stale])
        values = {one.taught[relation] for one in countries()} - {country.taught[relation]}
        other = rng.choice(sorted(values))
        truth = fact(country, relation)
        scene = draw_flag_scene(rng, country)
        first, second = (render(scene, Style(rng.getrandbits(48))).image() for _ in range(2))
        asked = truth.put(rng)
        pair = Pair(
            country.name,
            EditCase(f"{country.name}-seen", Example(Question("name", country.name).put(rng), first, country.name)),
            EditCase(f"{country.name}-known", Example(asked, None, other), counterfactual=True),
            Composed(Example(hop(country, relation).put(rng), second, other), truth.answer),
            Composed(
                Example(bridge(country, relation).put(rng), second, f"{country.name}: {other}"),
                f"{country.name}: {truth.answer}",
            ),
        )
        yield pair, Example(asked, None, truth.answer)
