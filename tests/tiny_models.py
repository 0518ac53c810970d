"""Tiny random vision-language models of several families, built and saved without a network, to keep the code honest
about any of them. Each builder returns a model and its processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

WIDTH = 48
LAYERS = 4
CORPUS = [
    "what colour is the cup ? the cup is red",
    "is there a dog in the picture ? no , there is a cat",
    "how many birds are there ? three small birds",
    "nq question: who wrote the song",
] * 10
CHAT = (
    "<s>{% for m in messages %}{% if m['role'] == 'user' %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %} <user> {{ c['text'] }}{% endif %}{% endfor %}"
    "{% else %} <assistant> {{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)


def tokenizer(named: dict[str, str] | None = None, extra: tuple[str, ...] = ()) -> Any:
    """A byte-level BPE tokenizer with the special tokens that a family's processor asks for."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=dict(named or {}),
        model_max_length=2048,
    )
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in extra], special_tokens=True)
    return made


def text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.1,
    } | more


def vision(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.1,
    } | more


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
        chat_template=CHAT.replace("IMAGE", "<image>"),
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
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def idefics3() -> tuple[Any, Any]:
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
    }
    tokens = tokenizer(named, tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)))
    look = vision("")
    del look["model_type"]
    config = transformers.Idefics3Config(
        vision_config=look,
        text_config=text(len(tokens), model_type="llama"),
        image_token_id=tokens.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    pictures = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    template = CHAT.replace("IMAGE", "<image>")
    processor = transformers.Idefics3Processor(pictures, tokens, image_seq_len=4, chat_template=template)
    return transformers.Idefics3ForConditionalGeneration(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    tokens = tokenizer(named)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
    config = transformers.Qwen2VLConfig(
        text_config=text(len(tokens), rope_parameters=rope),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": WIDTH,
            "num_heads": 4,
            "patch_size": 8,
            "mlp_ratio": 2,
            "initializer_range": 0.1,
        },
        **{f"{name}_id": tokens.convert_tokens_to_ids(token) for name, token in named.items()},
    )
    pictures = transformers.Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    )
    template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = transformers.Qwen2VLProcessor(
        image_processor=pictures, tokenizer=tokens, video_processor=_without_video(), chat_template=template
    )
    return transformers.Qwen2VLForConditionalGeneration(config), processor


def blip2() -> tuple[Any, Any]:
    """BLIP-2 with OPT: no chat template, a Q-Former, a language model with its own generation."""
    tokens = tokenizer(extra=("<image>",))
    words = {
        "model_type": "opt",
        "vocab_size": len(tokens),
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
    former = {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "encoder_hidden_size": 32,
        "initializer_range": 0.1,
    }
    look = vision("")
    del look["model_type"]
    config = transformers.Blip2Config(
        vision_config=look,
        qformer_config=former,
        text_config=words,
        num_query_tokens=8,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )
    pictures = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.Blip2Processor(pictures, tokens, num_query_tokens=8)
    model = transformers.Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens)
    return model, processor


def _without_video() -> Any:
    from vlmend.models import processors

    processors._do_without_video()
    return processors._NoVideoProcessor()


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava,
    "llava_next": llava_next,
    "idefics3": idefics3,
    "qwen2_vl": qwen2_vl,
    "blip2": blip2,
}


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Build a family's model with random weights and save it as a checkpoint folder."""
    torch.manual_seed(seed)
    model, processor = FAMILIES[family]()
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
