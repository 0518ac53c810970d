"""PaliGemma and Gemma 3: pictures are read in both directions."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tiny_models.base import WIDTH, chat, text, tokenizer, vision


def paligemma() -> tuple[Any, Any]:
    """No chat template; the processor adds a thousand tokens for places in a picture."""
    tokens = tokenizer({"image_token": "<image>"})
    pictures = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(pictures, tokens)
    config = transformers.PaliGemmaConfig(
        vision_config=vision("siglip_vision_model", vision_use_head=False),
        text_config=text(len(tokens), model_type="gemma", head_dim=16),
        image_token_index=tokens.image_token_id,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
    )
    return transformers.PaliGemmaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    """Sandwich norms, sliding windows, and a projection that starts at zero: without a start a picture is not seen."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokens = tokenizer(named)
    config = transformers.Gemma3Config(
        vision_config=vision("siglip_vision_model", vision_use_head=False),
        text_config=text(
            len(tokens), head_dim=16, sliding_window=16, sliding_window_pattern=2, query_pre_attn_scalar=16
        ),
        mm_tokens_per_image=4,
        boi_token_index=tokens.boi_token_id,
        eoi_token_index=tokens.eoi_token_id,
        image_token_index=tokens.image_token_id,
    )
    pictures = transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.Gemma3Processor(
        pictures, tokens, image_seq_length=4, chat_template=chat("<start_of_image>")
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return model, processor
