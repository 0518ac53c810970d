"""`--device`: every command that runs a model has it, and a device that is not there is one line."""

from __future__ import annotations

import pytest
import torch
import typer

from vlmend.cli.app import app
from vlmend.cli.arguments import placed

WITHOUT = {"merge", "mmedit"}  # they run no model
ELSEWHERE = [
    ("nonsense", "takes cpu or cuda"),
    ("cuda:one", "takes cpu or cuda"),
    pytest.param("cuda", "no CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")),
    ("cuda:99", "no CUDA device"),
]


def commands(group, prefix=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), {parameter.name for parameter in command.params}


def test_every_command_that_runs_a_model_has_it() -> None:
    found = dict(commands(typer.main.get_command(app)))
    missing = [path for path, names in found.items() if {"model", "models"} & names and "device" not in names]
    assert {path[-1] for path in missing} <= WITHOUT
    assert ("align",) in found and "device" in found["align",] and "device" in found["world", "alignment"]


@pytest.mark.parametrize(("device", "words"), ELSEWHERE)
@pytest.mark.parametrize("command", ["ask", "edit"])
def test_one_that_is_not_there_is_one_line(vlmend_cli, tmp_path, picture, cases_file, device, words, command) -> None:
    picture(0).save(tmp_path / "picture.png")
    asked = ("demo", tmp_path / "picture.png", "what is this?")
    given = {"ask": asked, "edit": ("demo", cases_file, "--editor", "null", "--out", tmp_path / "out")}[command]
    assert vlmend_cli(command, *given, "--device", device).is_a_users_mistake(words, device)


def test_each_of_several_processes_has_a_card_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert placed("cpu") == "cpu" and placed("cuda") == "cuda:0" and placed("cuda:1") == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert placed("cuda") == "cuda:1"
