"""Tiny random vision-language models of many families, built and saved without a network, to keep the code honest
about any of them. Each builder returns a model and its processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tiny_models.blip import blip2, blip2_llama, instructblip
from tiny_models.gemma import gemma3, paligemma
from tiny_models.idefics import idefics3, smolvlm
from tiny_models.llava import internvl, llava, llava_next, llava_onevision
from tiny_models.mllama import mllama
from tiny_models.qwen import glm4v, qwen2_5_vl, qwen2_vl, qwen3_vl

FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "glm4v": glm4v,
    "paligemma": paligemma,
    "gemma3": gemma3,
    "blip2": blip2,
    "blip2_llama": blip2_llama,
    "instructblip": instructblip,
    "mllama": mllama,
}


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Build a family's model with random weights and save it as a checkpoint folder."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[family]()
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
