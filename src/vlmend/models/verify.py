"""Checks, when a model is loaded, that its parts were found right: one picture and one question are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vlmend.errors import PartsError
from vlmend.models.outputs import Question
from vlmend.models.parts import Parts
from vlmend.models.trace import Call, capture
from vlmend.models.vlm import VLM

__all__ = ["disorder", "run_decoder", "sample", "verify"]

_TOLERANCE = 1e-2
_TOKENS = 8


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
    prepared = vlm.prepare([sample()])
    with capture(_watched(parts)) as calls:
        try:
            output = vlm.run(prepared).rows[0]
        except Exception as error:
            hint = "do its processor's settings fit its weights?"
            raise PartsError(f"'{vlm.name}' ({name}) could not be run on a sample; {hint} {error}") from error
    fired = {call.name for call in calls}
    problems = [
        f"its {part} ({parts.paths[part]}) was not used for a picture and a question"
        for part in ("vision", "qformer", "connector", "norm", "head")
        if part in parts.paths and part not in fired
    ]
    problems += disorder(calls, range(len(parts.layers)))
    if not problems and not _caps_logits(vlm.model.config):
        normed = next(call for call in reversed(calls) if call.name == "norm")
        with torch.no_grad():
            logits_V = parts.head(normed.output[0, -2]).float()
        scale = float(logits_V.abs().max().clamp(min=1e-6))
        error = float((logits_V - output.logits_NV[-1]).abs().max())
        if error > _TOLERANCE * scale:
            problems.append("its head does not make its logits out of its norm's output")
    if problems:
        raise PartsError(f"{name}: {problems[0]}")


def run_decoder(parts: Parts) -> list[str]:
    """What is wrong with the order in which a decoder runs on some tokens, in words; on the meta device too."""
    weight = next(parts.embed.parameters())
    embeds_BTD = weight.new_zeros((1, _TOKENS, weight.shape[-1]))
    # A ready mask is taken as it is: to make one, transformers looks at values, which the meta device does not have.
    # A decoder that does not know ready masks (OPT) makes its own without looking.
    ready = torch.ones((1, 1, _TOKENS, _TOKENS), dtype=torch.bool, device=weight.device)
    with capture(_watched(parts)) as calls, torch.no_grad():
        try:
            parts.decoder(inputs_embeds=embeds_BTD, attention_mask=ready, use_cache=False)
        except ValueError:
            calls.clear()
            parts.decoder(inputs_embeds=embeds_BTD, use_cache=False)
        problems = disorder(calls, [index for index in range(len(parts.layers)) if not parts.crosses(index)])
        if not problems:
            parts.head(calls[-1].output)
    return problems


def disorder(calls: Sequence[Call], expected: Sequence[int]) -> list[str]:
    """What is wrong with the order in which layers, all that are expected, and the final norm ran, in words."""
    layers = [call for call in calls if call.name.startswith("layer ")]
    names = [call.name for call in layers]
    if names != [f"layer {index}" for index in expected]:
        return [f"its layers ran as {names}"]
    shapeless = [call for call in layers if not isinstance(call.output, Tensor) or call.output.dim() != 3]
    if shapeless:
        return [f"{shapeless[0].name} does not return [batch, token, width]"]
    normed = [call for call in calls if call.name == "norm"]
    if not normed or normed[-1].input is None or not _same(normed[-1].input, layers[-1].output):
        return ["its norm does not follow its last layer"]
    return []


def _watched(parts: Parts) -> dict[str, nn.Module]:
    layers = {f"layer {index}": layer for index, layer in enumerate(parts.layers)}
    former = {} if parts.qformer is None else {"qformer": parts.qformer}
    outside = {"vision": parts.vision, **former, "connector": parts.connector}
    return {**layers, **outside, "norm": parts.norm, "head": parts.head}


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (not one.is_meta and torch.equal(one, other))


def _caps_logits(config: Any) -> bool:
    return getattr(config.get_text_config(), "final_logit_softcapping", None) is not None
