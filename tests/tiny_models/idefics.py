"""Idefics3 and SmolVLM: tiles, each with its place written before it, and a merging of neighbouring patches."""

from __future__ import annotations

from typing import Any

import transformers

from tiny_models.base import chat, look, text, tokenizer, without_video

NAMED = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
}


def parts(kind: str, named: dict[str, str]) -> tuple[Any, Any, Any]:
    """A model of either family, its tokenizer and its image processor."""
    tokens = tokenizer(named, tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)))
    config = getattr(transformers, f"{kind}Config")(
        vision_config=look(),
        text_config=text(len(tokens), model_type="llama"),
        image_token_id=tokens.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    pictures = getattr(transformers, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), tokens, pictures


def idefics3() -> tuple[Any, Any]:
    model, tokens, pictures = parts("Idefics3", NAMED)
    processor = transformers.Idefics3Processor(pictures, tokens, image_seq_len=4, chat_template=chat("<image>"))
    return model, processor


def smolvlm() -> tuple[Any, Any]:
    model, tokens, pictures = parts("SmolVLM", NAMED | {"video_token": "<video>"})
    processor = transformers.SmolVLMProcessor(
        image_processor=pictures,
        tokenizer=tokens,
        video_processor=without_video(),
        image_seq_len=4,
        chat_template=chat("<image>"),
    )
    return model, processor
