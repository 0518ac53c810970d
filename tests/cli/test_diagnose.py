"""`vlmend diagnose`: a page and its figures on disk, numbers that are the model's, one clear line for every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

QUESTION = "what colour is the cup ?"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((48, 40)).convert("RGB").save(path)
    return path


@pytest.fixture
def diagnose(vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], photo: Path) -> Callable[..., Any]:
    return lambda *more: vlmend_cli("diagnose", tiny_folder(), photo, QUESTION, *more)


def test_last_line_is_the_path_of_the_page(diagnose: Callable[..., Any], tmp_path: Path) -> None:
    outcome = diagnose("--answer", "three birds", "--against", "a dog", "--out", tmp_path / "why")
    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[-1] == str(tmp_path / "why" / "diagnosis.html")
    assert Path(lines[-1]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "Picture or prior" in lines[0]
    assert "“three birds” is" in " ".join(outcome.stdout.split())
    assert (tmp_path / "why" / "figures" / "decomposition.png").stat().st_size > 0


def test_a_new_folder_by_default(diagnose: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = diagnose("--tokens", 1, "--max-new-tokens", 2)
    page = Path(outcome.stdout.splitlines()[-1])
    assert page.parts[0] == "runs"
    assert page.parts[1].startswith("diagnose-")
    assert page.exists()


def test_json_says_what_the_page_shows(diagnose: Callable[..., Any], tmp_path: Path, tiny: Callable[..., Any]) -> None:
    document = diagnose(
        "--answer", "three birds", "--layers", "0,-1", "--tokens", 2, "--steps", 3, "--out", tmp_path / "why", "--json"
    ).document
    (answer,) = document["answers"]
    assert document["share"]["seen"] == pytest.approx(answer["seen"])
    assert document["share"]["prior"] + document["share"]["picture"] == pytest.approx(1)
    assert set(document["modules"]) == {"decomposition", "contributions"}
    assert document["cause"]["kind"] in ("mis-seen", "mis-known")
    decomposition = document["modules"]["decomposition"]
    assert decomposition["completeness"]["error"] < 1e-4
    last = len(tiny().parts.layers) - 1
    noise = [one for one in document["maps"] if one["method"] == "perturbation"]
    assert [(one["token"], one["layer"]) for one in noise] == [(0, 0), (0, last), (1, 0), (1, last)]
    for one in document["maps"]:
        assert Image.open(one["file"]).size == (48, 40)
        assert 0 <= one["peak"][0] <= 48
        assert 0 <= one["peak"][1] <= 40


def test_an_edit_is_in_force(
    diagnose: Callable[..., Any],
    vlmend_cli: Callable[..., Any],
    tiny_folder: Callable[..., Path],
    cases_file: Path,
    tmp_path: Path,
) -> None:
    fix = tmp_path / "fix"
    strong = ("--set", "lr=0.02", "--set", "steps=10", "--set", "layers=all")
    vlmend_cli("edit", tiny_folder(), cases_file, "--out", fix, "--together", *strong)
    asked = ("--answer", "red", "--layers", "0", "--json", "--out", tmp_path / "why")
    before, after = diagnose(*asked).document, diagnose(*asked, "--edit", fix).document
    assert after["edits"]
    assert after["share"]["seen"] > before["share"]["seen"] + 0.1
    assert f"--edit {fix}" in (tmp_path / "why" / "diagnosis.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--answer", ""), ("no tokens",)),
        (("--answer", "red", "--against", "red"), ("'red'", "no difference")),
        (("--layers", "99"), ("no layer 99",)),
        (("--layers", "early"), ("--layers", "'early'")),
        (("--edit", "no-such-edit"), ("no-such-edit",)),
    ],
    ids=["empty answer", "equal answers", "layer out of range", "layer by name", "no edit"],
)
def test_mistakes(diagnose: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], words: Any) -> None:
    out = tmp_path / "why"
    assert diagnose(*options, "--out", out).is_a_users_mistake(*words)
    assert not out.exists(), "nothing is half-written"


def test_missing_and_broken_pictures(
    vlmend_cli: Callable[..., Any], tiny_folder: Callable[..., Path], photo: Path, tmp_path: Path
) -> None:
    missing = vlmend_cli("diagnose", tiny_folder(), tmp_path / "absent.png", QUESTION)
    assert missing.is_a_users_mistake("absent.png", "no such file")
    photo.write_bytes(photo.read_bytes()[:60])
    assert vlmend_cli("diagnose", tiny_folder(), photo, QUESTION).is_a_users_mistake("picture.png")


def test_folder_that_is_a_file(diagnose: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "why").write_text("mine")
    outcome = diagnose("--answer", "red", "--layers", "0", "--out", tmp_path / "why")
    assert outcome.is_a_users_mistake("why")
    assert (tmp_path / "why").read_text() == "mine"
