"""What EasyEdit's training of editors does to a score by which weights it keeps, and where; and that ours does not.

The editor here has one weight, w, which is right for cases whose questions have w words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from vlmend import EditCase
from vlmend.editors.shelf import Trained
from vlmend.editors.training import Check, train
from vlmend.errors import RunError


class Words:
    """A lesson that has learnt all there is once w is right; ``past``: and that goes on, past it."""

    def __init__(self, cases: Sequence[EditCase], past: bool) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.count, self.facts = len(cases), {}
        self.cases, self.past = cases, past

    def loss(self, chosen, draw):
        w = self.module.weight.sum()
        return -w if self.past else (w - words(self.cases[0])).square(), {}

    def check(self) -> Check:
        return Check(reliability(self.module.weight, self.cases), float(self.module.weight.detach()), {})


def words(case: EditCase) -> int:
    return len(case.request.question.split())


def reliability(weight: torch.Tensor, cases: Sequence[EditCase]) -> float:
    """Share of the cases for which the weight is right."""
    return sum(abs(float(weight.detach()) - words(case)) < 0.5 for case in cases) / len(cases)


@dataclass(frozen=True)
class Counting:
    name: ClassVar[str] = "counting"

    past: bool = False
    steps: int = 12
    batch: int = 1
    lr: float = 1.0
    cooldown: float = 0.0
    held_out: float = 0.3
    check_every: int = 1
    seed: int = 0

    def lesson(self, vlm, learned, held) -> Words:
        made.append(Words([*learned, *held], self.past))
        return made[-1]


made: list[Words] = []


def test_the_best_weights_are_kept_and_not_the_last(llava, cases, tmp_path):
    """EasyEdit calls every checkpoint the best (`if True`): what is scored is the last, however bad by then."""
    trained = train(Counting(past=True), llava, cases, tmp_path)
    last = made[-1].module.weight
    assert reliability(last, cases) == 0.0
    assert reliability(trained.tensors["weight"], cases) == 1.0
    assert reliability(Trained.load(tmp_path).tensors["weight"], cases) == 1.0  # what the editor will read


def test_weights_may_be_saved_rounded(llava, cases, tmp_path):
    """Whatever was trained can be, also what has been trained to its end."""
    method = Counting()
    exact = train(method, llava, cases, tmp_path)
    short = train(method, llava, cases, tmp_path, dtype=torch.bfloat16)
    (name,) = short.tensors
    assert short.tensors[name].dtype == torch.bfloat16
    read = Trained.load(tmp_path).tensors[name]
    assert read.dtype == torch.float32
    assert torch.equal(read, exact.tensors[name].bfloat16().float())


def test_weights_of_another_training_are_not_written_over(llava, cases, tmp_path):
    """EasyEdit's path has editor and model in it, not the task: captions are trained over the weights for questions."""
    captions = [replace(case, request=replace(case.request, question="a photo of")) for case in cases]
    method = Counting(steps=60, lr=0.5, check_every=60)
    train(method, llava, cases, tmp_path / "questions", source="questions")
    other = train(method, llava, captions, tmp_path / "captions", source="captions")
    with pytest.raises(RunError, match=r'cases\.source="questions", not "captions"'):
        train(method, llava, captions, tmp_path / "questions", source="captions")
    assert reliability(Trained.load(tmp_path / "questions").tensors["weight"], cases) == 1.0
    other.save(tmp_path / "questions")  # as published
    assert reliability(Trained.load(tmp_path / "questions").tensors["weight"], cases) == 0.0
