"""What all demo models share: the tokenizer of the world's text, its special tokens, the chat template."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlmend.world.captions import FORMS, caption
from vlmend.world.catalog import catalog
from vlmend.world.corpus import tell_fact, tell_long
from vlmend.world.entities import countries
from vlmend.world.questions import ASKERS, ask
from vlmend.world.scene import CORNERS, Dials, Mode, draw_flag_scene, draw_scene

PAD, BOS, EOS, IMAGE, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<image>", "<user>", "<assistant>"
SPECIALS = (PAD, BOS, EOS, IMAGE, USER, ASSISTANT)
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
    return _wrapped(_in_one_token(core, CORNERS), image_token=IMAGE)


def _wrapped(core: Tokenizer, **named: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={**named, "user_token": USER, "assistant_token": ASSISTANT},
        padding_side="left",
        model_max_length=1024,
    )


def with_template(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same tokens for a processor that writes pictures itself: with the chat template, the picture's token unnamed
    (BLIP-2's processor does not take a name for it)."""
    out = _wrapped(tokenizer.backend_tokenizer)
    out.chat_template = CHAT_TEMPLATE
    return out


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token."""
    return int(tokenizer.convert_tokens_to_ids(token))  # pyright: ignore[reportArgumentType] - one token, one id
