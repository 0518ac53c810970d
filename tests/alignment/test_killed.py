"""`vlmend align`, killed by the system when a checkpoint is there and when one is begun, ends as if nobody had."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launching import WAIT, wait_until
from vlmend.data.formats import trl
from vlmend.data.records import PreferencePair
from vlmend.models.pictures import save_picture

STEPS, SAVE_EVERY = 12, 2
SETTINGS = ("rank=4", "dropout=0.1", "lr=1e-3", f"steps={STEPS}", "batch=2", "log_every=1", f"save_every={SAVE_EVERY}")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, picture: Callable[[int], Any]) -> Path:
    """Eight, each with a picture of its own."""
    folder = tmp_path_factory.mktemp("pairs")
    nouns = ("cat", "dog", "cup", "hat", "bus", "tree", "sofa", "lamp")
    made = [
        PreferencePair(
            noun, "what is this ?", f"a red {noun}", f"a blue {noun}", save_picture(picture(n), folder / f"{noun}.png")
        )
        for n, noun in enumerate(nouns)
    ]
    trl.write(made, folder / "pairs.jsonl")
    return folder / "pairs.jsonl"


def start(pairs: Path, out: Path) -> subprocess.Popen[bytes]:
    sets = [word for one in SETTINGS for word in ("--set", one)]
    command = [sys.executable, "-m", "vlmend", "align", "demo", str(pairs), "--out", str(out), *sets]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors.decode()


def kill_when(process: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
    wait_until(process, true)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_killed_and_gone_on_with(pairs: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    end(start(pairs, whole))
    checkpoints = out / "checkpoints"
    kill_when(start(pairs, out), lambda: (checkpoints / f"checkpoint-{SAVE_EVERY}" / "trainer_state.json").exists())
    reached = len(records(out))
    assert SAVE_EVERY <= reached < STEPS and not (out / "edit").exists()
    kill_when(start(pairs, out), (checkpoints / f"checkpoint-{4 * SAVE_EVERY}").exists)  # perhaps half of it
    assert len(records(out)) > reached and not (out / "edit").exists()
    end(start(pairs, out))

    one, other = records(whole), records(out)
    assert [record["step"] for record in other] == [record["step"] for record in one] == list(range(1, STEPS + 1))
    for name in ("loss", "margin", "learning_rate"):
        assert [record[name] for record in other] == pytest.approx([record[name] for record in one], abs=1e-6)
    made, again = (load_file(folder / "edit" / "edit.safetensors") for folder in (whole, out))
    assert made and made.keys() == again.keys()
    for name, tensor in made.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)
