"""What makes an attribution, and the registry of methods. A new method is one file here and one line in `METHODS`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from vlmend.attribution.result import Attribution, Label
from vlmend.attribution.target import OWN, Clean, Measure, Target, asked, described
from vlmend.data.records import EditCase, Example
from vlmend.errors import UnknownNameError
from vlmend.models.prepared import Asked
from vlmend.models.vlm import VLM

__all__ = ["METHODS", "Attributor", "attribute", "attributor", "made"]

METHODS = {
    "contributions": "vlmend.attribution.contributions:Contributions",
    "decomposition": "vlmend.attribution.decomposition:Decomposition",
    "integrated-gradients": "vlmend.attribution.integrated_gradients:IntegratedGradients",
    "knockout": "vlmend.attribution.knockout:Knockout",
    "logit-lens": "vlmend.attribution.logit_lens:LogitLens",
    "patching": "vlmend.attribution.patching:Patching",
    "perturbation": "vlmend.attribution.perturbation:Perturbation",
    "raw-attention": "vlmend.attribution.raw_attention:RawAttention",
}
"""Name -> where its class is; loaded when it is asked for."""


@runtime_checkable
class Attributor(Protocol):
    """Makes attributions. A method's hyper-parameters are the fields of its frozen dataclass."""

    name: ClassVar[str]

    def attribute(self, vlm: VLM, example: Example, target: Target = OWN) -> Attribution:
        """Trace an answer back; the model is left bit for bit as it was.

        Raises:
            AttributionError: the method cannot say anything about this model, example or target.
        """
        ...


def attributor(name: str, **settings: Any) -> Attributor:
    """A registered method with the given hyper-parameters; the others keep their defaults.

    Raises:
        UnknownNameError: no method of that name, or it has no such hyper-parameter.
    """
    if name not in METHODS:
        raise UnknownNameError("attribution method", name, METHODS)
    module, attribute = METHODS[name].split(":")
    kind: Any = getattr(importlib.import_module(module), attribute)
    known = [one.name for one in dataclasses.fields(kind)]
    for setting in settings:
        if setting not in known:
            raise UnknownNameError(f"hyper-parameter of attribution method '{name}'", setting, known)
    return kind(**settings)


def attribute(
    vlm: VLM,
    example: Asked | EditCase,
    method: str | Attributor = "decomposition",
    target: Target = OWN,
    **settings: Any,
) -> Attribution:
    """Why the model answers as it does, with the edits in force.

    Args:
        vlm: a loaded model.
        example: a question with or without pictures; of an edit case its request is taken.
        method: name of a method, or one ready made.
        target: what to ask after; the model's own next token if it is left out. The example's own answer is not looked
            at.
        settings: the method's hyper-parameters, if it is given by name.

    Raises:
        UnknownNameError: no method of that name, or it has no such hyper-parameter.
        AttributionError: the method cannot say anything about this model, example or target.
        PromptError: the example cannot be turned into this model's input.
    """
    chosen = attributor(method, **settings) if isinstance(method, str) else method
    return chosen.attribute(vlm, asked(example), target)


def made(
    by: Attributor,
    vlm: VLM,
    cleans: Sequence[Clean],
    target: Target,
    of: Measure,
    scores: Tensor,
    axes: dict[str, tuple[Label, ...]],
    **more: Any,
) -> Attribution:
    """The attribution that a method made of some runs."""
    settings: Any = dataclasses.asdict(by)  # pyright: ignore[reportArgumentType]
    row = cleans[0].strand.row
    return Attribution(
        method=by.name,
        settings={name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
        scores=scores.detach().float().cpu(),
        axes=axes,
        target={**dataclasses.asdict(target), **described(vlm, cleans, of)},
        model=vlm.name,
        question=row.question,
        edits=vlm.active_edits,
        sizes=row.sizes,
        **more,
    )
