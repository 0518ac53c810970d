"""A second device that is none: tensors that pretend to be on CUDA, so that mixing them with others fails on a CPU.

Within `pretending` a tensor that was moved to "cuda", or made there, says that it is there, and so does all that is
made of it; an operation on tensors of both places raises what CUDA would raise. Numbers stay where they are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["pretending"]

_THERE = torch.device("cuda:0")
_MARK = "_pretends"
# What is copied into a tensor may come from anywhere; indices are looked at by themselves.
_MIXED = {
    "__getitem__",
    "__setitem__",
    "copy_",
    "to",
    "__set__",
    "index_put_",
    "type_as",
    "is_same_size",
    "_has_compatible_shallow_copy_type",
}
_MOVES = {"to", "cuda", "cpu"}


class _Pretending(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return _THERE if _there(args[0]) else func(*args)
        if func == Tensor.is_cuda.__get__:
            return _there(args[0])
        if func == Tensor.get_device:
            return 0 if _there(args[0]) else -1
        if name in ("numpy", "__array__") and _there(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if name in _MOVES and args and isinstance(args[0], Tensor):
            return _moved(func, name, args, kwargs)
        wanted, args, kwargs = _without_device(args, kwargs)
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in tensors if _there(one)]
        here = [one for one in tensors if not _there(one) and one.dim() > 0]
        drawn = any(isinstance(one, torch.Generator) for one in (*args, *kwargs.values()))
        if drawn and (wanted == "cuda" or there):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if name in ("__getitem__", "__setitem__"):
            _check_indices(*args)
        if there and here and name not in _MIXED:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found cuda:0 and cpu (when calling {name})"
            )
        found = func(*args, **kwargs)
        if name == "__set__" and len(args) == 2 and isinstance(args[1], Tensor):  # tensor.data = ...
            _mark(args[0], _there(args[1]))
        elif name in ("__setitem__", "copy_", "index_put_"):
            pass
        elif wanted is not None:
            _mark_all([found], wanted == "cuda")
        elif (there and not (name == "__getitem__" and not _there(args[0]))) or (
            name == "__get__" and tensors and _there(tensors[0])
        ):
            _mark_all([found], True)
        return found


def _check_indices(owner: Tensor, indices: Any, value: Any = None) -> None:
    """Indices lie on the CPU or beside what they are of; what is put at them beside it."""
    tensors = [one for one in tree_leaves(indices) if isinstance(one, Tensor)]
    if not _there(owner) and any(map(_there, tensors)):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if tensors and isinstance(value, Tensor) and value.dim() and _there(value) != _there(owner):
        raise RuntimeError("Expected all tensors to be on the same device (when calling index_put_)")


def _there(one: Any) -> bool:
    return isinstance(one, Tensor) and _MARK in one.__dict__


def _mark(one: Tensor, there: bool) -> None:
    if there:
        one.__dict__[_MARK] = True
    else:
        one.__dict__.pop(_MARK, None)


def _mark_all(values: Iterable[Any], there: bool) -> None:
    for one in tree_leaves(list(values)):
        if isinstance(one, Tensor):
            _mark(one, there)


def _kind(value: Any) -> str | None:
    """The type of device that a value names; ``None`` if it is no device."""
    if isinstance(value, torch.device):
        return value.type
    if isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"):
        return value.split(":")[0]
    return None


def _without_device(args: Any, kwargs: dict[str, Any]) -> tuple[str | None, Any, dict[str, Any]]:
    if "device" not in kwargs:
        return None, args, kwargs
    wanted = _kind(kwargs["device"])
    return wanted, args, ({**kwargs, "device": "cpu"} if wanted == "cuda" else kwargs)


def _moved(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    self, *rest = args
    wanted: str | None = {"cuda": "cuda", "cpu": "cpu"}.get(name)
    given: list[Any] = []
    for one in rest if name == "to" else ():
        if isinstance(one, Tensor):
            wanted = "cuda" if _there(one) else "cpu"
            given += ["cpu", one.dtype]
        elif (kind := _kind(one)) is not None:
            wanted = kind
            given.append("cpu")
        else:
            given.append(one)
    named = kwargs if name == "to" else {}
    if "device" in named:
        wanted = _kind(named["device"]) or wanted
        named = {**named, "device": None if named["device"] is None else "cpu"}
    there = _there(self) if wanted is None else wanted == "cuda"
    found = Tensor.to(self, *given, **named) if given or named else self
    if found is self and there != _there(self):
        found = self.clone() if torch.is_grad_enabled() else self.detach().clone()  # another tensor, of the same graph
    _mark(found, there)
    return found


def _parameter(kind: Any, data: Any = None, requires_grad: bool = True) -> Any:
    found = _NEW_PARAMETER(kind, data, requires_grad)
    _mark(found, _there(data))
    return found


_NEW_PARAMETER = nn.Parameter.__new__


@contextmanager
def pretending() -> Generator[None, None, None]:
    """Within the block CUDA is pretended: what is moved there says that it is there."""
    with ExitStack() as stack:
        stack.enter_context(patch("torch.cuda.synchronize"))
        stack.enter_context(patch("torch.cuda.reset_peak_memory_stats"))
        stack.enter_context(patch("torch.cuda.max_memory_allocated", return_value=0))
        stack.enter_context(patch.object(nn.Parameter, "__new__", _parameter))
        stack.enter_context(_Pretending())
        yield
