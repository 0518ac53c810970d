"""What the tiny models have in common: a tokenizer, the sizes of their parts, a chat template."""

from __future__ import annotations

from typing import Any

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


def look(**more: Any) -> dict[str, Any]:
    """A vision config of a family that has but one kind of vision encoder."""
    made = vision("", **more)
    del made["model_type"]
    return made


def chat(picture: str) -> str:
    """The chat template of a family that writes a picture in this way."""
    return CHAT.replace("IMAGE", picture)


def without_video() -> Any:
    """What stands for a video processor where torchvision is missing."""
    from vlmend.models import processors

    processors._do_without_video()
    processors._do_without_number_words()
    return processors._NoVideoProcessor()
