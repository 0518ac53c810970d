"""The only place that registers hooks on a model. Whatever happens inside a block, exactly the hooks that were there
before it remain after it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = [
    "Call",
    "added",
    "added_to",
    "altered",
    "bridged",
    "called_through",
    "capture",
    "first_tensor",
    "hooked",
    "reaching",
    "rewritten",
    "short_circuited",
    "told",
    "watched",
    "with_first",
]


class Call:
    """One call of a watched module.

    ``args`` and ``kwargs`` are its arguments, ``input`` the first tensor among them, ``output`` what it returned, all
    as they are (not copied, not detached).
    """

    __slots__ = ("args", "input", "kwargs", "name", "output")

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        source = first_tensor(args)
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.input = first_tensor(kwargs) if source is None else source
        self.output = output


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor in a module's arguments or results."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, Mapping):
        values = values.values()
    return next((value for value in values if isinstance(value, Tensor)), None)


def hooked(owner: Any) -> bool:
    """Whether somebody watches or changes what the modules inside are given or return."""
    return any(map(watched, owner.modules()))


def watched(module: Any) -> bool:
    """Whether somebody watches or changes what this module itself is given or returns."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def with_first(values: Any, tensor: Tensor) -> Any:
    """A module's arguments or results with another first tensor (see `first_tensor`); the others are as they were."""
    if isinstance(values, Tensor):
        return tensor
    if isinstance(values, Mapping):
        key = next(name for name, value in values.items() if isinstance(value, Tensor))
        kind: Any = type(values)
        return kind(**{**values, key: tensor})
    index = next(index for index, value in enumerate(values) if isinstance(value, Tensor))
    return (*values[:index], tensor, *values[index + 1 :])


@contextmanager
def capture(modules: Mapping[str, nn.Module]) -> Generator[list[Call], None, None]:
    """Record every call of the named modules, in the order in which they return."""
    calls: list[Call] = []

    def recorder(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append(Call(name, args, kwargs, output))

        return record

    handles: list[Any] = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(recorder(name), with_kwargs=True, prepend=True))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def altered(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[None, None, None]:
    """Within the block the module gets ``change(x)`` in place of the first tensor ``x`` among its arguments."""

    def alter(_: nn.Module, args: Any, kwargs: Any) -> Any:
        x = first_tensor(args)
        if x is not None:
            return with_first(args, change(x)), kwargs
        x = first_tensor(kwargs)
        assert x is not None
        return args, with_first(kwargs, change(x))

    handle = module.register_forward_pre_hook(alter, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def told(changes: Mapping[nn.Module, Callable[[dict[str, Any]], dict[str, Any]]]) -> Generator[None, None, None]:
    """Within the block each module gets the keyword arguments that its function makes of those it is given."""

    def teller(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., Any]:
        return lambda _module, args, kwargs: (args, change(kwargs))

    handles: list[Any] = []
    try:
        for module, change in changes.items():
            handles.append(module.register_forward_pre_hook(teller(change), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def rewritten(changes: Mapping[nn.Module, Callable[[Tensor], Tensor | None]]) -> Generator[None, None, None]:
    """Within the block each module returns what its function makes of its output; ``None`` leaves it as it is.

    Of several things that a module returns it is the first tensor that changes.
    """

    def rewriter(change: Callable[[Tensor], Tensor | None]) -> Callable[..., Any]:
        def rewrite(_module: nn.Module, _args: Any, output: Any) -> Any:
            first = first_tensor(output)
            assert first is not None
            changed = change(first)
            return None if changed is None else with_first(output, changed)

        return rewrite

    handles: list[Any] = []
    try:
        for module, change in changes.items():
            handles.append(module.register_forward_hook(rewriter(change), prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def added(changes: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Generator[None, None, None]:
    """Within the block each module returns its output plus what its function makes of its input, in its own type."""

    handles: list[Any] = []
    try:
        for module, change in changes.items():
            handles.append(module.register_forward_hook(_Adder(change), prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Adder:
    """A hook of `added`."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self._change = change

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + self._change(args[0]).to(output.dtype)  # under autocast that is not the input's


def added_to(owner: Any) -> bool:
    """Whether something is `added` to what a module inside returns. (transformers leaves hooks of its own.)"""
    return any(isinstance(hook, _Adder) for module in owner.modules() for hook in module._forward_hooks.values())


@contextmanager
def bridged(changes: Mapping[tuple[nn.Module, nn.Module], Callable[[Tensor], Tensor]]) -> Generator[None, None, None]:
    """Within the block the second module of each pair returns its output plus what the function makes of the first
    module's input (see `first_tensor`). The two may be the same."""
    entered: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        x = first_tensor(args)
        x = first_tensor(kwargs) if x is None else x
        assert x is not None
        entered[module] = x

    def adder(first: nn.Module, change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def add(_module: nn.Module, _args: Any, output: Any) -> Any:
            made = first_tensor(output)
            assert made is not None
            return with_first(output, made + change(entered.pop(first)))

        return add

    handles: list[Any] = []
    try:
        for (first, last), change in changes.items():
            handles.append(first.register_forward_pre_hook(keep, with_kwargs=True))
            handles.append(last.register_forward_hook(adder(first, change), prepend=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def short_circuited(module: nn.Module, output: Any) -> Generator[None, None, None]:
    """Within the block the module computes nothing and returns ``output``; its hooks are called as ever."""
    own = module.__dict__.get("forward")  # an instance may have one, put there by others
    module.forward = lambda *_args, **_named: output
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def called_through(module: nn.Module, way: Callable[..., Any]) -> Generator[None, None, None]:
    """Within the block a call of the module is ``way(forward, *args, **kwargs)``, with its own ``forward``."""
    own = module.__dict__.get("forward")
    forward = module.forward
    module.forward = lambda *args, **named: way(forward, *args, **named)
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


class _Reached(Exception):
    """Not an error: a module was reached."""


@contextmanager
def reaching(module: nn.Module) -> Generator[list[tuple[tuple[Any, ...], dict[str, Any]]], None, None]:
    """The block ends when the module is called; its arguments, positional and by name, are then in the list."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((args, kwargs))
        raise _Reached

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield calls
    except _Reached:
        pass
    finally:
        handle.remove()
