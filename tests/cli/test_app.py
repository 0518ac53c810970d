"""The application as a whole: help, version, what it imports, completion."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

COMMANDS = ("demo", "ask", "edit", "bench", "doctor")

HEAVY = """
import sys
from vlmend.cli.app import app
print(sorted({"torch", "transformers", "matplotlib", "jinja2", "numpy"} & set(sys.modules)))
"""


def test_help_lists_the_commands(vlmend_cli: Callable[..., Any]) -> None:
    outcome = vlmend_cli("--help")
    assert outcome.code == 0
    assert all(command in outcome.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_takes_json(vlmend_cli: Callable[..., Any], command: str) -> None:
    outcome = vlmend_cli(command, "--help")
    assert outcome.code == 0
    assert "--json" in outcome.stdout


@pytest.mark.parametrize("command", [("bench",), ("edit",), ("sequence",), ("data", "summary")])
def test_cases_may_be_in_any_format_that_is_read(vlmend_cli: Callable[..., Any], command: tuple[str, ...]) -> None:
    shown = " ".join(vlmend_cli(*command, "--help").stdout.replace("│", " ").split())
    assert all(words in shown for words in ("any format", "VLKEB", "JSON lines, CSV"))


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    found = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_version_is_the_packages(vlmend_cli: Callable[..., Any]) -> None:
    import vlmend

    assert vlmend_cli("--version").stdout == f"{vlmend.__version__}\n"


def test_python_m_is_the_command_line() -> None:
    import vlmend

    done = subprocess.run([sys.executable, "-m", "vlmend", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{vlmend.__version__}\n"


def test_unknown_command_is_a_users_mistake(vlmend_cli: Callable[..., Any]) -> None:
    outcome = vlmend_cli("bensh")
    assert outcome.code == 2
    assert "Did you mean 'bench'" in " ".join(outcome.stderr.split())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("bench", "demo", "x.json", "--limit", "0"), ("'--limit'", "1", "vlmend bench --help")),
        (("bench", "demo"), ("Missing", "CASES", "vlmend bench --help")),
        (("edits", "merge", "--loud"), ("--loud", "vlmend edits merge --help")),
        (("--loud",), ("--loud", "vlmend --help")),
    ],
)
def test_a_wrong_option_is_one_line(
    vlmend_cli: Callable[..., Any], given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert vlmend_cli(*given).is_a_users_mistake(*words)


@pytest.mark.parametrize("group", [(), ("edits",)])
def test_a_group_without_a_command_shows_its_help(vlmend_cli: Callable[..., Any], group: tuple[str, ...]) -> None:
    outcome = vlmend_cli(*group)
    assert outcome.code == 2
    assert "Usage: " in outcome.stdout + outcome.stderr
    assert "Commands" in outcome.stdout + outcome.stderr


def test_completion_script_is_offered(vlmend_cli: Callable[..., Any]) -> None:
    assert "--install-completion" in vlmend_cli("--help").stdout
