"""What is trained of a model: low-rank changes of its linear layers, or weights themselves.

Either is in force for as long as it is trained, on the way back too, is left out while the reference runs, and becomes
an operation at the end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vlmend.alignment.sharded import whole_tensor
from vlmend.edits.ops import Op, WeightOp
from vlmend.errors import VlmendError
from vlmend.models.parts import LayerSpec
from vlmend.models.trace import added, called_through
from vlmend.models.vlm import VLM

__all__ = ["Adapter", "FullAdapter", "LoRAAdapter", "Trained"]


class Trained(nn.Module, ABC):
    """The tensors that are trained of one model, its parameters."""

    @abstractmethod
    def left_out(self) -> AbstractContextManager[None]:
        """Within the block the model runs without them.

        Raises:
            VlmendError: it cannot.
        """

    @abstractmethod
    def op(self) -> Op:
        """What they do to the model; of several processes that hold pieces of them, all must ask at once."""


@dataclass(frozen=True)
class LoRAAdapter:
    """Low-rank changes (arXiv 2106.09685): alpha/r B A beside every linear layer of some modules, B zero at first and A
    drawn uniformly from within 1 / sqrt(in), as peft draws it.

    Attributes:
        layers: which decoder layers.
        modules: which modules in them, by role; "connector" and "vision" stand outside of them and are left as they
            are unless named.
        rank: r.
        alpha: the change is scaled by alpha / r.
        dropout: share of a layer's inputs that its change does not see in training.
        seed: of the draw of A.

    Raises:
        VlmendError: a setting is out of its range.
    """

    layers: LayerSpec = "all"
    modules: tuple[str, ...] = ("attn", "mlp")
    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise VlmendError(f"rank is at least 1, not {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise VlmendError(f"alpha is a number above 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise VlmendError(f"dropout is at least 0 and below 1, not {self.dropout}")

    @contextmanager
    def trained(self, vlm: VLM) -> Generator[Trained]:
        """In force in the block, to be trained; behind it the model is bit for bit what it was.

        Raises:
            PartsError: the model has no such layers or modules.
        """
        linears = vlm.weights.linears(vlm.parts.modules(self.layers, self.modules))
        trained = _Factors(linears, self)
        inside = {linear for linear in vlm.parts.decoder.modules() if isinstance(linear, nn.Linear)}
        with ExitStack() as stack:
            outside: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
            for place, linear in enumerate(linears.values()):
                change = trained.change(place)
                if linear in inside:  # no hook: rows with hooks are run whole, and this acts at every token alike
                    stack.enter_context(called_through(linear, _adding(change)))
                else:
                    outside[linear] = change
            stack.enter_context(added(outside))
            yield trained


class _Factors(Trained):
    def __init__(self, linears: dict[str, nn.Linear], settings: LoRAAdapter) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(settings.seed)
        self._names = list(linears)
        self._types = [linear.weight.dtype for linear in linears.values()]
        self._scale = settings.alpha / settings.rank
        self._dropout = settings.dropout
        self._out = False
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        for linear in linears.values():
            bound, place = linear.in_features**-0.5, linear.weight.device
            drawn = torch.empty(settings.rank, linear.in_features).uniform_(-bound, bound, generator=draw)
            self.a.append(nn.Parameter(drawn.to(place)))
            self.b.append(nn.Parameter(torch.zeros(linear.out_features, settings.rank, device=place)))

    @contextmanager
    def left_out(self) -> Generator[None]:
        self._out = True
        try:
            yield
        finally:
            self._out = False

    def change(self, place: int) -> Callable[[Tensor], Tensor]:
        """What is added to the output of one of the layers, out of its input."""

        def change(x: Tensor) -> Tensor:
            if self._out:
                return x.new_zeros(())
            a, b = self.a[place], self.b[place]  # not before: where they are in pieces, they are other tensors by now
            seen = functional.dropout(x, self._dropout, training=self.training) if self._dropout else x
            return (functional.linear(functional.linear(seen.to(a.dtype), a), b) * self._scale).to(x.dtype)

        return change

    def op(self) -> Op:
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, dtype, a, b in zip(self._names, self._types, self.a, self.b, strict=True):
            a, b = (whole_tensor(one.detach()).to(dtype) for one in (a, b))
            factors[name] = (b * self._scale, a)
        return WeightOp.low_rank(factors)


def _adding(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def add(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        output = forward(x)
        return output + change(x).to(output.dtype)  # under autocast that is not the type of x

    return add


@dataclass(frozen=True)
class FullAdapter:
    """The weights of some modules themselves; what they were is the reference, which must be asked beforehand.

    Attributes:
        layers: which decoder layers.
        modules: which modules in them, by role, "connector", "vision", "head", "norm" or paths.
    """

    layers: LayerSpec = "all"
    modules: tuple[str, ...] = ("attn", "mlp")

    @contextmanager
    def trained(self, vlm: VLM) -> Generator[Trained]:
        """In force in the block, to be trained; behind it the model is bit for bit what it was.

        Raises:
            PartsError: the model has no such layers or modules.
            EditError: a weight is not one tensor on disk.
        """
        names = vlm.weights.named(vlm.parts.modules(self.layers, self.modules))
        with vlm.weights.borrowed(names) as parameters:
            yield _Weights(parameters)


class _Weights(Trained):
    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = list(parameters)
        self.weights = nn.ParameterList(parameters.values())
        self._before = [parameter.detach().clone() for parameter in parameters.values()]

    def left_out(self) -> AbstractContextManager[None]:
        raise VlmendError("what the weights were is gone once they are trained: the reference must be asked before")

    def op(self) -> Op:
        wide = torch.float32
        return WeightOp.deltas(
            {
                name: (parameter.detach().to(wide) - before.to(wide)).to(parameter.dtype)
                for name, parameter, before in zip(self._names, self.weights, self._before, strict=True)
            }
        )


Adapter = LoRAAdapter | FullAdapter
"""What is trained, and where. Each has ``trained(vlm)``: a context that gives its tensors."""
