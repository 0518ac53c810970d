"""What is in the .json: whole records that EasyEdit's loaders read, whatever else is in the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlmend import EditCase, Example, Probe
from vlmend.build.benchmark import Benchmark, Plan, build
from vlmend.build.card import card, statistics
from vlmend.build.errors import Asking
from vlmend.build.rewording import Templates
from vlmend.data.formats import plain, read
from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_GENERALITY, TEXT_LOCALITY
from vlmend.models.pictures import open_picture, save_picture
from vlmend.runs import Run


@pytest.fixture
def shot(picture: Callable[[int], Any], tmp_path: Path) -> Callable[[int], Path]:
    """A picture's file."""
    return lambda number: save_picture(picture(number), tmp_path / f"{number}.png")


@pytest.fixture
def whole(tiny: Callable[..., Any], shot: Callable[[int], Path]) -> list[EditCase]:
    """Cases that lack nothing: a second picture that is recognised, and questions that stay."""
    made: list[EditCase] = []
    for number in range(3):
        request = Example("what is it ?", shot(number), "a unicorn", ("unicorn",))
        second = shot(100 + number)
        premise = Example("where is it ?", second, tiny("llava").answer(second, "where is it ?"))
        probes = (
            Probe(TEXT_GENERALITY, replace(request, question=f"say what this is ({number})")),
            Probe(IMAGE_GENERALITY, replace(request, image=second), premises=(premise,)),
            Probe(TEXT_LOCALITY, Example(f"who is number {number} ?", None, "nobody")),
            Probe(IMAGE_LOCALITY, Example("is it a bird ?", shot(200 + number), "yes, a bird")),
        )
        made.append(EditCase(f"r{number}", request, probes=probes, notes=(("place", '"here"'),)))
    return made


def built(vlm: Any, cases: list[EditCase], folder: Path, **plan: Any) -> Benchmark:
    with Run(folder, {}) as run:
        settings: dict[str, Any] = {"train": 0.0, "rephraser": Templates(), **plan}
        return build(vlm, cases, folder, Plan(Asking(draws=0), **settings), run, lambda: None)


def loaded(file: Path) -> list[str]:
    """What a loader of such files does: of every record it takes every field, and opens the pictures below a root."""
    records = json.loads(file.read_text())
    for record in records:
        for field in ("src", "pred", "rephrase", "alt", "loc", "loc_ans", "m_loc_q", "m_loc_a"):
            assert record[field].strip(), field
        for field in ("image", "image_rephrase", "m_loc"):
            assert record[field]
            open_picture(file.parent / record[field])
    return [record["src"] for record in records]


def test_whole_records_are_loaded(tiny: Callable[..., Any], whole: list[EditCase], tmp_path: Path) -> None:
    made = built(tiny("llava"), whole, tmp_path / "bench")
    assert len(loaded(tmp_path / "bench" / "eval.json")) == 3
    assert "published" not in made.dropped
    assert made.published == (0, 3)
    assert "| cases in the .json, too | 0 | 3 |" in card(made, about={}, command="vlmend build")


def other(case: EditCase, kind: str, example: Example) -> EditCase:
    """With another example in the place of that of a kind of probe."""
    return replace(case, probes=tuple(replace(p, example=example) if p.kind == kind else p for p in case.probes))


def of_several(case: EditCase, shot: Callable[[int], Path]) -> EditCase:
    several = (case.request.image, shot(50))
    probes = tuple(p for p in case.probes if p.kind not in (TEXT_GENERALITY, IMAGE_GENERALITY))
    return replace(case, request=replace(case.request, image=several), probes=probes)  # pyright: ignore[reportArgumentType]


