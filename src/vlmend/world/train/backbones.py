"""The demo models' architectures: standard Hugging Face models of a few million parameters, freshly made.

They share tokenizer, pictures and curriculum and differ as the published backbones do: LLaVA gives its decoder every
patch through an MLP; BLIP-2 gives an OPT decoder the queries of a Q-Former, MiniGPT-4 a Llama, both through one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    OPTConfig,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from vlmend.world.render import SIZE
from vlmend.world.train.pool import PATCH, SIDE
from vlmend.world.train.tower import WIDTH, vision_config
from vlmend.world.train.words import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, token_id, with_template

PATCHES = SIDE * SIDE
QUERIES = PATCHES // 2
"""A query each for two neighbouring patches: half a cell of the grid, so that no query has two things to tell."""


@dataclass(frozen=True)
class Size:
    """The decoder's size. Few wide heads and a large ``rope_theta`` let content match over the visual tokens."""

    width: int = 192
    layers: int = 8
    heads: int = 2
    ff: int = 512
    vocabulary: int = 1536
    rope_theta: float = 1e6
    spread: float = 0.06  # standard deviation of the decoder's matrices at the start


@dataclass(frozen=True)
class Built:
    """A model, and the half of it that is trained to speak.

    Attributes:
        model: the whole, as transformers has it.
        projector: makes embeddings of what the picture's encoder gives.
        decoder: the stack of layers, with ``layers`` and ``embed_tokens``.
        head: from its states to logits.
        visual: tokens of a picture.
        opened: whether ``<s>`` stands before the picture, or else behind it.
    """

    model: Any
    projector: nn.Module
    decoder: Any
    head: nn.Module
    visual: int
    opened: bool

    @property
    def embed(self) -> nn.Module:
        """Word embeddings."""
        return self.decoder.embed_tokens


@contextmanager
def half_deep(built: Built) -> Generator[None, None, None]:
    """Within the block only every second decoder layer runs, the first included.

    The others begin as identities, so that waking them changes nothing. It halves the cost of a step; whether it helps
    binding itself has not been measured apart.
    """
    layers = built.decoder.layers
    built.decoder.layers = layers[::2]
    try:
        yield
    finally:
        built.decoder.layers = layers


def _specials(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = (("pad_token_id", PAD), ("bos_token_id", BOS), ("eos_token_id", EOS))
    return {name: token_id(tokenizer, token) for name, token in names}


def _llama(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.ff,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **_specials(tokenizer),
    )


def _opt(size: Size, tokenizer: PreTrainedTokenizerFast) -> OPTConfig:
    return OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        word_embed_proj_dim=size.width,
        ffn_dim=size.ff,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=1024,
        dropout=0.0,
        tie_word_embeddings=True,
        **_specials(tokenizer),
    )


def _begin(decoder: Any, size: Size) -> None:
    """Wide matrices, and the last one of every block zero: every layer begins as an identity."""
    for module in decoder.layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=size.spread)
    for layer in decoder.layers:
        for name, module in layer.named_modules():
            if name.rpartition(".")[2] in ("o_proj", "down_proj", "out_proj", "fc2"):
                nn.init.zeros_(module.weight)


def llava(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> Built:
    """SigLIP tower, two-layer projector, Llama decoder with tied embeddings."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=_llama(size, tokenizer),
        image_token_index=token_id(tokenizer, IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=PATCHES,
        tie_word_embeddings=True,
        **_specials(tokenizer),
    )
    model = LlavaForConditionalGeneration(config)
    decoder = model.model.language_model
    _begin(decoder, size)
    return Built(model, model.model.multi_modal_projector, decoder, model.lm_head, PATCHES, opened=True)


def llava_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Without torchvision: pixels in [-1, 1], a token a patch, one turn a question."""
    images = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )


def _queried(text: LlamaConfig | OPTConfig, size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> Built:
    """Vision transformer, Q-Former (4 layers, every second one looks at the picture), one matrix, a decoder."""
    torch.manual_seed(seed)
    vision = vision_config()
    seen = {name: getattr(vision, name) for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    seen |= {name: getattr(vision, name) for name in ("num_attention_heads", "image_size", "patch_size", "hidden_act")}
    former = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 384,
        "encoder_hidden_size": WIDTH,
        "cross_attention_frequency": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = Blip2Config(
        vision_config=seen,
        qformer_config=former,
        text_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=token_id(tokenizer, IMAGE),
    )
    model = Blip2ForConditionalGeneration(config)
    nn.init.normal_(model.query_tokens, std=1.0)
    words: Any = model.language_model
    decoder = getattr(words.model, "decoder", words.model)
    _begin(decoder, size)
    return Built(model, model.language_projection, decoder, words.lm_head, QUERIES, opened=False)


def blip2(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> Built:
    """A Q-Former and an OPT."""
    return _queried(_opt(size, tokenizer), size, tokenizer, seed)


def minigpt4(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> Built:
    """A Q-Former and a Llama; transformers has it as BLIP-2 with another decoder."""
    return _queried(_llama(size, tokenizer), size, tokenizer, seed)


def queried_processor(tokenizer: PreTrainedTokenizerFast) -> Blip2Processor:
    """As LLaVA's, but the picture's tokens, one a query, stand before ``<s>``, where BLIP-2 has them."""
    images = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return Blip2Processor(images, with_template(tokenizer), num_query_tokens=QUERIES)


@dataclass(frozen=True)
class Backbone:
    """An architecture: how a fresh model is made, and its processor."""

    make: Callable[[Size, PreTrainedTokenizerFast, int], Built]
    processor: Callable[[PreTrainedTokenizerFast], Any]


BACKBONES = {
    "llava": Backbone(llava, llava_processor),
    "blip2": Backbone(blip2, queried_processor),
    "minigpt4": Backbone(minigpt4, queried_processor),
}
