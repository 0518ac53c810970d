"""Where models come from, a folder or the hub, and why one cannot be had: in few words, on one line."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

__all__ = ["check_place", "is_hub_id", "reason"]

_LONGEST = 160

_HUB: dict[type[Exception], str] = {
    GatedRepoError: "the hub gives it only to those whom its owner lets: ask there, and log in",
    RepositoryNotFoundError: "the hub has no such model, or shows it to others only",
    LocalEntryNotFoundError: "it is not in the local cache, and the hub is not reached",
    OfflineModeIsEnabled: "it is not in the local cache, and the hub is not asked",
}
"""What the hub's own errors mean, the first that fits: what libraries say of them is long, and of their own use."""


def is_hub_id(name: str) -> bool:
    """Whether a name can be a hub id: an owner and a model, and no path."""
    return not name.startswith((".", "/", "~")) and name.count("/") == 1


def check_place(name: str, wanted: type[Exception], *, hub: bool = True) -> None:
    """Refuse a name that is no folder and, where the hub is asked too, cannot be a hub id.

    Args:
        name: what was given.
        wanted: what is raised.
        hub: whether the hub is asked for what is no folder.
    """
    if Path(name).is_dir() or (hub and is_hub_id(name) and not Path(name).exists()):
        return
    rest = ", and a hub id is written OWNER/NAME" if hub else ""
    raise wanted(f"'{name}' is no folder{rest}")


def reason(error: Exception) -> str:
    """Why a model cannot be had: of the hub's errors the meaning, else as many whole sentences as are short."""
    causes = [error]
    while further := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(further)  # type: ignore[arg-type]
    for kind, meaning in _HUB.items():
        if any(isinstance(one, kind) for one in causes):
            return meaning
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) <= _LONGEST:
        return text
    ends = text.rfind(". ", 0, _LONGEST + 1)
    return text[: ends + 1] if ends > 0 else f"{text[:_LONGEST].rpartition(' ')[0] or text[:_LONGEST]}…"
