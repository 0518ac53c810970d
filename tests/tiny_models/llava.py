"""Llava and its descendants that cut a picture into tiles."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tiny_models.base import chat, look, text, tokenizer, vision, without_video


def llava() -> tuple[Any, Any]:
    tokens = tokenizer({"image_token": "<image>"})
    config = transformers.LlavaConfig(
        vision_config=vision("siglip_vision_model", vision_use_head=False),
        text_config=text(len(tokens), model_type="llama"),
        image_token_index=tokens.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=16,
    )
    pictures = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.LlavaProcessor(
        pictures,
        tokens,
        patch_size=8,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=chat("<image>"),
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    tokens = tokenizer({"image_token": "<image>"})
    grids = [[32, 64], [64, 32]]
    config = transformers.LlavaNextConfig(
        vision_config=vision("clip_vision_model", projection_dim=32),
        text_config=text(len(tokens), model_type="llama"),
        image_token_index=tokens.image_token_id,
        image_grid_pinpoints=grids,
        image_seq_length=16,
    )
    pictures = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grids
    )
    processor = transformers.LlavaNextProcessor(
        pictures,
        tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat("<image>"),
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    tokens = tokenizer({"image_token": "<image>", "video_token": "<video>"})
    grids = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision("siglip_vision_model", vision_use_head=False),
        text_config=text(len(tokens), model_type="qwen2"),
        image_token_index=tokens.image_token_id,
        video_token_index=tokens.video_token_id,
        image_grid_pinpoints=grids,
    )
    pictures = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 32, "width": 32}, image_grid_pinpoints=grids
    )
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=pictures,
        tokenizer=tokens,
        video_processor=without_video(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat("<image>"),
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.image_newline, std=0.1)
    return model, processor


def internvl() -> tuple[Any, Any]:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokens = tokenizer(named)
    config = transformers.InternVLConfig(
        vision_config=look(image_size=[32, 32], patch_size=[8, 8]),
        text_config=text(len(tokens), model_type="qwen2"),
        image_token_id=tokens.context_image_token_id,
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    pictures = transformers.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    processor = transformers.InternVLProcessor(
        image_processor=pictures,
        tokenizer=tokens,
        video_processor=without_video(),
        image_seq_length=4,
        chat_template=chat("<IMG_CONTEXT>"),
    )
    return transformers.InternVLForConditionalGeneration(config), processor
