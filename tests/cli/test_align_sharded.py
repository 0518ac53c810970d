"""`vlmend align` under FSDP2: two processes with pieces of what is trained, on CPUs (`sharding.py`)."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

import sharding
from aligning import WAIT, ended, losses, sets, settings, trained
from launching import both_by_torchrun, kill_second


def in_pieces(model: object, pairs: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """The training, begun by two processes."""
    return trained(model, pairs, out, *both_by_torchrun(), sharding.__file__, more=more)


def edit_of(out: Path):
    return load_file(out / "edit" / "edit.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("settings_of_both", [(), ("bf16=true", "recompute=true", "cached=true")])
def test_two_processes_with_pieces_train_as_one_does(tiny_folder, pairs_file, tmp_path, settings_of_both) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ended(trained(tiny_folder(), pairs_file, one, "-m", "vlmend", more=("batch=4", *settings_of_both)))
    ended(in_pieces(tiny_folder(), pairs_file, two, "batch=1", "accumulate=2", *settings_of_both))
    assert settings(two)["sharded"] and "sharded" not in settings(one)
    assert list((two / "checkpoints").glob("checkpoint-3/pytorch_model_fsdp_0/*_1_*"))  # the second has a piece
    before, after = losses(one), losses(two)
    assert before.keys() == after.keys() == {1, 2, 3}
    assert all(before[step] == pytest.approx(after[step], abs=2e-2 if settings_of_both else 1e-3) for step in before)
    if not settings_of_both:
        assert_close(edit_of(two), edit_of(one), atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_one_that_was_killed_ends_as_one_that_was_not(tiny_folder, pairs_file, tmp_path) -> None:
    given = ("steps=30", "batch=2", "dropout=0.2", "lr=1e-3")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended(in_pieces(tiny_folder(), pairs_file, whole, *given))
    process, start = in_pieces(tiny_folder(), pairs_file, cut, *given), time.monotonic()
    while not list((cut / "checkpoints").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - start < WAIT
        time.sleep(0.01)
    kill_second(cut)
    process.communicate(timeout=WAIT)
    assert process.returncode != 0 and not (cut / "edit").exists()
    ended(in_pieces(tiny_folder(), pairs_file, cut, *given))
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-6)
    assert_close(edit_of(cut), edit_of(whole), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("environment", "given", "words"),
    [
        ({}, (), "--device cuda"),
        ({"FSDP_VERSION": "1"}, (), "--fsdp_version 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, (), "--fsdp_offload_params"),
        ({}, ("--adapter", "full", "--set", "cached=true"), "adapter full"),
    ],
)
def test_what_cannot_be_in_pieces_is_one_line(
    vlmend_cli, tiny_folder, pairs_file, tmp_path, monkeypatch, environment, given, words
) -> None:
    for name, value in (sharding.FSDP2 | environment).items():
        monkeypatch.setenv(name, value)
    made = sets() if not given else []
    out = tmp_path / "run"
    assert vlmend_cli("align", tiny_folder(), pairs_file, "--out", out, *made, *given).is_a_users_mistake(words)
    assert not out.exists()
