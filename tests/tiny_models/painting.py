"""Tiny models beside the one that is asked: one paints, one scores pictures by texts, one chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    PhiConfig,
    PhiForCausalLM,
)

from tiny_models.base import tokenizer

__all__ = ["TEXT", "save_chat", "save_clip", "save_pipeline"]

TEXT: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_pipeline(folder: Path) -> str:
    """A Stable Diffusion of a few thousand weights, saved as diffusers saves them; without diffusers it is skipped."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    words = tokenizer()
    words.model_max_length = 32
    made = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        ),
        unet=diffusers.UNet2DConditionModel(
            sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(words), max_position_embeddings=32, **TEXT)),
        tokenizer=words,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder, safe_serialization=True)
    return str(folder)


def save_clip(folder: Path) -> str:
    """A CLIP."""
    torch.manual_seed(0)
    words = tokenizer()
    config = CLIPConfig(
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "max_position_embeddings": 32,
            "eos_token_id": words.eos_token_id,
        },
        vision_config={**TEXT, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    words.model_max_length = 32
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}), words
    )
    processor.save_pretrained(folder)
    return str(folder)


def save_chat(folder: Path) -> str:
    """A Phi that says some words, drawn alike, and ends after a few."""
    torch.manual_seed(0)
    words = tokenizer()
    config = PhiConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    model = PhiForCausalLM(config)
    said = [words(f" {word}")["input_ids"] for word in ("what", "colour", "is", "cup", "red", "there")]
    bias_V = torch.full_like(model.lm_head.bias, -100.0)
    bias_V[[*(token for tokens in said for token in tokens), words.eos_token_id]] = 0.0
    model.lm_head.bias.data.copy_(bias_V)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
