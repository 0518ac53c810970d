"""A LLaVA of 58 M parameters with random weights, and edit cases for it: large enough that arithmetic dominates.

LLaMA of 12 layers, 512 wide, 8 heads, MLP 1376, vocabulary 8064, untied head; CLIP of 6 layers, 384 wide, 336 pixels
in patches of 14: 576 visual tokens. One question about a picture is about 590 tokens, 74 GFLOP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import vlmend
from vlmend import VLM, EditCase, Example, Probe

_CHAT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% else %} ASSISTANT: {{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def mid(folder: Path) -> VLM:
    """Build it, save it, and load it as any other model."""
    torch.manual_seed(0)
    texts = [
        example.question for case in cases() for example in (case.request, *(probe.example for probe in case.probes))
    ]
    tokens = tokenizer(texts)
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6}
    text = {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    config = llava(tokens, vision, text, pixels=336, vocabulary=8064)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if "embed" in name:
                parameter.copy_(0.5 * noise)
            elif parameter.dim() > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1.0 + 0.1 * noise)
    model.save_pretrained(folder)
    processor(tokens, 336).save_pretrained(folder)
    return vlmend.load(str(folder))


def llava(
    tokens: transformers.PreTrainedTokenizerFast,
    vision: Mapping[str, int],
    text: Mapping[str, int],
    *,
    pixels: int,
    vocabulary: int,
) -> transformers.LlavaConfig:
    """A LLaVA of CLIP and LLaMA, of these sizes, for pictures of so many pixels a side."""
    return transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": pixels, "patch_size": 14, **vision},
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **text,
        },
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_seq_length=(pixels // 14) ** 2,
    )


def processor(tokens: transformers.PreTrainedTokenizerFast, pixels: int) -> transformers.LlavaProcessor:
    """One for square pictures of so many pixels a side, in patches of 14."""
    pictures = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}
    )
    return transformers.LlavaProcessor(
        pictures,
        tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT,
    )


def cases() -> list[EditCase]:
    """Two cases of five probes as MMEdit has them: three different pictures and a question without one."""
    one, two, three = (_photograph(seed) for seed in (1, 2, 3))

    def case(name: str, question: str, other: str, answer: str) -> EditCase:
        return EditCase(
            name,
            Example(question, one, answer),
            probes=(
                Probe("text_generality", Example(other, one, answer)),
                Probe("image_generality", Example(question, two, answer)),
                Probe("text_locality", Example("nq question: who wrote the song in the film", None, "the band")),
                Probe("image_locality", Example("What sport can you use this for?", three, "riding")),
            ),
            source="benchmark",
        )

    return [
        case("kite", "What is the man holding in his left hand?", "Tell me what he holds in the left hand.", "a kite"),
        case("tray", "What color is the tray on the table?", "Which colour does the tray on the table have?", "brown"),
    ]


def _photograph(seed: int) -> Image.Image:
    """Smooth noise of a photograph's size."""
    small = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)


def tokenizer(texts: Sequence[str], size: int = 600) -> transformers.PreTrainedTokenizerFast:
    """Byte pairs out of texts, with the special tokens that the model has."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
