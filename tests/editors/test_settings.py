"""Settings of editors and of their trainings that are numbers: what they cannot be is refused before any work."""

from __future__ import annotations

import dataclasses

import pytest

from vlmend import editor
from vlmend.cli.arguments import make_editor, make_training
from vlmend.editors.base import EDITORS, editor_class
from vlmend.editors.training import TRAINABLE, trainable_class
from vlmend.errors import EditError, VlmendError

MAKERS = [(make_editor, name, editor_class) for name in EDITORS]
MAKERS += [(make_training, name, trainable_class) for name in TRAINABLE]
# What there is none of without: 0 is a mistake too.
NEEDED = ("rank", "width", "heads", "batch", "hidden", "condition", "count", "top", "hardest", "asked", "used")


@pytest.mark.parametrize(("make", "name", "kind_of"), MAKERS)
def test_a_number_that_a_setting_cannot_be_is_refused(make, name, kind_of):
    for field in dataclasses.fields(kind_of(name)):
        wrong = []
        if type(field.default) is int and field.name not in ("seed", "layers"):
            wrong = [-1, "-1"] + [0] * (field.name in NEEDED)
        elif type(field.default) is float and field.name != "layers":
            wrong = [float("nan"), *([0, -1.0, float("inf")] if field.name == "lr" else [])]
        for value in wrong:
            with pytest.raises(VlmendError, match=f"'{field.name}' of .*'{name}'"):
                make(name, {field.name: value})


def test_the_numbers_that_they_are_by_default_are_taken():
    for make, name, kind_of in MAKERS:
        fields = {one.name: one.default for one in dataclasses.fields(kind_of(name)) if one.type != "Any"}
        numbers = {key: value for key, value in fields.items() if type(value) in (int, float)}
        assert make(name, numbers) == kind_of(name)()


def test_in_python_too():
    with pytest.raises(EditError, match=r"setting 'rank' of editor 'lora': .* 1, not 0"):
        editor("lora", rank=0)
    with pytest.raises(EditError, match="'norm_limit' of editor 'ft'"):
        editor("ft", norm_limit=-1.0)
    assert editor("ft", norm_limit=None) == editor("ft")


def test_one_case_is_no_list(llava, cases):
    with pytest.raises(EditError, match=r"a list of cases was expected, not EditCase: one case is given as \[case\]"):
        editor("ft").fit(llava, cases[0])
