"""The project's own files agree with each other: tools, versions, linters, what runs before a commit."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["docs"]])
def test_what_is_installed_is_pinned_within_its_range(line: str) -> None:
    wanted = Requirement(line)
    found = pins("constraints.txt")
    assert wanted.specifier.contains(found[wanted.name])


def test_the_oldest_environment_has_the_oldest_transformers() -> None:
    (wanted,) = (Requirement(line) for line in PROJECT["dependencies"] if line.startswith("transformers"))
    (floor,) = wanted.specifier
    assert floor.operator == ">="
    assert pins("constraints-oldest.txt") == {"transformers": f"{floor.version}.0"}


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("src/vlmend/new.py", "nothing()\n", "F821"),
        ("tests/test_new.py", "nothing()\n", "F821"),
        ("src/vlmend/new.py", 'print("said")\n', "T201"),
    ],
)
def test_the_linter_refuses(file: str, line: str, rule: str) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    command = [ruff, "check", "--output-format", "concise", "--stdin-filename", file, "-"]
    done = subprocess.run(command, input=line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert re.findall(r": ([A-Z]+\d+)", done.stdout) == [rule]


def test_hooks_need_no_network() -> None:
    """They run the tools of the project's own environment."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    tools = {Requirement(line).name for line in EXTRAS["dev"]}
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    assert {hook["id"] for hook in repository["hooks"]} == {"ruff-check", "ruff-format", "pyright"}
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].split()[0] in {f".venv/bin/{tool}" for tool in tools}


def test_no_source_is_left_out_of_the_repository() -> None:
    """A room may be named like what builds leave behind; what `.gitignore` names is neither kept nor linted."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    files = [str(path.relative_to(ROOT)) for room in ("src", "tests") for path in sorted((ROOT / room).rglob("*.py"))]
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, input="\n".join(files), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert len(files) > 100
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


def test_committed_weights_are_small() -> None:
    """A package that anybody can fetch: at most 15 MB a model, and 40 MB for all that editors bring along."""
    models, editors = (ROOT / "src" / "vlmend" / part / "weights" for part in ("models", "editors"))
    sizes = {one.name: _size(one) for one in models.iterdir()}
    assert sizes and max(sizes.values()) <= 15e6, sizes
    assert 0 < _size(editors) <= 40e6


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
