"""`vlmend editors`: every registered editor, and every setting with its default and what it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from vlmend.editors.base import CONTROLS, EDITORS, editor_class
from vlmend.editors.listing import settings_of_editor, settings_of_training
from vlmend.editors.training import TRAINABLE, trainable_class


def test_all_are_listed(vlmend_cli: Callable[..., Any]) -> None:
    found = vlmend_cli("editors", "--json").document["editors"]
    assert [one["name"] for one in found] == [*EDITORS, *CONTROLS]
    assert all(one["about"] for one in found)
    assert {one["name"] for one in found if one["trained"]} == set(TRAINABLE)
    assert {one["name"] for one in found if one["control"]} == set(CONTROLS)
    shown = vlmend_cli("editors").stdout
    assert "fine-tune a few modules" in shown
    assert "control: Changes nothing." in shown


@pytest.mark.parametrize(
    ("names", "kind_of", "listed"),
    [((*EDITORS, *CONTROLS), editor_class, settings_of_editor), (TRAINABLE, trainable_class, settings_of_training)],
)
def test_every_setting_is_explained(names: Any, kind_of: Any, listed: Any) -> None:
    for name in names:
        settings = listed(name)
        assert [one.name for one in settings] == [field.name for field in dataclasses.fields(kind_of(name))]
        for one in settings:
            assert one.about, (name, one.name)
            assert one.takes and "<" not in one.takes and "typing" not in one.takes, (name, one)


def test_one_editors_settings(vlmend_cli: Callable[..., Any]) -> None:
    document = vlmend_cli("editors", "vead", "--json").document
    assert [one["name"] for one in document["settings"]] == ["weights", "pictures"]
    training = {one["name"]: one for one in document["training"]}
    assert training["lr"] == {"name": "lr", "takes": "number above 0", "default": "0.0001", "about": "learning rate."}
    assert training["influenced"]["takes"] == "layers: names, indices or depths or null"
    shown = vlmend_cli("editors", "ft").stdout
    assert all(words in shown for words in ("--set NAME=VALUE", '["mlp.down"]', "AdamW steps (whole number from 0)"))
    assert "train-editor" not in shown
    assert vlmend_cli("editors", "rome").is_a_users_mistake("no editor named 'rome'", "visual-delta")


@pytest.mark.parametrize("command", ["bench", "sequence", "train-editor", "world cooperation", "world table"])
def test_helps_say_where_editors_are_listed(vlmend_cli: Callable[..., Any], command: str) -> None:
    assert "vlmend editors" in " ".join(vlmend_cli(*command.split(), "--help").stdout.replace("│", " ").split())
