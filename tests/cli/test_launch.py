"""`accelerate launch -m vlmend bench`: cases in several processes give the records of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from launching import ACCELERATE, both_by_torchrun, kill_second
from launching import both as both_processes
from vlmend.cli.app import app
from vlmend.errors import LaunchError
from vlmend.ranks import Ranks

WAIT = 300.0


def bench(launch, model, cases, out, **kept):
    given = [
        "bench",
        model,
        cases,
        "--out",
        out,
        "--editors",
        "ft,null",
        "--set",
        "ft.steps=3",
        "--max-new-tokens",
        "4",
        "--json",
    ]
    command = [sys.executable, *launch, "-m", "vlmend", *map(str, given)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **kept)


def records(out: Path) -> list[dict]:
    found = [json.loads(line) for path in sorted(out.glob("records*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda one: (one["editor"], one["case"]))


def untimed(found):
    for one in found:
        one.pop("rank", None)
        for cost in one["costs"]:
            cost.pop("seconds")
            cost.pop("peak_mb")
    return found


def test_shares_are_all_items_each_once():
    items = list(range(11))
    shares = [Ranks(index, 3).share(items) for index in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_launch_that_starts_one_process_is_a_mistake(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.launched() == Ranks()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert Ranks.launched() == Ranks()  # one was asked for
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(LaunchError, match="--multi_gpu"):
        Ranks.launched()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Ranks.launched() == Ranks(1, 2)


def test_a_command_that_does_not_share_its_work_refuses_several_processes(vlmend_cli, monkeypatch, tmp_path):
    """All of them but these; each would do all the work, into one folder."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    sharing = {"align", "bench", "pairs"}
    for name, command in get_command(app).commands.items():
        for given in [(name, inner) for inner in getattr(command, "commands", ())] or [(name,)]:
            outcome = vlmend_cli(*given)
            if name in sharing:
                assert "Missing" in outcome.stderr
            else:
                assert outcome.is_a_users_mistake(f"vlmend {' '.join(given)} runs in one process, and 2 were started")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert vlmend_cli("data", "summary", tmp_path / "none.json").is_a_users_mistake("none.json")


def test_two_processes_of_a_command_for_one_do_nothing(tiny_folder, cases_file, tmp_path):
    out = tmp_path / "run"
    given = ("sequence", tiny_folder(), cases_file, "--out", out, "--at", "1,2", "--set", "ft.steps=2")
    command = [sys.executable, *both_by_torchrun(), "-m", "vlmend", *map(str, given)]
    done = subprocess.run(command, capture_output=True, timeout=WAIT, check=False)
    assert done.returncode != 0
    assert b"vlmend: vlmend sequence runs in one process" in done.stderr
    assert not out.exists()


def test_two_processes_give_the_records_of_one(tiny_folder, cases_file, tmp_path):
    alone = bench((), tiny_folder(), cases_file, tmp_path / "alone")
    assert alone.communicate(timeout=WAIT) and alone.returncode == 0
    both = bench(both_processes(), tiny_folder(), cases_file, tmp_path / "both")
    document, errors = both.communicate(timeout=WAIT)
    assert both.returncode == 0, errors.decode()
    assert json.loads(document)["run"] == str(tmp_path / "both")  # one document, of the first process
    found = records(tmp_path / "both")
    assert {one["rank"] for one in found} == {0, 1}
    assert untimed(found) == untimed(records(tmp_path / "alone"))
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("alone", "both")]
    assert scores[0]["ft"]["metrics"] == scores[1]["ft"]["metrics"]
    assert (tmp_path / "both" / "report.html").exists()


@pytest.mark.slow
def test_a_launch_that_starts_one_process_says_so(tiny_folder, cases_file, tmp_path):
    given = (*ACCELERATE, "--cpu", "--num_processes", "2")
    process = bench(given, tiny_folder(), cases_file, tmp_path / "run")
    _, errors = process.communicate(timeout=WAIT)
    assert process.returncode != 0
    assert b"--multi_gpu" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_goes_on(tiny_folder, cases_file, tmp_path):
    alone = bench((), tiny_folder(), cases_file, tmp_path / "alone")
    assert alone.communicate(timeout=WAIT) and alone.returncode == 0
    out = tmp_path / "both"
    both = bench(both_processes(), tiny_folder(), cases_file, out, start_new_session=True)
    start = time.monotonic()
    while not any(path.stat().st_size for path in out.glob("records*.jsonl")):
        assert both.poll() is None, both.stderr.read().decode()
        assert time.monotonic() - start < WAIT
        time.sleep(0.01)
    kill_second(out)
    both.communicate(timeout=WAIT)
    assert both.returncode != 0
    again = bench(both_processes(), tiny_folder(), cases_file, out)
    _, errors = again.communicate(timeout=WAIT)
    assert again.returncode == 0, errors.decode()
    assert untimed(records(out)) == untimed(records(tmp_path / "alone"))
