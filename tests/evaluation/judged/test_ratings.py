"""What is read out of a judge's reply, as the protocols have it and as published code does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmend.evaluation.judged import BENCHMARKS, llava_bench, mmhal, mmvet


@pytest.mark.parametrize(
    ("reply", "found", "published"),
    [
        ("0.5", [0.5], [0.5]),
        ("1", [1.0], [1.0]),
        (" 0.5", [0.5], []),
        ("Grade: 0.3", [0.3], []),
        ("0.5 or 0.6", [0.5, 0.6], [0.5]),
        ("0.5, as 0.5 of it is there", [0.5], []),
        ("**0.7**", [0.7], []),
        ("5", [], []),
        ("-1", [], []),
        ("1/10", [], []),
        ("nan", [], []),
        ("0.5\n", [0.5], [0.5]),
        ("", [], []),
        ("I cannot grade this.", [], []),
    ],
)
def test_mmvet(reply, found, published):
    assert list(mmvet.one_number(reply)) == found
    assert list(mmvet.first_word(reply)) == published


@pytest.mark.parametrize(
    ("reply", "found", "published"),
    [
        ("It is right.\nRating: 6", [6.0], [6.0]),
        ("**Rating:** 4", [4.0], []),
        ("Rating: **4**", [4.0], []),
        ("Rating: 4/6", [4.0], [4.0]),
        ("rating: 0", [0.0], [0.0]),
        ("Rating: 3. I repeat, rating: 3", [3.0], [3.0]),
        ("Rating: 3, or rather Rating: 5", [3.0, 5.0], [3.0, 5.0]),
        ("Rating: 3-4", [3.0, 4.0], [3.0]),
        ("Rating: 10", [], [1.0]),
        ("Rating: 2.5", [], [2.0]),
        ("Rating: -1", [], []),
        ("A rating of 4.", [], []),
        ("", [], []),
    ],
)
def test_mmhal(reply, found, published):
    assert list(mmhal.ratings(reply)) == found
    assert list(mmhal.published_ratings(reply)) == published


@pytest.mark.parametrize(
    ("reply", "found", "published"),
    [
        ("8 7\nThe first is better.", [8.0, 7.0], [8.0, 7.0]),
        ("8,7", [8.0, 7.0], [8.0, 7.0]),
        ("8, 7", [8.0, 7.0], []),
        ("\n8.5 9", [8.5, 9.0], []),
        ("Assistant A: 8 B: 7", [8.0, 7.0], []),
        ("8 7 9", [8.0, 7.0, 9.0], []),
        ("80 70", [], [80.0, 70.0]),
        ("8", [8.0], []),
        ("8/10 7/10", [8.0, 10.0, 7.0, 10.0], []),
        ("eight seven", [], []),
        ("", [], []),
    ],
)
def test_llava_bench(reply, found, published):
    assert list(llava_bench.first_line(reply)) == found
    assert list(llava_bench.published_first_line(reply)) == published


@given(st.text())
def test_no_reply_breaks_a_reader(reply):
    for benchmark in BENCHMARKS.values():
        for protocol in benchmark.protocols.values():
            assert all(isinstance(one, float) for one in protocol.ratings(reply))
