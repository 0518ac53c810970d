from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import threading
import time

import pytest

from vlmend.errors import RunError, WriteError
from vlmend.ranks import Ranks
from vlmend.runs import Run, whole, write_json


def test_records_are_found_again(tmp_path):
    with Run(tmp_path / "run", {"seed": 1, "layers": (1, 2)}) as run:
        run.append({"case": "a", "score": 1.0})
        run.append({"case": "b", "score": (0.5,)})
    with Run(tmp_path / "run", {"seed": 1, "layers": (1, 2)}) as run:
        assert run.records == [{"case": "a", "score": 1.0}, {"case": "b", "score": [0.5]}]
        run.append({"case": "c"})
        run.finish({"n": 3})
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["case"] for line in lines] == ["a", "b", "c"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == {"n": 3}


def test_a_line_cut_short_is_dropped(tmp_path):
    with Run(tmp_path, {}) as run:
        run.append({"case": "a"})
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"case": "b", "sc')
    with Run(tmp_path, {}) as run:
        assert run.records == [{"case": "a"}]
        run.append({"case": "b"})
    assert (tmp_path / "records.jsonl").read_text() == '{"case": "a"}\n{"case": "b"}\n'


def test_killed_at_any_moment(tmp_path):
    """A process killed while it writes leaves whole records only, and the next goes on after them."""
    script = (
        "import sys; from vlmend.runs import Run\n"
        "run = Run(sys.argv[1], {})\n"
        "for i in range(len(run.records), 10**6): run.append({'case': i})\n"
    )
    log = tmp_path / "records.jsonl"
    for more in (200, 50, 400):
        size = log.stat().st_size if log.exists() else 0
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as process:
            while not log.exists() or log.stat().st_size < size + more:
                assert process.poll() is None
                time.sleep(0.005)
            process.kill()
    with Run(tmp_path, {}) as run:
        assert len(run.records) > 3
        assert [record["case"] for record in run.records] == list(range(len(run.records)))


def test_other_settings_are_refused(tmp_path):
    Run(tmp_path, {"seed": 1, "editor": "ft"}).close()
    with pytest.raises(
        RunError, match=r"holds a run with seed=1, not 2; steps=unset, not 3: write to another --out, or"
    ):
        Run(tmp_path, {"seed": 2, "editor": "ft", "steps": 3})


BEFORE = {
    "editors": {"ft": {"lr": 0.003, "layers": ["late"], "prompt": "so " * 40}},
    "cases": {"count": 3, "hash": "ab", "source": "mine"},
    "n": 1,
}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"editors": {"ft": BEFORE["editors"]["ft"] | {"lr": 0.001}}}, "editors.ft.lr=0.003, not 0.001"),
        ({"editors": {"ft": BEFORE["editors"]["ft"] | {"prompt": "so " * 40 + "on"}}}, "other editors.ft.prompt"),
        ({"editors": {**BEFORE["editors"], "null": {}}}, "editors.null=unset, not set"),
        ({"cases": {"count": 1, "hash": "cd", "source": "mine"}}, "cases=3 records, not 1 record"),
        ({"cases": {"count": 3, "hash": "cd", "source": "mine"}}, "other cases"),
        ({"cases": {"count": 3, "hash": "ab", "source": "yours"}}, 'cases.source="mine", not "yours"'),
        ({"n": "many " * 20}, f'n=1, not "{("many " * 20)[:39]}…'),
        ({"a": 1, "b": 1, "d": 1, "e": 1, "n": 2}, "n=1, not 2; a=unset, not 1; b=unset, not 1; and 2 more"),
    ],
)
def test_what_differs_is_said(tmp_path, given, told):
    Run(tmp_path, BEFORE).close()
    with pytest.raises(RunError) as caught:
        Run(tmp_path, BEFORE | given)
    advice = "write to another --out, or give the settings of before"
    assert str(caught.value) == f"{tmp_path} holds a run with {told}: {advice}"


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    for place in (tmp_path / "taken", tmp_path / "taken" / "run"):
        with pytest.raises(RunError, match="taken is a file; name a folder"):
            Run(place, {})


def test_damage_is_said(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="not readable JSON"):
        Run(tmp_path, {})
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "records.jsonl").write_text("nonsense\n")
    with pytest.raises(RunError, match="not JSON"):
        Run(tmp_path, {})


def test_json_is_whole_or_as_before(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_files_are_whole_or_as_before(tmp_path):
    path = tmp_path / "new" / "page.html"
    with pytest.raises(ZeroDivisionError), whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []
    with whole(path) as part:
        part.write_text("first")
    with pytest.raises(WriteError, match=r"page\.html cannot be written: No space left"), whole(path) as part:
        part.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    """A disk that takes half of it and then is full; with room again the same run goes on."""
    with (
        pytest.raises(WriteError, match=r"records\.jsonl cannot be written") as caught,
        Run(tmp_path / "run", {}) as run,
    ):
        run.append({"case": "a"})
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limit[1]))
        try:
            run.append({"case": "b" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.__notes__ == [f"{tmp_path / 'run'} keeps 1 finished record, and a run into it goes on after it"]
    assert (tmp_path / "run" / "records.jsonl").read_text() == '{"case": "a"}\n'
    with Run(tmp_path / "run", {}) as run:
        run.append({"case": "b"})
        assert [record["case"] for record in run.records] == ["a", "b"]


def test_a_run_that_fails_before_its_first_record_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), Run(tmp_path / "run", {}):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    Run(tmp_path / "earlier", {}).close()
    for name, left in (("mine", ["notes.txt"]), ("earlier", ["records.jsonl", "run.json"])):
        with pytest.raises(ZeroDivisionError), Run(tmp_path / name, {}):
            raise ZeroDivisionError
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == left


def test_parts_share_a_run(tmp_path):
    with Run(tmp_path, {}) as run:
        one, two = run.part(editor="ft"), run.part(editor="null")
        one.append({"case": "a"})
        two.append({"case": "a", "score": 0.0})
        one.append({"case": "b"})
        one.finish({"n": 2})
        assert [record["case"] for record in one.records] == ["a", "b"]
        assert two.records == [{"case": "a", "score": 0.0}]
        assert (one.metrics, two.metrics) == ({"n": 2}, None)
    with Run(tmp_path, {}) as run:
        assert [record["editor"] for record in run.records] == ["ft", "null", "ft"]
        assert len(run.part(editor="ft").records) == 2


class Second(Ranks):
    """Of two processes, on a machine where the first has just said that it is ready."""

    def wait(self) -> None:
        pass


def test_another_machines_folder_must_be_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("vlmend.runs._SEEN", 0.3)
    with pytest.raises(RunError, match=r"process 1 does not see .*run.json, .* a folder that all of them share"):
        Run(tmp_path / "run", {}, Second(1, 2))
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("vlmend.runs._SEEN", 30.0)
    made = threading.Timer(0.3, lambda: Run(tmp_path / "run", {}).close())  # seen a little later
    made.start()
    with Run(tmp_path / "run", {}, Second(1, 2)) as run:
        run.append({"case": "a"})
    made.join()
    assert [record["rank"] for record in Run(tmp_path / "run", {}).records] == [1]