ODD: dict[str, tuple[Callable[[EditCase, Callable[[int], Path]], EditCase], str]] = {
    "two pictures": (of_several, "a picture must be a file, and just one"),
    "a place with two pictures": (
        lambda case, shot: other(case, IMAGE_LOCALITY, Example("how many ?", (shot(60), shot(61)), "no more")),
        "image_locality: a picture must be a file, and just one",
    ),
    "a place without a picture": (
        lambda case, shot: other(case, IMAGE_LOCALITY, Example("how many ?", None, "no more")),
        "image_locality: a picture must be a file, and just one",
    ),
    "words with a picture": (
        lambda case, shot: other(case, TEXT_LOCALITY, Example("how many ?", shot(62), "no more")),
        "text_locality: a text locality probe has no picture",
    ),
    "a rewording with an answer of its own": (
        lambda case, shot: other(case, TEXT_GENERALITY, replace(case.request, question="say it", answer="a horse")),
        "text_generality: a text generality probe has the request's picture and target",
    ),
    "a second picture with words of its own": (
        lambda case, shot: other(
            case,
            IMAGE_GENERALITY,
            replace(case.probes_of(IMAGE_GENERALITY)[0].example, question="and here: what is it ?"),
        ),
        "image_generality: an image generality probe has the request's question and target",
    ),
    "a second picture that is none": (
        lambda case, shot: other(case, IMAGE_GENERALITY, replace(case.request, image=None)),
        "it lacks image_rephrase",
    ),
    "second pictures that are two": (
        lambda case, shot: other(case, IMAGE_GENERALITY, replace(case.request, image=(shot(100), shot(63)))),
        "it lacks image_rephrase",
    ),
    "a locality item without an answer": (
        lambda case, shot: other(case, TEXT_LOCALITY, Example("who ?", None, None)),
        "it lacks loc_ans",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_what_does_not_fit_is_left_out_and_counted(
    tiny: Callable[..., Any], whole: list[EditCase], shot: Callable[[int], Path], tmp_path: Path, what: str
) -> None:
    """Everything of it is in the .jsonl, and the others are whole; resumed it is the same."""
    change, why = ODD[what]
    cases = [change(whole[0], shot), *whole[1:]]
    plain.write(cases, tmp_path / "own.jsonl")
    cases = read(tmp_path / "own.jsonl")  # as one's own data may be
    folder = tmp_path / "bench"
    made = built(tiny("llava"), cases, folder, rephraser=None)
    assert len(loaded(folder / "eval.json")) == 2
    assert {case.id for case in read(folder / "eval.jsonl")} == {"r0", "r1", "r2"}
    assert made.dropped["published"][why] == 1
    assert made.published == (0, 2)
    assert why in statistics(made)["records"]["published"]["r0"]
    assert why in card(made, about={}, command="vlmend build")
    before = [(folder / f"eval.{form}").read_bytes() for form in ("json", "jsonl")]
    assert built(tiny("llava"), cases, folder, rephraser=None) == made
    assert [(folder / f"eval.{form}").read_bytes() for form in ("json", "jsonl")] == before


def test_another_probe_of_the_kind_that_fits_stands_in(
    tiny: Callable[..., Any], whole: list[EditCase], tmp_path: Path
) -> None:
    own = Probe(TEXT_GENERALITY, replace(whole[0].request, question="say it", answer="a horse"))
    cases = [replace(whole[0], probes=(own, *whole[0].probes)), *whole[1:]]
    made = built(tiny("llava"), cases, tmp_path / "bench")
    assert len(loaded(tmp_path / "bench" / "eval.json")) == 3
    assert sum(made.dropped["published"].values()) == 1


def test_a_record_whose_second_picture_is_not_recognised(
    tiny: Callable[..., Any], whole: list[EditCase], shot: Callable[[int], Path], tmp_path: Path
) -> None:
    probes = [
        replace(p, premises=tuple(replace(x, answer="nowhere at all") for x in p.premises)) for p in whole[0].probes
    ]
    cases = [replace(whole[0], probes=tuple(probes)), *whole[1:]]
    made = built(tiny("llava"), cases, tmp_path / "bench")
    assert made.dropped["pictured"] == {"the model does not recognise it": 1}
    assert len(loaded(tmp_path / "bench" / "eval.json")) == 2
    assert made.dropped["published"] == {"it lacks image_rephrase": 1}


def test_no_whole_record_makes_no_json(tiny: Callable[..., Any], whole: list[EditCase], tmp_path: Path) -> None:
    made = built(tiny("llava"), [replace(case, probes=()) for case in whole], tmp_path / "bench")
    assert sum(made.dropped["published"].values()) == 3
    assert (tmp_path / "bench" / "eval.jsonl").exists()
    assert not (tmp_path / "bench" / "eval.json").exists()
