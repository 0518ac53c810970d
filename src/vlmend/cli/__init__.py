"""The command line: one file a command, nothing heavy imported before a command runs."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of `vlmend`."""
    from vlmend.cli.app import app

    app()
