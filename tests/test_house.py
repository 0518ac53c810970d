"""The rules of the house: who may import whom, what is public, what an import costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlmend

SOURCE = Path(vlmend.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# Imports point one way only: from a room to those above it. Faces do not import each other.
ROOMS = (
    ("errors", "words", "ranks", "runs", "endpoints"),
    ("models",),
    ("data",),
    ("edits",),
    ("attribution",),
    ("editors",),
    ("alignment",),
    ("evaluation",),
    ("build",),
    ("world",),
    ("report",),
    ("cli", "studio", "serve"),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_upwards(path):
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    assert room in FLOOR, f"{room} is no room of the house"
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] != "vlmend":
            continue
        other = parts[1] if len(parts) > 1 else ""
        if room in ROOMS[-1] and other not in FLOOR:
            continue  # faces use the public names too
        assert other in FLOOR, f"{path}:{line}: import {module} from the room it lives in"
        allowed = FLOOR[other] < FLOOR[room] or other == room or FLOOR[room] == 0
        assert allowed, f"{path}:{line}: {room} may not import {other}"


def modules() -> list[str]:
    names: list[str] = []
    for path in FILES:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        names.append(".".join(("vlmend", *parts)))
    return [name for name in names if not name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_all_is_true(name):
    """Every name in `__all__` is there, and is listed once."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [one for one in names if not hasattr(module, one)] == []


def test_public_surface():
    assert set(vlmend.__all__) - {"__version__"} == set(vlmend._HOME)
    assert dir(vlmend) == sorted(vlmend.__all__)
    shown = {
        alias.name
        for node in ast.walk(ast.parse(Path(vlmend.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vlmend.")
        for alias in node.names
    }
    assert shown == set(vlmend._HOME), "what type checkers see is what is loaded"
    for name, home in vlmend._HOME.items():
        assert getattr(vlmend, name) is getattr(importlib.import_module(home), name)
        assert getattr(vlmend, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vlmend.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["vlmend", "vlmend.cli", "vlmend.errors", "vlmend.runs"])
def test_imports_are_cheap(module):
    """Neither the package nor its command line loads torch or transformers before they are needed."""
    script = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_library_does_not_print(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}: the library does not print"


def test_hooks_are_registered_in_one_file():
    found = {
        str(path.relative_to(SOURCE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("register_") and node.attr.endswith("_hook")
    }
    assert found == {"models/trace.py"}


@pytest.mark.parametrize("name", modules())
def test_what_is_exported_is_explained(name):
    """Whatever a module lists in `__all__` has a docstring, and so has the module."""
    module = importlib.import_module(name)
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    listed = set(getattr(module, "__all__", []))
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in listed]
    bare = [node.name for node in defined if not ast.get_docstring(node)]
    assert not bare
    assert not listed or ast.get_docstring(tree)


def test_every_attribution_method_is_registered():
    """One file a method: whatever class there can `attribute` is found by its name."""
    from vlmend.attribution.base import METHODS

    found = {
        f"vlmend.attribution.{path.stem}:{node.name}"
        for path in sorted((SOURCE / "attribution").glob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
        and node.name != "Attributor"
        and any(isinstance(one, ast.FunctionDef) and one.name == "attribute" for one in node.body)
    }
    assert found == set(METHODS.values())
    assert len({home.split(":")[0] for home in found}) == len(found)
