"""Checks, when a model is loaded, that its parts were found right: one picture and one question are run."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmend.errors import PartsError
from vlmend.models.trace import capture
from vlmend.models.vlm import VLM, Question

__all__ = ["sample", "verify"]

_TOLERANCE = 1e-2


def sample() -> Question:
    """A picture of two slopes, with a question and an answer."""
    slopes = Image.merge(
        "RGB", [Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90), Image.new("L", (256, 256), 128)]
    )
    return Question("What is this?", slopes, "a test")


def verify(vlm: VLM) -> None:
    """Run a sample and compare what the parts do with what they should.

    Raises:
        PartsError: names the part and what was expected of it.
    """
    parts, name = vlm.parts, type(vlm.model).__name__
    watched = {f"layer {index}": layer for index, layer in enumerate(parts.layers)}
    watched |= {"vision": parts.vision, "connector": parts.connector, "norm": parts.norm, "head": parts.head}
    prepared = vlm.prepare([sample()])
    with capture(watched) as calls:
        try:
            output = vlm.run(prepared).rows[0]
        except Exception as error:
            raise PartsError(f"{name} could not be run on a sample: {error}") from error

    def check(holds: bool, problem: str) -> None:
        if not holds:
            raise PartsError(f"{name}: {problem}")

    fired = [call.name for call in calls]
    for part in ("vision", "connector", "norm", "head"):
        check(part in fired, f"its {part} ({parts.paths[part]}) was not used for a picture and a question")
    layers = [call for call in calls if call.name.startswith("layer ")]
    names = [call.name for call in layers]
    check(names == [f"layer {index}" for index in range(len(parts.layers))], f"its layers ran as {names}")
    for call in layers:
        check(
            isinstance(call.output, Tensor) and call.output.dim() == 3,
            f"{call.name} does not return [batch, token, width]",
        )
    normed = next(call for call in reversed(calls) if call.name == "norm")
    check(
        normed.input is not None and torch.equal(normed.input, layers[-1].output),
        "its norm does not follow its last layer",
    )
    if not _caps_logits(vlm.model.config):
        with torch.no_grad():
            logits_V = parts.head(normed.output[0, -2]).float()
        scale = float(logits_V.abs().max().clamp(min=1e-6))
        error = float((logits_V - output.logits_NV[-1]).abs().max())
        check(error <= _TOLERANCE * scale, "its head does not make its logits out of its norm's output")


def _caps_logits(config: Any) -> bool:
    return getattr(config.get_text_config(), "final_logit_softcapping", None) is not None
