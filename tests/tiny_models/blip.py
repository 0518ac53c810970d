"""BLIP-2 and InstructBLIP: a Q-Former's queries for a picture, no chat template, a language model of their own."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tiny_models.base import LAYERS, WIDTH, look, text, tokenizer

QUERIES = 8


def blip(kind: str, words: dict[str, Any], **second: Any) -> tuple[Any, Any]:
    """A model of either family with a language model, and its processor; ``second`` is a Q-Former's tokenizer."""
    tokens = tokenizer(extra=("<image>",))
    former = {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "encoder_hidden_size": 32,
        "initializer_range": 0.1,
    }
    config = getattr(transformers, f"{kind}Config")(
        vision_config=look(),
        qformer_config=former,
        text_config={"vocab_size": len(tokens)} | words,
        num_query_tokens=QUERIES,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )
    pictures = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = getattr(transformers, f"{kind}Processor")(pictures, tokens, num_query_tokens=QUERIES, **second)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    torch.nn.init.normal_(model.query_tokens)
    return model, processor


def blip2() -> tuple[Any, Any]:
    words = {
        "model_type": "opt",
        "hidden_size": WIDTH,
        "ffn_dim": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "word_embed_proj_dim": WIDTH,
        "max_position_embeddings": 512,
        "init_std": 0.1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return blip("Blip2", words)


def llama() -> dict[str, Any]:
    words = text(0, model_type="llama")
    del words["vocab_size"]
    return words


def blip2_llama() -> tuple[Any, Any]:
    return blip("Blip2", llama())


def instructblip() -> tuple[Any, Any]:
    return blip("InstructBlip", llama(), qformer_tokenizer=tokenizer())
