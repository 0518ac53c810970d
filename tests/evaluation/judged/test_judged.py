"""The engine: scores, failures that are no zeros, replies that are recorded and replayed, and what is not compared."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from vlmend.data.questions import Answer, OpenQuestion
from vlmend.endpoints import Endpoint
from vlmend.errors import DataError, RunError, UnknownNameError, VlmendError
from vlmend.evaluation.judged import BENCHMARKS, Judge, Replies, compared, judged, read_result
from vlmend.evaluation.judged.prompts import prompt_of

QUESTIONS = [
    OpenQuestion(0, "a.png", "What is it?", "a dog", ("attribute",), "Dog, Ball"),
    OpenQuestion(1, "b.png", "How many?", "two", ("counting",), "Cat"),
    OpenQuestion(2, "c.png", "Who is it?", "no one", ("attribute",), "Bench"),
    OpenQuestion(3, "d.png", "Where is it?", "at home", ("relation",), ""),
]
ANSWERS = [Answer(number, f"answer {number} of some words") for number in range(4)]
MMHAL, MMVET, LLAVA = (BENCHMARKS[name] for name in ("mmhal", "mmvet", "llava-bench"))


def replying(served, replies):
    """Says what belongs to the answer that is asked about."""

    def say(body):
        text = body["messages"][-1]["content"]
        return next(reply for number, reply in replies.items() if f"answer {number} of" in text)

    served.say = say


def rates(served, replies):
    replying(served, {number: (200, reply) for number, reply in replies.items()})


def test_scores(served, tmp_path):
    rates(served, {0: "Rating: 6", 1: "Rating: 2", 2: "Rating: 3", 3: "Rating: 1"})
    with Replies(tmp_path / "judge.jsonl") as replies:
        found = judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-4", replies, served.endpoint))
    assert found.scores["score"].mean == 3.0
    assert found.scores["hallucination"].mean == 0.5
    assert found.scores["words"].mean == 5.0
    assert {name: one["score"].mean for name, one in found.kinds.items()} == {
        "attribute": 4.5,
        "counting": 2.0,
        "relation": 1.0,
    }
    assert (found.n, found.rated, found.failed, found.combinations) == (4, 4, (), {})
    assert (found.judge.model, found.judge.served) == ("gpt-4", ("judge-0613",))
    assert (found.judge.temperature, found.judge.max_tokens, found.judge.runs) == (0.0, 500, 1)
    assert (found.protocol, found.version) == ("mmhal", "1")
    assert found.prompt.startswith("vlmend-")
    (first,) = (body for _, _, body in served.asked if "answer 0" in body["messages"][-1]["content"])
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("gpt-4", 0.0, 500)
    for words in ("What is it?", "a dog", "answer 0 of some words", "Dog, Ball"):
        assert words in first["messages"][-1]["content"]
    assert json.loads(json.dumps(found.to_json()))["records"][0]["ratings"] == [[6.0]]


def test_an_interval_is_the_bootstraps(served):
    """Against one by hand, over pictures."""
    rates(served, {0: "8 4", 1: "10 5", 2: "4 8", 3: "8 8"})
    found = judged(LLAVA, [replace(one, kinds=("conv",)) for one in QUESTIONS], ANSWERS, judge(served))
    assert found.scores["score"].mean == pytest.approx(25 / 30)
    assert (found.scores["reference"].mean, found.scores["candidate"].mean) == (7.5, 6.25)
    drawn = np.random.default_rng(0).integers(0, 4, size=(2000, 4))
    ours, theirs = np.array([4, 5, 8, 8]), np.array([8, 10, 4, 8])
    low, high = np.percentile(ours[drawn].sum(1) / theirs[drawn].sum(1), [2.5, 97.5])
    assert (found.scores["score"].low, found.scores["score"].high) == pytest.approx((low, high))


def judge(served, **settings):
    return Judge("gpt-4", Replies(), served.endpoint, **settings)


@pytest.mark.parametrize("reply", ["I cannot say.", "Rating: 3 ... Rating: 5", "Rating: 7", ""])
def test_a_reply_without_a_rating_is_no_zero(served, reply):
    rates(served, {0: "Rating: 6", 1: reply, 2: "Rating: 4", 3: "Rating: 5"})
    found = judged(MMHAL, QUESTIONS, ANSWERS, judge(served))
    assert (found.scores["score"].mean, found.scores["score"].n) == (5.0, 3)
    assert (found.n, found.rated, [(one.id, one.run) for one in found.failed]) == (4, 3, [(1, 0)])
    assert "the reply has n" in found.failed[0].why
    assert math.isnan(found.kinds["counting"]["score"].mean)
    assert found.to_json()["kinds"]["counting"]["score"]["mean"] is None
    assert found.records[1].replies == (reply,)


def test_the_published_rule_is_another_protocol(served):
    rates(served, {0: "Rating: 6", 1: "none", 2: "Rating: 4 Rating: 5", 3: "Rating: 5"})
    found = judged(MMHAL, QUESTIONS, ANSWERS, judge(served), protocol="mmhal-zero")
    assert (found.scores["score"].mean, found.scores["hallucination"].mean) == (11 / 4, 0.5)
    assert (found.protocol, found.failed, found.rated) == ("mmhal-zero", (), 4)
    rates(served, {0: "10 5", 1: "?", 2: "10 5", 3: "10 5"})
    found = judged(LLAVA, QUESTIONS, ANSWERS, judge(served), protocol="llava-bench-code")
    assert found.scores["score"].mean == pytest.approx(14 / 29)


def test_failures_are_asked_again_and_nothing_else(served, tmp_path):
    """Another start asks for what has no reply, and for replies without a rating."""
    replying(served, {0: (200, "Rating: 6"), 1: (400, {}), 2: (200, "hm"), 3: (200, "Rating: 1")})
    path = tmp_path / "judge.jsonl"
    with Replies(path) as replies:
        found = judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-4", replies, served.endpoint))
    assert [one.id for one in found.failed] == [1, 2]
    assert "HTTP 400" in found.failed[0].why
    path.write_text(path.read_text() + '{"key": "cut sho')  # killed while writing
    served.asked.clear()
    rates(served, {1: "Rating: 2", 2: "Rating: 3"})
    with Replies(path) as replies:
        found = judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-4", replies, served.endpoint))
    assert (found.failed, found.scores["score"].mean, len(served.asked)) == ((), 3.0, 2)
    # And without any network.
    with Replies(more=[path]) as replies:
        again = judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-4", replies))
    assert again == found


def test_a_replay_that_lacks_replies(served, tmp_path):
    rates(served, {0: "Rating: 6", 1: "Rating: 6"})
    path = tmp_path / "judge.jsonl"
    with Replies(path) as replies:
        judged(MMHAL, QUESTIONS[:2], ANSWERS[:2], Judge("gpt-4", replies, served.endpoint))
    with Replies(more=[path]) as replies:
        found = judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-4", replies))
        assert [one.why for one in found.failed] == ["no such reply is recorded, and no endpoint was given"] * 2
        with pytest.raises(VlmendError, match="mmhal: not one answer could be judged: no such reply is recorded"):
            judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-5", replies))
    with pytest.raises(RunError, match=r"gone\.jsonl: there is no such file"):
        Replies(more=[tmp_path / "gone.jsonl"])
    (tmp_path / "odd.jsonl").write_text('{"key": 3}\n')
    with pytest.raises(RunError, match=r"odd\.jsonl, record 0: key, reply and model"):
        Replies(more=[tmp_path / "odd.jsonl"])


def test_an_endpoint_that_is_down_is_left_alone(served):
    """What is under way together fails, and the rest is not asked for."""
    served.say = lambda body: (503, {})
    with pytest.raises(VlmendError, match=r"not one answer could be judged: .* refuses: HTTP 503"):
        judged(MMHAL, QUESTIONS, ANSWERS, judge(served, at_once=2))
    assert len(served.asked) == 2 * 2
    nowhere = Endpoint("http://127.0.0.1:9", tries=1, timeout=1)
    with pytest.raises(VlmendError, match=r"not one answer could be judged: .* cannot be reached"):
        judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-4", Replies(), nowhere))


def test_runs_are_averaged(served, tmp_path):
    """MM-Vet's numbers are means of five."""
    grades = {"answer 0": ["0.0", "0.5", "1.0"], "answer 1": ["1.0", "1.0", "no"]}

    def say(body):
        text = body["messages"][-1]["content"]
        return 200, next(some.pop(0) for name, some in grades.items() if f"{name} of" in text)

    served.say = say
    questions = [replace(QUESTIONS[0], kinds=("ocr", "math")), replace(QUESTIONS[1], kinds=("ocr",))]
    with Replies(tmp_path / "judge.jsonl") as replies:
        the_judge = Judge("gpt-4", replies, served.endpoint, runs=3, at_once=1)
        found = judged(MMVET, questions, ANSWERS[:2], the_judge)
    assert found.scores["score"].mean == pytest.approx(0.75)
    assert [(one.id, one.run) for one in found.failed] == [(1, 2)]
    assert (found.rated, len(served.asked), found.judge.runs) == (2, 6, 3)
    assert {name: one["score"].mean for name, one in found.combinations.items()} == {"math+ocr": 0.5, "ocr": 1.0}
    assert found.kinds["ocr"]["score"].n == 2
    assert len((tmp_path / "judge.jsonl").read_text().splitlines()) == 6


