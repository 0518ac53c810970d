"""`python -m torch.distributed.run tests/sharding.py align ...`: the command line under FSDP2 on CPUs.

accelerate shards on CUDA alone and trains with DDP elsewhere; torch shards on CPUs too. Here accelerate is told that
several processes on CPUs are such as shard. All else, of accelerate and of vlmend, is as on CUDA.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from vlmend.alignment import sharded

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
"""The environment that ``accelerate launch --use_fsdp --fsdp_version 2`` gives."""


def shard_on_cpus() -> None:
    """See the top."""
    before = AcceleratorState.__init__

    def begin(self: Any, *args: Any, fsdp_plugin: Any = None, **named: Any) -> None:
        before(self, *args, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = begin  # type: ignore[method-assign]
    sharded.DEVICES = ("cpu", "cuda")


if __name__ == "__main__":
    from vlmend.cli.app import app

    os.environ.update({name: value for name, value in FSDP2.items() if name not in os.environ})
    shard_on_cpus()
    app()
