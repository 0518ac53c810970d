"""All that a training under way needs to go on, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim, tensor

from vlmend.errors import RunError
from vlmend.runs import whole

__all__ = ["Checkpoint"]

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training after some steps.

    Attributes:
        step: how many were taken.
        weights: the module's parameters.
        moments: Adam's, by ``<moment>/<parameter>``; empty before the first step.
        best: the parameters at the best check.
        records: one for every check, in their order.
    """

    step: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    records: tuple[Mapping[str, Any], ...]

    @property
    def best_record(self) -> Mapping[str, Any]:
        """The best check: the highest score, then the lowest loss, then the earliest."""
        return max(self.records, key=lambda record: (record["score"], -record["held out loss"], -record["step"]))

    @classmethod
    def begun(cls, module: nn.Module) -> Checkpoint:
        """A training before its first step."""
        return cls(0, _copied(module), {}, {}, ())

    def moved(self, step: int, module: nn.Module, optimizer: optim.Adam) -> Checkpoint:
        """The same training after more steps."""
        moments = {
            f"{moment}/{name}": optimizer.state[parameter][moment].clone()
            for name, parameter in module.named_parameters()
            for moment in _MOMENTS
            if parameter in optimizer.state
        }
        return replace(self, step=step, weights=_copied(module), moments=moments)

    def recorded(self, record: Mapping[str, Any], module: nn.Module) -> Checkpoint:
        """With one more check, whose weights are the best if it is."""
        made = replace(self, records=(*self.records, record))
        return replace(made, best=_copied(module)) if made.best_record is record else made

    def restore(self, module: nn.Module, optimizer: optim.Adam) -> None:
        """Put module and optimizer in this state."""
        module.load_state_dict(dict(self.weights))
        for name, parameter in module.named_parameters():
            if f"{_MOMENTS[0]}/{name}" in self.moments:
                moments = {moment: self.moments[f"{moment}/{name}"].clone() for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": tensor(float(self.step)), **moments}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            WriteError: it cannot be written.
        """
        groups = {"weights": self.weights, "moments": self.moments, "best": self.best}
        tensors = {f"{group}/{name}": value for group, some in groups.items() for name, value in some.items()}
        about = {"about": json.dumps({"step": self.step, "records": self.records})}
        with whole(path) as part:
            save_file(tensors, part, about)

    @classmethod
    def found(cls, path: Path) -> Checkpoint | None:
        """Read it; ``None`` if there is none.

        Raises:
            RunError: it is damaged.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                about: Any = json.loads(file.metadata()["about"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            groups = {
                group: {n.removeprefix(f"{group}/"): t for n, t in tensors.items() if n.startswith(f"{group}/")}
                for group in ("weights", "moments", "best")
            }
            return cls(about["step"], **groups, records=tuple(about["records"]))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged: {error}") from error


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
