"""`vlmend data`: what is in a file, what leaks, and the training file without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vlmend


def row(text: str, label: str) -> list[str]:
    """The cells after a label in a printed table."""
    return next(line.strip()[len(label) :].split() for line in text.splitlines() if line.strip().startswith(label))


def test_summary_counts(vlmend_cli: Callable[..., Any], fixtures: Path) -> None:
    file = fixtures / "vlkeb_onehop.json"
    document = vlmend_cli("data", "summary", file, "--json").document
    assert (document["format"], document["cases"], document["file"]) == ("VLKEB", 3, str(file))
    assert {kind["kind"]: kind["count"] for kind in document["kinds"]} == {
        "edit": 3,
        "text_generality": 3,
        "image_generality": 3,
        "text_locality": 3,
        "image_locality": 3,
        "portability": 3,
    }
    assert document["pictures"] == len(document["missing"]) == 9
    text = vlmend_cli("data", "summary", file).stdout
    assert "3 cases, VLKEB format" in text
    assert row(text, "portability")[0] == "3"
    assert row(text, "pictures missing") == ["9"]
    assert "missing: 4 more (--json lists all)" in text


def test_summary_finds_the_pictures(vlmend_cli: Callable[..., Any], cases_file: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.json"
    moved.write_text(cases_file.read_text())
    assert vlmend_cli("data", "summary", moved, "--json").document["missing"]
    document = vlmend_cli("data", "summary", moved, "--images", cases_file.parent, "--json").document
    assert document["missing"] == []
    assert document["format"] == "MMEdit"


@pytest.fixture
def files(fixtures: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Four training records and two evaluation records; the first of both is the same edit, the second its probe."""
    records = json.loads((fixtures / "e_vqa.json").read_text())
    probe = {name: records[1][name] for name in ("m_loc", "m_loc_q", "m_loc_a")}
    held = [records[0], records[0] | probe | {"src": "why ?", "image": "val2014/other.jpg", "loc": "nobody knows"}]
    paths = tmp_path / "train.json", tmp_path / "eval.json"
    for path, content in zip(paths, (records, held), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_leaks_are_found(vlmend_cli: Callable[..., Any], files: tuple[Path, Path]) -> None:
    document = vlmend_cli("data", "leaks", *files, "--json").document
    found = {leak["role"]: leak["cases"] for leak in document["leaks"]}
    assert found["edit"] == found["edit picture"] == ["eval-0"]
    assert found["image_locality"] == ["eval-0", "eval-1"]
    assert found["text_locality"] == ["eval-0"]
    assert (document["train"]["cases"], document["evaluation"]["cases"], document["out"]) == (4, 2, None)
    text = vlmend_cli("data", "leaks", *files).stdout
    assert row(text, "image locality") == ["2", "2", "100", "%", "2", "100", "%"]
    assert row(text, "edit, both")[:3] == ["2", "1", "50"]


def test_out_has_what_does_not_leak(vlmend_cli: Callable[..., Any], files: tuple[Path, Path], tmp_path: Path) -> None:
    """The rest of the training file, in its format; its pictures are still where they were."""
    out = tmp_path / "clean" / "train.json"
    document = vlmend_cli("data", "leaks", *files, "--out", out, "--json").document["out"]
    assert document["cases"] == 3
    assert {(one["case"], one["role"]) for one in document["dropped"]} == {
        ("train-0", "edit picture"),
        ("train-1", "image_locality"),
    }
    kept = vlmend.read(out, check_images=False)
    before = vlmend.read(files[0], check_images=False)
    assert [case.request.question for case in kept] == [case.request.question for case in before[1:]]
    assert [len(case.probes) for case in kept] == [3, 4, 4]
    assert kept[0].request.image is not None
    assert kept[0].request.image.resolve() == before[1].request.image.resolve()
    again = vlmend_cli("data", "leaks", out, files[1], "--json").document["leaks"]
    left = {leak["role"]: leak["cases"] for leak in again}
    assert not any(left[role] for role in ("edit", "edit picture", "text_locality", "image_locality"))
    assert "3 of 4 training cases" in vlmend_cli("data", "leaks", *files, "--out", out).stdout


def test_files_in_folders_of_their_own(
    vlmend_cli: Callable[..., Any], files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Where no file is in common, pictures are the same when they are named alike."""
    apart, out = tmp_path / "apart" / "eval.json", tmp_path / "clean" / "train.json"
    apart.parent.mkdir()
    files[1].rename(apart)
    document = vlmend_cli("data", "leaks", files[0], apart, "--out", out, "--json").document
    found = {leak["role"]: leak["cases"] for leak in document["leaks"]}
    assert found["image_locality"] == ["eval-0", "eval-1"]
    kept, before = vlmend.read(out, check_images=False)[0], vlmend.read(files[0], check_images=False)[1]
    assert isinstance(kept.request.image, Path) and isinstance(before.request.image, Path)
    assert kept.request.image.resolve() == before.request.image.resolve()


@pytest.mark.parametrize("content", ["{", "[]", '[{"a": 1}]', '[{"image": "a.png", "question": "b", "answer": ""}]'])
def test_mistakes_are_one_line(
    vlmend_cli: Callable[..., Any], files: tuple[Path, Path], tmp_path: Path, content: str
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(content)
    assert vlmend_cli("data", "summary", broken).is_a_users_mistake("broken.json")
    out = tmp_path / "out.json"
    assert vlmend_cli("data", "leaks", files[0], broken, "--out", out).is_a_users_mistake("broken.json")
    assert not out.exists()


def test_no_file(vlmend_cli: Callable[..., Any], tmp_path: Path) -> None:
    assert vlmend_cli("data", "summary", tmp_path / "none.csv").is_a_users_mistake("none.csv", "No such file")


def test_summary_of_preferences(vlmend_cli, fixtures):
    done = vlmend_cli("data", "summary", fixtures / "mdpo_sample.json", "--json")
    assert done.code == 0
    assert (done.document["pairs"], done.document["format"], len(done.document["missing"])) == (2, "mDPO", 2)
    assert "2 pairs, mDPO format" in vlmend_cli("data", "summary", fixtures / "mdpo_sample.json").stdout
