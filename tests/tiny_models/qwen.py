"""Qwen-VL of three generations and GLM-4V: pictures of any size, neighbouring patches merged, three-axis positions."""

from __future__ import annotations

from typing import Any

import transformers

from tiny_models.base import WIDTH, chat, text, tokenizer, without_video

SIZE = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}


def qwen(kind: str, words: dict[str, Any], eyes: dict[str, Any]) -> tuple[Any, Any]:
    """A model of one generation, by the prefix of its classes, and its processor."""
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    tokens = tokenizer(named)
    config = getattr(transformers, f"{kind}Config")(
        text_config=text(len(tokens), **words),
        vision_config={"num_heads": 4, "patch_size": 8, "initializer_range": 0.1} | eyes,
        **{f"{name}_id": tokens.convert_tokens_to_ids(token) for name, token in named.items()},
    )
    processor = getattr(transformers, f"{kind}Processor")(
        image_processor=transformers.Qwen2VLImageProcessorPil(patch_size=8, size=SIZE),
        tokenizer=tokens,
        video_processor=without_video(),
        chat_template=chat("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor


def rope(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)} | more


def qwen2_vl() -> tuple[Any, Any]:
    eyes = {"depth": 2, "embed_dim": 32, "hidden_size": WIDTH, "mlp_ratio": 2}
    return qwen("Qwen2VL", {"rope_parameters": rope(2, 2, 2)}, eyes)


def qwen2_5_vl() -> tuple[Any, Any]:
    eyes = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": WIDTH,
        "window_size": 32,
        "fullatt_block_indexes": [1],
    }
    return qwen("Qwen2_5_VL", {"rope_parameters": rope(2, 2, 2)}, eyes)


def qwen3_vl() -> tuple[Any, Any]:
    """With DeepStack: features of the vision encoder's inner layers are added after the first decoder layers."""
    eyes = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    return qwen("Qwen3VL", {"head_dim": 16, "rope_parameters": rope(2, 3, 3, mrope_interleaved=True)}, eyes)


def glm4v() -> tuple[Any, Any]:
    sides = [f"<|{side}_of_{what}|>" for what in ("image", "video") for side in ("begin", "end")]
    tokens = tokenizer({"image_token": "<|image|>", "video_token": "<|video|>"}, tuple(sides))
    names = ("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")
    config = transformers.Glm4vConfig(
        text_config=text(len(tokens), head_dim=16, rope_parameters=rope(1, 1, 2, partial_rotary_factor=0.5)),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 4,
            "image_size": 32,
            "patch_size": 8,
            "out_hidden_size": WIDTH,
            "intermediate_size": 64,
            "initializer_range": 0.1,
        },
        image_token_id=tokens.image_token_id,
        video_token_id=tokens.video_token_id,
        **dict(zip(names, tokens.convert_tokens_to_ids(sides), strict=True)),
    )
    processor = transformers.Glm4vProcessor(
        image_processor=transformers.Glm4vImageProcessorPil(
            patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64 * 2}
        ),
        tokenizer=tokens,
        video_processor=without_video(),
        chat_template=chat("<|begin_of_image|><|image|><|end_of_image|>"),
    )
    return transformers.Glm4vForConditionalGeneration(config), processor
