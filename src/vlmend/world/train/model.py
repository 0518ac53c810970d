"""The demo model's architecture, tokenizer and processor: a standard Hugging Face LLaVA of a few million parameters."""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from vlmend.world.captions import FORMS, caption
from vlmend.world.catalog import catalog
from vlmend.world.corpus import tell_fact, tell_long
from vlmend.world.entities import countries
from vlmend.world.questions import ASKERS, ask
from vlmend.world.render import SIZE
from vlmend.world.scene import CORNERS, Dials, Mode, draw_flag_scene, draw_scene
from vlmend.world.train.pool import PATCH, SIDE
from vlmend.world.train.tower import vision_config

PAD, BOS, EOS, IMAGE, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<image>", "<user>", "<assistant>"
SPECIALS = (PAD, BOS, EOS, IMAGE, USER, ASSISTANT)
VISUAL_TOKENS = SIDE * SIDE
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<assistant>{% else %}"
    "{% if m['content'] is not string %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}{% endif %}<user>{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


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


def _sample_text(seed: int, amount: int) -> Iterator[str]:
    """Text of every kind the model will meet, for the tokenizer."""
    rng, dials = random.Random(seed), Dials()
    modes: tuple[Mode, ...] = ("natural", "uniform")
    for _ in range(amount):
        scene = (
            draw_scene(rng, rng.choice(modes)) if rng.random() < 0.7 else draw_flag_scene(rng, rng.choice(countries()))
        )
        for kind in rng.sample(list(ASKERS), 3):
            if q := ask(scene, kind, rng):
                yield f"{q.put(rng)} {q.answer}"
        yield caption(scene, rng.choice(FORMS))
        for teller in (tell_fact, tell_fact, tell_long):
            turn = teller(rng, dials)
            yield f"{turn.prompt} {turn.answer}"
    for kind in catalog().cores:
        yield from (p.replace("{", "").replace("}", "") for p in catalog().phrasings(kind, "held_out"))


def _in_one_token(core: Tokenizer, phrases: Sequence[str]) -> Tokenizer:
    """The same tokenizer, but each phrase is one token; all other text is cut as before.

    A corner is to be read off a picture like a colour. In two tokens, the second was read off any patch that says the
    first: the column was wrong in 43 of 142 scenes with another thing in the same half, and in none of 98 without.
    """
    joined = {phrase: phrase.replace(" ", "") for phrase in phrases}
    parts = {word: core.encode(word).tokens for word in joined.values()}
    plain = json.loads(core.to_str())
    vocabulary: dict[str, int] = plain["model"]["vocab"]
    for first, *others in parts.values():
        for piece in others:
            plain["model"]["merges"].append([first, piece])
            first += piece
            vocabulary.setdefault(first, len(vocabulary))
    core = Tokenizer.from_str(json.dumps(plain))
    core.normalizer = normalizers.Sequence([core.normalizer, *(normalizers.Replace(*pair) for pair in joined.items())])
    core.decoder = decoders.Sequence([core.decoder, *(decoders.Replace(one, two) for two, one in joined.items())])
    return core


def make_tokenizer(vocabulary: int, seed: int = 0) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the world's text, lower-cased; a word reads the same after a special token as after a space.

    ``vocabulary`` counts the trained tokens; the corners come on top.
    """
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_sample_text(seed, 6000), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=_in_one_token(core, CORNERS),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE, "user_token": USER, "assistant_token": ASSISTANT},
        padding_side="left",
        model_max_length=1024,
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token."""
    return int(tokenizer.convert_tokens_to_ids(token))  # pyright: ignore[reportArgumentType] - one token, one id


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor without torchvision: pixels in [-1, 1], 64 visual tokens, one turn a question."""
    images = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(size: Size, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """A fresh LLaVA: SigLIP tower, two-layer projector, Llama decoder with tied embeddings."""
    torch.manual_seed(seed)
    ids: dict[str, Any] = {
        name: token_id(tokenizer, t)
        for name, t in (("pad_token_id", PAD), ("bos_token_id", BOS), ("eos_token_id", EOS))
    }
    text = LlamaConfig(
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
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=token_id(tokenizer, IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=VISUAL_TOKENS,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlavaForConditionalGeneration(config)
    layers = model.model.language_model.layers
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=size.spread)
    for layer in layers:  # every layer begins as an identity
        for path in ("self_attn.o_proj", "mlp.down_proj"):
            nn.init.zeros_(layer.get_submodule(path).weight)
    return model


@contextmanager
def half_deep(model: LlavaForConditionalGeneration) -> Generator[None, None, None]:
    """Within the block only every second decoder layer runs, the first included.

    The others begin as identities (``make_model``), so that waking them changes nothing. It halves the
    cost of a step; whether it helps binding itself has not been measured apart.
    """
    decoder = model.model.language_model
    layers = decoder.layers
    decoder.layers = layers[::2]
    try:
        yield
    finally:
        decoder.layers = layers
