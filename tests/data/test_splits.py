from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vlmend import EditCase, Example, Probe
from vlmend.data.splits import Dropped, drop, leaks, regroup, shared_pictures


def case(name: str, picture: str, question: str = "what ?", near: str = "", text: str = "") -> EditCase:
    """A case whose probes are one of the content `near` (picture and question alike) and the text question `text`."""
    probes = (Probe("image_locality", Example(f"{near} ?", Path(f"{near}.png"), "x")),) if near else ()
    probes += (Probe("text_locality", Example(f"{text} ?", None, "y")),) if text else ()
    return EditCase(name, Example(question, Path(f"{picture}.png"), "red"), probes=probes)


TRAIN = [case("t0", "a", "which ?", near="n", text="who"), case("t1", "b", near="m"), case("t2", "c", "how ?")]
EVAL = [
    case("e0", "a", "what ?", near="n", text="When"),  # picture of t0, question of t1, its picture probe of t0
    case("e1", "b", " WHAT  ? ", text="Who"),  # the edit of t1, the text probe of t0
    case("e2", "n", "n ?", near="k"),  # the edit is what t0 must leave alone
]


def found(train, evaluation):
    return {leak.role: (leak.of, leak.cases, leak.seen) for leak in leaks(train, evaluation)}


def test_every_role_is_counted():
    assert found(TRAIN, EVAL) == {
        "edit picture": (3, ("e0", "e1"), ("e0", "e1", "e2")),
        "edit question": (3, ("e0", "e1"), ("e0", "e1")),
        "edit": (3, ("e1",), ("e1", "e2")),
        "any picture": (3, ("e0", "e1", "e2"), ("e0", "e1", "e2")),
        "image_locality": (2, ("e0",), ("e0",)),
        "text_locality": (2, ("e1",), ("e1",)),
    }


def test_a_case_counts_once_however_much_it_shares():
    train = [case("t", "a", near="n")]
    held = [EditCase("e", Example("?", Path("z.png"), "x"), probes=train[0].probes * 3)]
    assert found(train, held)["image_locality"] == (1, ("e",), ("e",))


def test_pictures_may_be_told_apart_otherwise():
    train, held = [case("t", "old/a")], [case("e", "new/a")]
    assert found(train, held)["edit picture"][1] == ()
    same = {leak.role: leak.cases for leak in leaks(train, held, name=lambda file: file.name)}
    assert same["edit picture"] == ("e",)


def test_drop_leaves_out_what_leaks_and_says_so():
    split = drop(TRAIN, EVAL)
    assert [kept.id for kept in split.train] == ["t2"]
    assert split.evaluation == tuple(EVAL)
    assert [(one.case, one.role) for one in split.dropped] == [("t0", "edit picture"), ("t1", "edit picture")]
    probes_only = drop(TRAIN, EVAL, roles=("image_locality", "text_locality"))
    assert [kept.id for kept in probes_only.train] == ["t0", "t1", "t2"]
    assert probes_only.train[0].probes == ()
    assert probes_only.train[1:] == tuple(TRAIN[1:])
    why = "{} probe left out, an evaluation case has the same"
    assert probes_only.dropped == tuple(
        Dropped("t0", kind, why.format(kind)) for kind in ("image_locality", "text_locality")
    )


def test_drop_by_picture_leaves_no_picture_in_both():
    split = drop(TRAIN, EVAL, roles=("any picture",))
    assert found(split.train, EVAL)["any picture"][1] == ()
    assert [(kept.id, len(kept.probes)) for kept in split.train] == [("t2", 0)]


def test_shared_pictures():
    assert shared_pictures([*TRAIN, *EVAL]) == (4, 2)
    assert shared_pictures(TRAIN) == (0, 0)


letters = st.sampled_from("abcdef")


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[EditCase], list[EditCase]]:
    def one(name: str) -> EditCase:
        picture, near, text = draw(letters), draw(letters), draw(letters)
        return case(name, picture, f"{draw(letters)} ?", "" if near == picture else f"near-{near}", text)

    return tuple([one(f"{side}{i}") for i in range(draw(st.integers(1, 8)))] for side in "te")


LOCALITY = ("edit picture", "text_locality", "image_locality")


@given(sides())
def test_after_drop_nothing_leaks(pair):
    split = drop(*pair)
    assert {
        role: cases for role, (_, cases, _) in found(split.train, split.evaluation).items() if role in LOCALITY
    } == {role: () for role in found(split.train, split.evaluation) if role in LOCALITY}
    gone = {one.case for one in split.dropped}
    assert all(kept in split.train for kept in pair[0] if kept.id not in gone)


@given(sides(), st.integers(0, 99))
def test_regroup_loses_no_case_and_leaks_nothing(pair, seed):
    split = regroup(*pair, seed=seed)
    assert split == regroup(*pair, seed=seed)
    before, after = (
        {one.id: one for one in (*left, *right)} for left, right in (pair, (split.train, split.evaluation))
    )
    assert before.keys() == after.keys()
    assert len(split.evaluation) >= min(len(pair[1]), len(before))
    assert all(not cases for role, (_, cases, _) in found(split.train, split.evaluation).items() if role in LOCALITY)
    changed = {one.case for one in split.dropped}
    for name, old in before.items():
        assert after[name].request == old.request
        assert (after[name].probes != old.probes) <= (name in changed)
        left_out = Counter(one.role for one in split.dropped if one.case == name and "left out" in one.why)
        for kind in ("text_locality", "image_locality"):
            assert len(after[name].probes_of(kind)) == len(old.probes_of(kind)) - left_out[kind]


def test_a_redealt_probe_shows_no_picture_of_its_case():
    """The only other item of its side shows the edit's own picture, so it is not asked."""
    train = [case(f"t{i}", f"p{i}", near=f"p{(i + 1) % 6}") for i in range(6)]
    held = [case(f"e{i}", f"q{i}", near=f"p{i}") for i in range(6)]
    for seed in range(20):
        split = regroup(train, held, seed=seed)
        for one in (*split.train, *split.evaluation):
            assert all(probe.example.image != one.request.image for probe in one.probes)


def test_cases_that_share_a_second_picture_stay_together():
    """Through a chain of second pictures, and where the second one of a case is another's own."""

    def case(name: str, picture: str, *others: str) -> EditCase:
        probes = (Probe("image_generality", Example("what ?", Path(other), "a")) for other in others)
        return EditCase(name, Example("what ?", Path(picture), "a"), probes=tuple(probes))

    chained = [case("a", "1", "x"), case("b", "2", "x", "y"), case("c", "3", "y"), case("d", "y")]
    alone = [case(f"e{n}", f"e{n}", f"z{n}") for n in range(4)]
    apart = 0
    for seed in range(20):
        kept = regroup([*chained, *alone][:4], [*chained, *alone][4:], seed=seed, together=["image_generality"])
        assert {len({one.id for one in side} & {"a", "b", "c", "d"}) for side in (kept.train, kept.evaluation)} <= {
            0,
            4,
        }
        assert not any(leak.cases for leak in leaks(kept.train, kept.evaluation) if leak.role == "any picture")
        loose = regroup([*chained, *alone][:4], [*chained, *alone][4:], seed=seed)
        apart += any(leak.cases for leak in leaks(loose.train, loose.evaluation) if leak.role == "any picture")
    assert apart