def test_what_looks_like_a_place_in_an_answer_is_left_alone(served):
    served.say = lambda body: (200, "1.0")
    question = OpenQuestion("v1", "a.png", "What is {answer}?", "x<AND>y <OR> z", ("ocr",))
    judged(MMVET, [question], [Answer("v1", "{reference} is it")], judge(served))
    text = served.asked[0][2]["messages"][-1]["content"]
    assert text.endswith(
        "Question: What is {answer}?\nRight answer: x <AND> y <OR> z\nGiven answer: {reference} is it\nGrade:"
    )


def test_prompts_of_ones_own(served, tmp_path):
    """The published texts, in the user's copy: MMHal's four places, MM-Vet's row, LLaVA-Bench's rules."""
    (tmp_path / "mmhal.txt").write_text("Objects: {}\nQ: {}\nStandard: {}\nLMM: {}\n")
    (tmp_path / "mmvet.txt").write_text("Question | Ground truth | Prediction | Correctness\n--- | --- | --- | ---")
    one = {"role": "Assistant", "prompt": "Compare {these}."}
    rules = {f"llava_bench_{kind}": one for kind in ("conv", "detail", "complex")}
    (tmp_path / "rule.json").write_text(json.dumps(rules))
    served.say = lambda body: (200, {"choices": [{"message": {"content": "Rating: 6"}}]})
    prompt = MMHAL.own_prompt(tmp_path / "mmhal.txt")
    found = judged(MMHAL, QUESTIONS[:1], ANSWERS[:1], judge(served), prompt=prompt)
    text = served.asked[-1][2]["messages"][-1]["content"]
    assert text == "Objects: Dog, Ball\nQ: What is it?\nStandard: a dog\nLMM: answer 0 of some words"
    assert found.prompt.startswith("mmhal.txt-")
    assert found.judge.served == ()
    served.say = lambda body: (200, "0.5")
    judged(MMVET, QUESTIONS[:1], ANSWERS[:1], judge(served), prompt=MMVET.own_prompt(tmp_path / "mmvet.txt"))
    text = served.asked[-1][2]["messages"][-1]["content"]
    assert text.endswith("---\nWhat is it? | a dog | answer 0 of some words | ")
    served.say = lambda body: (200, "5 5")
    conv = replace(QUESTIONS[0], kinds=("conv",))
    judged(LLAVA, [conv], ANSWERS[:1], judge(served), prompt=LLAVA.own_prompt(tmp_path / "rule.json"))
    system, user = served.asked[-1][2]["messages"]
    assert system["role"] == "system"
    assert user["content"] == (
        "[Context]\nDog, Ball\n\n[Question]\nWhat is it?\n\n[Assistant 1]\na dog\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nanswer 0 of some words\n\n[End of Assistant 2]\n\n[System]\nCompare {these}.\n\n"
    )
    (tmp_path / "odd.txt").write_text("Rate {answer}")
    with pytest.raises(DataError, match=r"odd\.txt: the judge's prompt has no \{reference\} in it"):
        prompt_of(tmp_path / "odd.txt")


