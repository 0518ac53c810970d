"""Mllama: pictures enter by cross-attention layers, and have no tokens of their own."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tiny_models.base import chat, text, tokenizer


def mllama() -> tuple[Any, Any]:
    tokens = tokenizer({"image_token": "<|image|>"}, ("<|python_tag|>",))
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_global_layers": 1,
            "attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "vision_output_dim": 32 * 3,
            "intermediate_layers_indices": [0, 1],
            "max_num_tiles": 4,
        },
        text_config=text(
            len(tokens) - 1,  # the picture's token cannot be said
            cross_attention_layers=[1, 3],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        image_token_index=tokens.image_token_id,
    )
    pictures = transformers.MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4)
    processor = transformers.MllamaProcessor(pictures, tokens, chat_template=chat("<|image|>"))
    model = transformers.MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return model, processor
