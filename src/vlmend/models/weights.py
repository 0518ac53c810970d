"""A model's weights, kept equal to the base folded with the active edits.

One pristine copy is kept of every touched tensor, and every change of the set of active edits folds that copy anew;
with no edit left it is copied back. (Adding a delta and subtracting it again would be off by 1e-7.) So any order of
apply and undo ends bit-exact.

Operations on weights are known as a protocol, and no method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vlmend.errors import EditError
from vlmend.models.parts import Parts
from vlmend.models.tensors import disk_names

__all__ = ["Folded", "Weights", "WeightsOperation", "shared_change"]

_NOWHERE = 1 << 30


@runtime_checkable
class WeightsOperation(Protocol):
    """An operation that changes weights, by the tensors' names on disk.

    One may have a name as ``shared``: operations of equal names are the same, and in force once, however many edits
    hold them.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors it changes."""
        ...

    def fold(self, name: str, base: Tensor) -> Tensor:
        """The new value of one tensor, of the shape and type of ``base`` (float32 or wider), which stays as it is."""
        ...


class Folded:
    """A handle on operations in force; ``undo`` takes them back, in any order with others, once."""

    def __init__(self, weights: Weights, operations: tuple[WeightsOperation, ...]) -> None:
        self._weights = weights
        self.operations = operations

    def undo(self) -> None:
        """Take the operations back; a second call does nothing."""
        self._weights.remove(self)

    def redo(self) -> None:
        """Put operations that were taken back in force again, after those that are."""
        self._weights.put(self)


class Weights:
    """The weights of one model, by on-disk name."""

    def __init__(self, model: nn.Module, parts: Parts) -> None:
        self._memory = disk_names(model)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self._stages: dict[int, int] = {}
        for path, parameter in parameters.items():  # a tied tensor stands where it is used first
            self._stages[id(parameter)] = min(parts.stage_of(path), self._stages.get(id(parameter), _NOWHERE))
        self._uses = Counter(map(id, parameters.values()))
        self._all = list({id(parameter): parameter for parameter in parameters.values()}.values())
        self._parameters = {disk: parameters[name] for disk, name in self._memory.items()}
        self._disk = {name: disk for disk, name in self._memory.items()}
        self._pristine: dict[int, Tensor] = {}
        self._restored: dict[int, tuple[int, int]] = {}  # version after it was restored -> the state it is again
        self._before: dict[int, int] = {}  # states of edited parameters before the first edit
        self._wide: dict[int, Tensor] = {}  # values of parameters that edits lie on each other in, before rounding
        self._active: list[Folded] = []
        self._earlier: dict[int, list[nn.Parameter]] = {}  # those used before a stage

    def base(self) -> Iterable[tuple[str, Tensor]]:
        """Every tensor's name on disk and its value without any edit."""
        for name, parameter in self._parameters.items():
            yield name, self._pristine.get(id(parameter), parameter)

    def named(self, modules: Mapping[str, nn.Module], *, matrices_only: bool = False) -> dict[str, nn.Parameter]:
        """On-disk name -> parameter, each once, for the parameters of the modules (given by their paths in memory).

        Raises:
            EditError: a parameter is not one tensor on disk.
        """
        found: dict[str, nn.Parameter] = {}
        taken: set[int] = set()
        for path, module in modules.items():
            for name, parameter in module.named_parameters(prefix=path):
                if matrices_only and parameter.dim() < 2:
                    continue
                if name not in self._disk:
                    raise EditError(f"'{name}' is stored on disk in another form and cannot be edited by name")
                if id(parameter) not in taken:
                    taken.add(id(parameter))
                    found[self._disk[name]] = parameter
        return found

    def add(self, operations: Sequence[WeightsOperation]) -> Folded:
        """Put operations in force, after those that are already.

        Raises:
            EditError: a tensor that the model does not have, or a value of another shape; nothing is changed then.
        """
        for operation in operations:
            self.check(operation)
        handle = Folded(self, tuple(operations))
        self.put(handle)
        return handle

    def put(self, handle: Folded) -> None:
        """Put the operations of a handle in force, after those that are already."""
        self._active.append(handle)
        try:
            self._refold(handle)
        except BaseException:
            self._active.remove(handle)
            self._refold(handle)
            raise

    def check(self, operation: WeightsOperation) -> None:
        """Refuse what names a tensor that the model does not have.

        Raises:
            EditError: names the tensor.
        """
        unknown = [name for name in operation.names if name not in self._parameters]
        if unknown:
            raise EditError(f"the model has no tensor '{unknown[0]}'")

    def remove(self, handle: Folded) -> None:
        """Take operations back."""
        if handle in self._active:
            self._active.remove(handle)
            self._refold(handle)

    def _refold(self, changed: Folded) -> None:
        """Fold the tensors that ``changed`` touches; computes all values before it writes the first.

        What was added last is folded onto what all others have made, which gives the same numbers as all anew.
        """
        added = bool(self._active) and self._active[-1] is changed
        touched = {name for operation in changed.operations for name in operation.names}
        parameters = {id(self._parameters[name]): self._parameters[name] for name in touched}
        with torch.no_grad():
            values = {key: self._folded(key, parameter, added) for key, parameter in parameters.items()}
            for key, parameter in parameters.items():
                value = values[key]
                self._wide.pop(key, None)
                if value is None:
                    if key in self._pristine:
                        self._restore(parameter, self._pristine.pop(key), self._before.pop(key))
                    continue
                if key not in self._pristine:
                    self._pristine[key] = parameter.detach().clone()
                    self._before[key] = self._state(parameter)
                elif added and value.dtype != parameter.dtype:
                    self._wide[key] = value
                parameter.copy_(value)

    def _folded(self, key: int, parameter: nn.Parameter, added: bool) -> Tensor | None:
        """The base value of one parameter with all active operations; ``None`` where none touches it. Whether the last
        of them was ``added`` to what the others have made."""
        names = [name for name, known in self._parameters.items() if known is parameter]
        value = self._made(key, parameter) if added else None
        earlier = self._active[:-1] if value is not None else []
        done = {shared for one in earlier for op in one.operations if (shared := shared_change(op)) is not None}
        for handle in self._active[len(earlier) :]:
            for operation in _each_once(handle.operations, done):
                for name in (name for name in operation.names if name in names):
                    before = _widened(self._pristine.get(key, parameter.detach())) if value is None else value
                    value = operation.fold(name, before)
                    if value.shape != parameter.shape:
                        shapes = f"{tuple(value.shape)}, not {tuple(parameter.shape)}"
                        raise EditError(f"the edit's value of '{name}' has shape {shapes}")
        return value

    def _made(self, key: int, parameter: nn.Parameter) -> Tensor | None:
        """An edited parameter's value before it was rounded, where that is known."""
        if key in self._pristine and _widened(parameter) is parameter:
            return parameter.detach()
        return self._wide.get(key)

    def linears(self, modules: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
        """On-disk name of its weight -> linear layer, for all within the modules (given by their paths in memory).

        Raises:
            EditError: a weight is not one tensor on disk, or is another module's too, or there is no linear layer.
        """
        found: dict[str, nn.Linear] = {}
        for path, module in modules.items():
            inside = {name: one for name, one in module.named_modules(prefix=path) if isinstance(one, nn.Linear)}
            for name, linear in inside.items():
                if self._uses[id(linear.weight)] > 1:
                    raise EditError(
                        f"the weight of '{name}' is another module's too, so that a change beside this layer would not "
                        "be the weight's; `ft` can change it"
                    )
                found |= dict.fromkeys(self.named({name: linear}, matrices_only=True), linear)
        if not found:
            raise EditError(f"there is no linear layer in {', '.join(modules)}")
        return found

    def stage(self, names: Iterable[str]) -> int:
        """The first stage (`Parts.stage_of`) at which one of the tensors is used; a large number for none."""
        return min((self._stages[id(self._parameters[name])] for name in names), default=_NOWHERE)

    def state_before(self, stage: int) -> int:
        """A number that tells whether what is used before a stage is what it was.

        Any change, by whomever, makes another of it; once an edit is taken back, or a fit is over, it is the former
        again.
        """
        if stage not in self._earlier:
            self._earlier[stage] = [one for one in self._all if self._stages[id(one)] < stage]
        return hash(tuple(map(self._state, self._earlier[stage])))

    def _state(self, parameter: nn.Parameter) -> int:
        # Every change in place raises a tensor's version, which never comes back by itself.
        restored, state = self._restored.get(id(parameter), (-1, -1))
        return state if parameter._version == restored else parameter._version

    def _restore(self, parameter: nn.Parameter, value: Tensor, state: int) -> None:
        """Write a value back, and know the parameter to be in the state that it had with it."""
        parameter.copy_(value)
        self._restored[id(parameter)] = (parameter._version, state)

    @contextmanager
    def folded(self, operations: Sequence[WeightsOperation]) -> Generator[None, None, None]:
        """Within the block the operations are in force too."""
        handle = self.add(operations)
        try:
            yield
        finally:
            handle.undo()

    @contextmanager
    def borrowed(self, names: Iterable[str]) -> Generator[dict[str, nn.Parameter], None, None]:
        """Parameters to be trained in place; afterwards they are bit for bit what they were, whatever happened."""
        parameters = {name: self._parameters[name] for name in names}
        saved = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        states = {name: self._state(parameter) for name, parameter in parameters.items()}
        flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(True)
            yield parameters
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    self._restore(parameter, saved[name], states[name])
                    parameter.requires_grad_(flags[name])
                    parameter.grad = None

    def __contains__(self, name: Any) -> bool:
        return name in self._parameters


def _each_once(operations: Iterable[WeightsOperation], done: set[str]) -> Iterable[WeightsOperation]:
    """The operations without those whose change several edits share (`WeightsOperation`) and that is done already."""
    for operation in operations:
        shared = shared_change(operation)
        if shared is None:
            yield operation
        elif shared not in done:
            done.add(shared)
            yield operation


def shared_change(operation: WeightsOperation) -> str | None:
    """The name of a change that all edits which hold it make once, together; most have none."""
    return getattr(operation, "shared", None)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
