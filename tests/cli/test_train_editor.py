"""`vlmend train-editor`."""

from __future__ import annotations

import json

import vlmend


def test_command(vlmend_cli, cases_file, tiny_folder, tmp_path):
    settings = [
        f"--set={name}={json.dumps(value)}" for name, value in {"width": 16, "gate_width": 0, "steps": 2}.items()
    ]
    words = ["train-editor", "vead", tiny_folder("llava"), cases_file, "--out", tmp_path / "out", "--set=held_out=0.4"]
    outcome = vlmend_cli(*words, *settings, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.document["best"]["held out"].keys() >= {"reliability", "image_locality"}
    edit = vlmend.editor("vead", weights=str(tmp_path / "out"))
    assert edit.fit(vlmend.load(str(tiny_folder("llava"))), vlmend.read(cases_file)[:1]).ops
    again = vlmend_cli(*words, *settings)
    assert again.code == 0 and "Score" in again.stdout
    assert vlmend_cli(*words, "--set=stepz=1").is_a_users_mistake(
        "no hyper-parameter of the training of 'vead'", "stepz"
    )
    assert vlmend_cli(*words, "--set=steps=many").is_a_users_mistake(
        "--set steps=many:", "setting 'steps' of the training of 'vead': it should be a valid integer, not 'many'"
    )
    words[1] = "ft"
    assert vlmend_cli(*words).is_a_users_mistake("no editor that is trained named 'ft'", "vead")
