"""The processes of one launch (`accelerate launch -m vlmend ...`, `torchrun`): which of them this is, and its share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vlmend.errors import LaunchError

__all__ = ["ALONE", "Ranks", "check_shares", "shares_work"]

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])

_SHARES = "shares_work"


@dataclass(frozen=True)
class Ranks:
    """One process among ``count``.

    Attributes:
        index: from 0; the first writes what all of them end with.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def launched(cls) -> Ranks:
        """As the launcher's environment says; alone without one.

        Raises:
            LaunchError: several processes were asked for, and one was started.
        """
        if "RANK" in os.environ:
            return cls(int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1")))
        if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ:
            # accelerate has an address only for several processes, and a rank only where it has started them
            raise LaunchError(
                "accelerate was asked for several processes and started one: launch with --multi_gpu "
                "(on CPUs too: it is what starts processes), or with torchrun --nproc_per_node"
            )
        return cls()

    @property
    def first(self) -> bool:
        """Whether this one writes what is written once."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every ``count``-th item: the shares of all processes are all items, each once."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            import torch
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


ALONE = Ranks()


def shares_work(command: C) -> C:
    """Declare a command one whose work the processes of a launch share among them."""
    setattr(command, _SHARES, True)
    return command


def check_shares(command: Any, name: str) -> None:
    """Refuse several processes for a command that did not declare that it shares its work: each would do all of it.

    Raises:
        LaunchError: this is one of several processes, and the command is for one.
    """
    # What a launcher that started one process was asked for does not matter here: one is right.
    if "RANK" in os.environ and Ranks.launched().count > 1 and not getattr(command, _SHARES, False):
        raise LaunchError(
            f"{name} runs in one process, and {Ranks.launched().count} were started: give it without accelerate launch "
            "or torchrun, or with --num_processes 1"
        )
