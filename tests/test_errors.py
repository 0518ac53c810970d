from __future__ import annotations

import inspect
from pathlib import Path

from vlmend import errors


def test_the_tree_is_drawn():
    """Every exception stands in the picture at the top of the file, below its parent."""
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        name = line.strip("│├└─ ").split(" ")[0]
        if not name.endswith("Error"):
            continue
        depth = line.index(name) // 4
        parents = [(level, parent) for level, parent in parents if level < depth]
        drawn[name] = parents[-1][1] if parents else "Exception"
        parents.append((depth, name))
    classes = {
        name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
    }
    assert drawn == {name: kind.__bases__[0].__name__ for name, kind in classes.items()}
    assert set(errors.__all__) == set(classes)


def test_places_are_named():
    error = errors.DataError("is missing", path="a/b.json", record=3, field="alt")
    assert str(error) == "a/b.json, record 3, field 'alt': is missing"
    assert (error.path, error.record, error.field) == (Path("a/b.json"), 3, "alt")


def test_missing_images_are_counted_once():
    missing = [(0, Path("x.png")), (1, Path("x.png")), *((i, Path(f"{i}.png")) for i in range(2, 9))]
    error = errors.MissingImageError(missing, path="f.json")
    assert "8 images are missing (record 0: x.png" in str(error)
    assert "4 more" in str(error)
    assert len(error.missing) == 9
    assert "1 image is missing" in str(errors.MissingImageError(missing[:1], path="f.json"))


def test_both_fingerprints_are_named():
    error = errors.FingerprintError(made_for="aa", applied_to="bb")
    assert "aa" in str(error)
    assert "bb" in str(error)
