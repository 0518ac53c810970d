"""Training state on disk, written atomically so that a killed run resumes from the last whole checkpoint.

These files live in a run's own ignored folder and are read back by that run alone; ``weights_only`` refuses anything
but tensors and plain containers. What is shipped is safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn

from vlmend.world.train.optim import Pair


def save_state(path: Path, model: nn.Module, optimiser: Pair, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, part)
    part.replace(path)


def load_state(path: Path, model: nn.Module, optimiser: Pair) -> int:
    """Restore model and optimiser; the number of steps already done, 0 without a checkpoint."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return cast(int, state["step"])
