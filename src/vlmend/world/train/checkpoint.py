"""Training state on disk, written atomically so that a killed run resumes from the last whole checkpoint.

These files live in a run's own ignored folder and are read back by that run alone; ``weights_only`` refuses anything
but tensors and plain containers. What is shipped is safetensors.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vlmend.runs import whole
from vlmend.world.train.optim import Pair


def save_state(path: Path, model: nn.Module, optimiser: Pair, step: int) -> None:
    """Write a checkpoint in the place of the one before.

    Raises:
        WriteError: it cannot be written; the one before is still there.
    """
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    content = io.BytesIO()  # written to a file, torch hides what went wrong
    torch.save(state, content)
    with whole(path) as part:
        part.write_bytes(content.getbuffer())


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors.

    Raises:
        WriteError: they cannot be written; nothing half-written is left.
    """
    with whole(path) as part:
        part.write_bytes(save(tensors))


def load_state(path: Path, model: nn.Module, optimiser: Pair) -> int:
    """Restore model and optimiser; the number of steps already done, 0 without a checkpoint."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return cast(int, state["step"])
