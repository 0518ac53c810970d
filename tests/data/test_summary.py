from __future__ import annotations

from pathlib import Path

from PIL import Image

from vlmend import EditCase, Example, Probe
from vlmend.data.pictures import case_files, relocated
from vlmend.data.summary import KindCount, summarise


def test_counts(tmp_path: Path) -> None:
    here, gone = tmp_path / "a.png", tmp_path / "b.png"
    Image.new("RGB", (2, 2)).save(here)
    near = Probe("image_locality", Example("any dog ?", gone))
    cases = [
        EditCase("one", Example("what ?", here, "a red kettle"), probes=(near,)),
        EditCase("two", Example("What  ?", here, "red"), probes=(near,)),
        EditCase("three", Example("how many ?", here, " ")),
        EditCase("four", Example("who ?", None, "me")),
    ]
    found = summarise(cases)
    assert found.kinds == (KindCount("edit", 4, 4, 1.25, 3), KindCount("image_locality", 2, 0, 0.0, 0))
    assert (found.cases, found.pictures, found.missing) == (4, 2, (str(gone),))
    assert (found.without_target, found.repeated) == (("three",), ("two",))
    assert (found.sharing_picture, found.shared_pictures) == (3, 1)


def test_pictures_of_a_case() -> None:
    """Every file once, also those of premises; pictures in memory have no file."""
    memory = Image.new("RGB", (2, 2))
    fact = Example("which ?", Path("c.png"), "x")
    case = EditCase(
        "x",
        Example("what ?", Path("a.png"), "red"),
        probes=(
            Probe("text_generality", Example("say", Path("a.png"), "red")),
            Probe("image_generality", Example("what ?", memory, "red")),
            Probe("portability", Example("where ?", Path("b.png"), "there"), 1, (fact,)),
        ),
    )
    assert case_files(case) == (Path("a.png"), Path("b.png"), Path("c.png"))
    moved = relocated(case, lambda file: Path("x") / file)
    assert case_files(moved) == (Path("x/a.png"), Path("x/b.png"), Path("x/c.png"))
    assert moved.probes[1].example.image is memory
    assert relocated(moved, lambda file: Path(file.name)) == case
