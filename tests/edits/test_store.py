from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import vlmend
from vlmend import FT, Edit, WeightOp
from vlmend.errors import EditError, EditFormatError


@pytest.fixture
def edit(llava, cases) -> Edit:
    return FT(steps=3, lr=3e-3).fit(llava, cases[:2]).with_proof({"reliability": 1.0})


def test_round_trip(edit, tmp_path):
    folder = edit.save(tmp_path / "fix")
    assert sorted(path.name for path in folder.iterdir()) == ["edit.json", "edit.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fix"]
    back = Edit.load(folder)
    fields = ("id", "base", "requests", "method", "settings", "model", "fitted_on", "proof", "versions", "names")
    assert [getattr(back, name) for name in fields] == [getattr(edit, name) for name in fields]
    for mine, theirs in zip(edit.ops, back.ops, strict=True):
        for name in mine.names:
            assert mine.changes[name].form == theirs.changes[name].form
            pairs = zip(mine.changes[name].tensors, theirs.changes[name].tensors, strict=True)
            assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in pairs)


def test_all_forms_and_odd_names(tmp_path):
    ops = (
        WeightOp.low_rank({"a/b.weight": (torch.randn(3, 1), torch.randn(1, 2))}),
        WeightOp.values({"a/b.weight": torch.randn(3, 2).bfloat16(), "c": torch.tensor([0.5])}),
        WeightOp.deltas({"a/b.weight": torch.randn(3, 2)}),
    )
    edit = Edit(base="x", ops=ops)
    back = Edit.load(edit.save(tmp_path / "e"))
    assert back.id == edit.id
    assert [op.names for op in back.ops] == [op.names for op in ops]
    assert back.ops[1].changes["a/b.weight"].tensors[0].dtype == torch.bfloat16


def test_loaded_elsewhere_it_does_the_same(edit, llava, cases, tmp_path, tiny_folder):
    """In another process, on a freshly loaded model: the logits of the applied edit, not those of the base."""
    prepared = llava.prepare([case.request for case in cases])
    base, edited = (llava.run(prepared, e).rows for e in (None, edit))
    edit.save(tmp_path / "fix")
    for index, case in enumerate(cases):
        case.request.image.save(tmp_path / f"{index}.png")
    script = (
        "import sys, torch, vlmend\n"
        "from pathlib import Path\n"
        "torch.set_num_threads(1)\n"
        "here = Path(sys.argv[2])\n"
        "vlm = vlmend.load(sys.argv[1])\n"
        "asked = [vlmend.Example(q, here / f'{i}.png', a) for i, (q, a) in enumerate(eval(sys.argv[3]))]\n"
        "rows = vlm.run(vlm.prepare(asked), vlmend.Edit.load(here / 'fix')).rows\n"
        "torch.save([row.logits_NV for row in rows], here / 'logits.pt')\n"
    )
    asked = repr([(case.request.question, case.request.answer) for case in cases])
    command = [sys.executable, "-c", script, str(tiny_folder("llava")), str(tmp_path), asked]
    subprocess.run(command, check=True, timeout=600, capture_output=True)
    for before, now, there in zip(base, edited, torch.load(tmp_path / "logits.pt"), strict=True):
        torch.testing.assert_close(now.logits_NV, there, atol=1e-6, rtol=0)
        assert (before.logits_NV - there).abs().max() > 0.1


def test_saving_again_replaces(edit, tmp_path):
    edit.save(tmp_path / "fix")
    other = replace(edit, method="other")
    other.save(tmp_path / "fix")
    assert Edit.load(tmp_path / "fix").method == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["fix"]


def test_other_folders_are_not_replaced(edit, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("mine", "file"):
        with pytest.raises(EditError, match="is not the folder of an edit"):
            edit.save(tmp_path / name)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_a_failed_save_leaves_nothing(edit, tmp_path):
    unwritable = replace(edit, settings={"lr": object()})
    with pytest.raises(TypeError):
        unwritable.save(tmp_path / "fix")
    assert not list(tmp_path.iterdir())


def damage_json(folder):
    (folder / "edit.json").write_text("{")


def damage_tensors(folder):
    path = folder / "edit.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def remove_tensors(folder):
    (folder / "edit.safetensors").unlink()


def change_format(folder):
    about = json.loads((folder / "edit.json").read_text())
    (folder / "edit.json").write_text(json.dumps(about | {"format": 99}))


def flip_a_bit(folder):
    path = folder / "edit.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))


def drop_a_field(folder):
    about = json.loads((folder / "edit.json").read_text())
    del about["requests"]
    (folder / "edit.json").write_text(json.dumps(about))


@pytest.mark.parametrize("harm", [damage_json, damage_tensors, remove_tensors, change_format, flip_a_bit, drop_a_field])
def test_damage_is_found(edit, tmp_path, harm):
    folder = edit.save(tmp_path / "fix")
    harm(folder)
    with pytest.raises(EditFormatError) as caught:
        vlmend.Edit.load(folder)
    assert "fix" in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(EditFormatError, match="holds no edit"):
        Edit.load(tmp_path / "nothing")
