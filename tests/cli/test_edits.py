from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import vlmend
from vlmend import FT, Edit, WeightOp
from vlmend.edits.prompts import PromptOp, RecallOp


@pytest.fixture
def saved(llava, cases, tmp_path):
    """Two edits in folders, made for pictures in files."""
    folders = []
    for index, case in enumerate(cases[:2]):
        picture = tmp_path / f"{index}.png"
        case.request.image.save(picture)
        asked = replace(case, request=replace(case.request, image=picture), probes=())
        edit = FT(steps=40, lr=5e-3, stop_loss=0.01).fit(llava, [asked])
        folders.append(edit.save(tmp_path / "fixes" / case.id))
    return folders


def test_list_and_show(vlmend_cli, saved, tmp_path):
    listed = vlmend_cli("edits", "list", tmp_path, "--json").document["edits"]
    assert [one["folder"] for one in listed] == [str(folder) for folder in saved]
    printed = vlmend_cli("edits", "list", tmp_path).stdout
    assert all(words in printed for words in ("fixes/case-0", "place 0 ?", "red"))
    shown = vlmend_cli("edits", "show", saved[0], "--json").document
    assert shown == {key: value for key, value in listed[0].items() if key != "folder"}
    assert shown["operations"][0]["kind"] == "weight"
    assert shown["bytes"] > 0
    assert "red" in vlmend_cli("edits", "show", saved[0]).stdout


def test_what_an_edit_tells_is_shown(vlmend_cli, tmp_path):
    keys = torch.zeros(1, 2, 4)
    vlmend.Edit("base", (PromptOp("new: it is red\n", "so: "), RecallOp(("new: two\n",), keys))).save(tmp_path / "told")
    shown = vlmend_cli("edits", "show", tmp_path / "told", "--json").document["operations"]
    assert [one.get("words") for one in shown] == [["new: it is red\n"], ["new: two\n"]]
    printed = vlmend_cli("edits", "show", tmp_path / "told").stdout
    assert "new: it is red" in printed and "new: two" in printed and "recall" in printed


def test_verify(vlmend_cli, saved, tiny_folder, tmp_path):
    done = vlmend_cli("edits", "verify", tiny_folder("llava"), *saved, "--json")
    assert done.code == 0
    found = done.document
    assert found["holds"]
    assert [one["requests"][0]["after"] for one in found["edits"]] == ["red", "three birds"]
    (tmp_path / "1.png").unlink()
    done = vlmend_cli("edits", "verify", tiny_folder("llava"), *saved)
    assert done.code == 1
    assert "case-1: 'what is at place 1 ?' was not asked: its picture is missing" in done.stdout
    other = vlmend_cli("edits", "verify", tiny_folder("llava", 1), saved[0])
    assert other.code == 2
    assert "fingerprint" in other.stderr


def test_diff_stack_and_merge(vlmend_cli, saved, tiny_folder, tmp_path):
    found = vlmend_cli("edits", "diff", *saved, "--json").document
    assert found["same_base"]
    assert found["tensors"]
    assert "Only the first: what is at place 0 ?" in vlmend_cli("edits", "diff", *saved).stdout
    stack = tmp_path / "both"
    assert vlmend_cli("edits", "stack", *saved, "--out", stack).code == 0
    assert len(vlmend.Edit.load(stack).requests) == 2
    merged = tmp_path / "merged"
    assert vlmend_cli("edits", "merge", tiny_folder("llava"), stack, "--out", merged).code == 0
    back = vlmend.load(merged)
    edited = vlmend.load(tiny_folder("llava"))
    with edited.using(vlmend.Edit.load(stack)):
        assert back.answer(tmp_path / "0.png", "what is at place 0 ?") == edited.answer(
            tmp_path / "0.png", "what is at place 0 ?"
        )


def test_nothing_there(vlmend_cli, tmp_path):
    for words in (["list", tmp_path], ["show", tmp_path], ["stack", tmp_path, "--out", tmp_path / "x"]):
        done = vlmend_cli("edits", *words)
        assert done.code == 2
        assert "holds no edit" in done.stderr


def test_an_edit_of_many_tensors_is_shown_in_a_screen(vlmend_cli, tmp_path):
    """The first few are named, and how many more there are; every one stands in the JSON."""
    op = WeightOp.deltas({f"layers.{n}.weight": torch.ones(1) for n in range(60)})
    settings = {"lr": 0.1, "adapter": {"rank": 2}}
    Edit(base="b" * 32, ops=(op,), method="align bpo", model="demo", settings=settings).save(tmp_path / "many")
    printed = vlmend_cli("edits", "show", tmp_path / "many").stdout
    assert "and 56 more" in printed and len(printed.splitlines()) < 30
    assert "lr=0.1, adapter.rank=2" in printed
    document = vlmend_cli("edits", "show", tmp_path / "many", "--json").document
    assert len(document["operations"][0]["tensors"]) == 60 and document["settings"] == settings
