"""How several processes of the command line are started, with what runs them (accelerate, or torch), and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

WAIT = 300.0
"""Seconds that a process may take for anything, on a busy machine."""

ACCELERATE = (
    "-m",
    "accelerate.commands.launch",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)


def both() -> tuple[str, ...]:
    """Two processes by accelerate."""
    return (*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", free_port())


def both_by_torchrun() -> tuple[str, ...]:
    """Two processes by torchrun."""
    return ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port())


def kill_second(out: Path) -> None:
    """Kill the second of the processes, not the launcher, of a command that names ``out``."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if b"RANK=1" in environment.split(b"\0") and str(out).encode() in (process / "cmdline").read_bytes():
            os.kill(int(process.name), signal.SIGKILL)


def wait_until(process: subprocess.Popen[bytes], true: Callable[[], bool]) -> float:
    """Seconds until something is true; the process must be at work all the while."""
    start = time.monotonic()
    while not true():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() - start < WAIT
        time.sleep(0.002)
    return time.monotonic() - start


def free_port() -> str:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
