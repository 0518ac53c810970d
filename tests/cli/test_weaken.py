"""`vlmend weaken`: the dose curve, the same after a kill, and clear complaints."""

from __future__ import annotations

import json

import pytest

QUICK = ("--scenes", 6, "--max-new-tokens", 12)


def test_a_curve_and_its_figure(vlmend_cli, tmp_path):
    out = tmp_path / "run"
    done = vlmend_cli("weaken", "demo", "--out", out, "--steps", "999,0", *QUICK, "--json")
    assert done.code == 0, done.stderr
    clean, noisy = done.document["curve"]
    assert (clean["step"], clean["snr"], noisy["step"]) == (0, None, 999)
    assert noisy["recall"]["mean"] < clean["recall"]["mean"]
    assert done.document["step"] in (0, 999)
    assert (out / "curve.png").stat().st_size > 1000
    before = (out / "curve.json").read_text()
    lines = (out / "records.jsonl").read_text().splitlines()
    (out / "records.jsonl").write_text(lines[0] + "\n" + lines[1][:40])  # killed while the second step was written
    (out / "curve.json").unlink()
    assert vlmend_cli("weaken", "demo", "--out", out, "--steps", "0,999", *QUICK).code == 0
    assert json.loads((out / "curve.json").read_text()) == json.loads(before)


@pytest.mark.slow
def test_what_is_expected_rises_and_gives_way(vlmend_cli, tmp_path):
    """With some noise the demo model names more that is expected and absent than without, and with noise alone less."""
    given = ("--steps", "0,600,999", "--scenes", 120)
    done = vlmend_cli("weaken", "demo", "--out", tmp_path / "run", *given, "--json")
    assert done.code == 0, done.stderr
    clean, some, noise = (dose["expected"] for dose in done.document["curve"])
    assert some["mean"] > clean["mean"] > noise["high"]
    assert done.document["step"] == 600


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--steps", "1000"), "from 0 to 999"),
        (("--steps", "some"), "--steps takes numbers"),
        (("--where", "air"), "no place of noise named 'air'"),
        (("--images", "x"), "go with --queries"),
        (("--queries", "x"), "--queries needs --annotations"),
    ],
)
def test_what_cannot_be(vlmend_cli, tmp_path, given, words):
    done = vlmend_cli("weaken", "demo", "--out", tmp_path / "run", *given)
    assert done.is_a_users_mistake(words)
    assert not (tmp_path / "run").exists()


def test_amber(vlmend_cli, tmp_path, picture):
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "q.json").write_text(json.dumps([{"id": 1, "image": "a.png", "query": "describe this image."}]))
    about = [{"id": 1, "type": "generative", "truth": ["cup"], "hallu": ["table"]}]
    (tmp_path / "a.json").write_text(json.dumps(about))
    given = ("--queries", tmp_path / "q.json", "--annotations", tmp_path / "a.json", "--steps", "0,500")
    done = vlmend_cli("weaken", "demo", "--out", tmp_path / "run", *given, "--json")
    assert done.code == 0, done.stderr
    assert [dose["expected"]["n"] for dose in done.document["curve"]] == [1, 1]