def test_results_are_compared(served, tmp_path):
    rates(served, {0: "Rating: 6", 1: "Rating: 2", 2: "Rating: 3", 3: "?"})
    before = judged(MMHAL, QUESTIONS, ANSWERS, judge(served))
    rates(served, {0: "Rating: 6", 1: "Rating: 4", 2: "Rating: 4", 3: "Rating: 1"})
    after = judged(MMHAL, QUESTIONS, ANSWERS, judge(served))
    gains = compared(before, after)
    assert (gains["score"].n, gains["score"].mean) == (3, pytest.approx(1.0))
    assert gains["hallucination"].mean == pytest.approx(-1 / 3)
    assert gains["words"].mean == 0.0
    assert gains["score"].low <= 1.0 <= gains["score"].high
    (tmp_path / "mmhal.json").write_text(json.dumps(before.to_json()))
    assert read_result(tmp_path / "mmhal.json") == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "mmhal-zero"}, "protocol mmhal and mmhal-zero"),
        ({"prompt": "mmhal.txt-0"}, "prompt vlmend-"),
        ({"model": "gpt-5"}, "judge model gpt-4 and gpt-5"),
        ({"served": ("gpt-4-1106", "x")}, "judge served judge-0613 and gpt-4-1106, x"),
        ({"temperature": 0.2}, "judge temperature 0.0 and 0.2"),
        ({"runs": 5}, "judge runs 1 and 5"),
    ],
)
def test_other_instruments_are_not_compared(served, change, words):
    served.say = lambda body: (200, "Rating: 6")
    one = judged(MMHAL, QUESTIONS, ANSWERS, judge(served))
    own = {name: value for name, value in change.items() if name in ("protocol", "prompt")}
    other = replace(one, **own) if own else replace(one, judge=replace(one.judge, **change))
    with pytest.raises(VlmendError, match="results of different instruments cannot be compared") as caught:
        compared(one, other)
    assert words in str(caught.value)


def test_other_questions_are_not_compared(served):
    served.say = lambda body: (200, "Rating: 6")
    one = judged(MMHAL, QUESTIONS, ANSWERS, judge(served))
    other = judged(MMHAL, QUESTIONS[:2], ANSWERS[:2], judge(served))
    with pytest.raises(VlmendError, match="mmhal: the two results are of different questions"):
        compared(one, other)


def test_what_is_no_result(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"benchmark": "mmhal"}')
    with pytest.raises(DataError, match=r"result\.json: is no result of a judged benchmark: KeyError 'protocol'"):
        read_result(path)
    path.write_text('{"benchmark": "pope"}')
    with pytest.raises(UnknownNameError, match="no judged benchmark named 'pope'"):
        read_result(path)


def test_unknown_protocols():
    with pytest.raises(UnknownNameError, match="no mmhal protocol named 'x'; there are: mmhal, mmhal-zero"):
        judged(MMHAL, QUESTIONS, ANSWERS, Judge("gpt-4", Replies()), protocol="x")


def test_a_question_without_answer_is_an_error(served):
    with pytest.raises(VlmendError, match="question 3 has no answer"):
        judged(MMHAL, QUESTIONS, ANSWERS[:3], judge(served))
    assert not served.asked
