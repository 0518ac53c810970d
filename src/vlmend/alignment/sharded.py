"""What is trained, in pieces over several devices (FSDP2, as accelerate has it).

Only the parameters of the training, their gradients and the optimiser's state are in pieces: one unit, gathered for a
step and given back. The model itself is whole on every device.

A fully sharded module's parameters are other tensors while it runs than between the steps, and no process has all of
one. So whoever computes with them looks them up then, and whoever wants them whole asks on every process at once.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from vlmend.errors import VlmendError

__all__ = ["as_one_unit", "check_sharding", "in_pieces", "mine", "sharding_asked", "whole_tensor"]

DEVICES = ("cuda",)
"""Kinds of devices on which accelerate shards; on others it trains with DDP and says nothing."""


def sharding_asked() -> bool:
    """Whether the launcher asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1")


def check_sharding(device: torch.device, *, weights: bool) -> None:
    """Make sure, before any work, that what is asked for can be trained in pieces, if that is asked for.

    Args:
        device: where the model is.
        weights: whether its own weights are trained, and not something beside them.

    Raises:
        VlmendError: it cannot.
    """
    if not sharding_asked():
        return
    if weights:
        raise VlmendError(
            "FSDP cannot train the model's own weights (adapter full), since the model runs with them whole: "
            "train lora, or launch with --multi_gpu"
        )
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise VlmendError("of FSDP only version 2 is supported: launch with --fsdp_version 2")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
        raise VlmendError("FSDP cannot keep what is trained on the CPU here: leave out --fsdp_offload_params")
    if device.type not in DEVICES:
        raise VlmendError(f"FSDP needs CUDA devices, and the model is on the {device.type}: give --device cuda")


def as_one_unit(plugin: Any) -> None:
    """Set accelerate's plugin so that what is trained is one unit in its own precision, and checkpoints are in pieces.

    Parts of it are no units, since nobody calls them; layers are run again by ``recompute``, and bfloat16 is
    autocast's, so that losses are the same as without FSDP.
    """
    plugin.auto_wrap_policy = None
    plugin.activation_checkpointing = False
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    plugin.state_dict_config = plugin.optim_state_dict_config = None
    plugin.set_state_dict_type("SHARDED_STATE_DICT")


def in_pieces(module: nn.Module) -> bool:
    """Whether the module's parameters are in pieces."""
    return isinstance(module, FSDPModule)


def mine(tensor: Tensor) -> Tensor:
    """This process's piece of a tensor, or all of one that is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor; if it is in pieces every process must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
