"""Which of transformers' image-text-to-text families this package can work on, tried without any weights.

Every registered family is built on the meta device, where tensors have shapes but no values, from its default config
with fewer decoder layers. Its parts are looked for, a way to give it encoded pictures, and its decoder is run on a few
tokens. What a checkpoint does beyond that is verified when it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from vlmend.errors import PartsError
from vlmend.models.feeding import feeder_of
from vlmend.models.hub import reason
from vlmend.models.parts import find_parts
from vlmend.models.verify import run_decoder

__all__ = ["Family", "State", "examine", "registered"]

State = Literal["verified", "resolved", "refused", "not built"]
"""Its parts were found and its decoder runs as they say; found, but it does not run on the meta device; it cannot be
worked on; its default config makes no model here, so that nothing is known."""

_LAYERS = 4
_IMAGE_TOKEN = 5  # where a default config leaves it to the checkpoint


@dataclass(frozen=True)
class Family:
    """What became of one family.

    Attributes:
        name: its ``model_type``.
        model: the class of its model.
        state: how far it came.
        reason: why no further; empty if it is verified.
        parts: part -> path, where they were found.
    """

    name: str
    model: str
    state: State
    reason: str = ""
    parts: dict[str, str] = field(default_factory=dict[str, str])


def registered() -> tuple[str, ...]:
    """Every image-text-to-text family of the installed transformers, in its order."""
    return tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def examine(name: str) -> Family:
    """Try one family out."""
    shown = str(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[name])
    try:
        model = _built(name)
    except Exception as error:  # a default config may be incomplete in any way
        return Family(name, shown, "not built", reason(error))
    try:
        parts = find_parts(model)
        feeder_of(model, parts)
    except PartsError as error:
        return Family(name, shown, "refused", reason(error).removeprefix(shown).lstrip(": "))
    except Exception as error:
        return Family(name, shown, "refused", f"looking for its parts failed: {reason(error)}")
    try:
        problems = run_decoder(parts)
    except Exception as error:
        problem = f"its decoder does not run on the meta device: {reason(error)}"
        return Family(name, shown, "resolved", problem, parts.paths)
    if problems:
        return Family(name, shown, "refused", problems[0], parts.paths)
    return Family(name, shown, "verified", "", parts.paths)


def _built(name: str) -> Any:
    """A model of a family on the meta device; with all of its layers where it cannot be made with fewer."""
    kind: Any = CONFIG_MAPPING[name]
    found: Any = AutoModelForImageTextToText._model_mapping[kind]  # pyright: ignore[reportPrivateUsage]
    model: Any = found[0] if isinstance(found, tuple) else found
    try:
        return _on_meta(model, _shrunk(_default(kind)))
    except Exception:
        return _on_meta(model, _default(kind))


def _on_meta(model: Any, config: Any) -> Any:
    with torch.device("meta"):
        return model(config).to(torch.bfloat16).eval()  # experts' kernels know no other type


def _default(kind: Any) -> Any:
    """The default config, with what it leaves to the checkpoint: a vision encoder, the image token."""
    config = kind()
    vision = kind.sub_configs.get("vision_config")
    if getattr(config, "vision_config", 0) is None and vision not in (None, AutoConfig):
        config = kind(vision_config=vision())
    if getattr(config, "image_token_id", 0) is None:
        config.image_token_id = _IMAGE_TOKEN
    return config


def _shrunk(config: Any) -> Any:
    """With few decoder layers, and what is said for each layer (kinds, windows) cut to as many."""
    text = config.get_text_config()
    count = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == count:
            setattr(text, name, value[:_LAYERS])
    text.num_hidden_layers = min(count, _LAYERS)
    return config
