"""The promises that this package makes about a model, checked on a loaded one: a user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from vlmend.models.outputs import Question
from vlmend.models.prepared import Prepared
from vlmend.models.verify import sample
from vlmend.models.vlm import VLM

__all__ = ["Finding", "checkup"]

_NEW_TOKENS = 4
_EXACT, _ROUNDED = 1e-3, 5e-2  # of the largest logit: in float32, and in shorter types
_SEEN = 1e-5


@dataclass(frozen=True)
class Finding:
    """What one check found: its name, whether the promise holds, and the figures."""

    name: str
    ok: bool
    detail: str


def checkup(vlm: VLM) -> Iterator[Finding]:
    """Run every check; they leave the model as it is, which is the last of them.

    Logits are compared relative to their largest; in 16-bit types rows of a batch are rounded apart.
    """
    before = _state(vlm)
    shown = sample()
    turned = replace(shown, image=_turned(shown.image))
    questions = [shown, Question("Is there anything else to be seen in it, and where?", turned.image, "no"), turned]
    questions.append(Question("Who wrote the song?", None, "nobody"))
    yield _batches(vlm, questions)
    yield _generation(vlm, questions)
    yield _sight(vlm, shown, turned)
    after = _state(vlm)
    changed = [name for name in after if after[name] != before.get(name)]
    yield Finding(
        "untouched", not changed, "weights and hooks are as before" if not changed else ", ".join(changed[:3])
    )


def _batches(vlm: VLM, questions: Sequence[Question]) -> Finding:
    together = vlm.run(vlm.prepare(questions)).rows
    alone = [vlm.run(vlm.prepare([question])).rows[0] for question in questions]
    worst = max(_difference(one.logits_NV, other.logits_NV) for one, other in zip(together, alone, strict=True))
    return Finding("batch", worst <= _limit(vlm), f"rows of a batch differ from single runs by {worst:.1e}")


def _generation(vlm: VLM, questions: Sequence[Question]) -> Finding:
    said = vlm.generate(vlm.prepare(questions), max_new_tokens=_NEW_TOKENS)
    different = [
        question.question
        for question, text in zip(questions, said, strict=True)
        if text != _without_cache(vlm, vlm.prepare([question]))
    ]
    words = f"{len(questions) - len(different)} of {len(questions)} answers with a cache are those without"
    return Finding("generation", not different, words)


def _without_cache(vlm: VLM, prepared: Prepared) -> str:
    """The greedy answer by full forward passes alone."""
    row, tokens = prepared.rows[0], list[int]()
    for _ in range(_NEW_TOKENS):
        target = torch.tensor([*tokens, 0])  # the last one is what is predicted
        asked = replace(prepared, rows=(replace(row, target_N=target, answer_length=len(target)),))
        logits_V = vlm.run(asked).rows[0].logits_NV[-1]
        logits_V[vlm.parts.image_token : vlm.parts.image_token + 1] = -torch.inf  # it may have none
        tokens.append(int(logits_V.argmax()))
        if tokens[-1] in vlm.ends:
            tokens.pop()
            break
    return vlm.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def _sight(vlm: VLM, shown: Question, turned: Question) -> Finding:
    one, other = vlm.run(vlm.prepare([shown, turned])).rows
    difference = _difference(one.logits_NV, other.logits_NV)
    return Finding("sight", difference > _SEEN, f"another picture changes the logits by {difference:.1e}")


def _turned(image: object) -> Image.Image:
    assert isinstance(image, Image.Image)
    return image.rotate(90)


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-6))


def _limit(vlm: VLM) -> float:
    return _EXACT if vlm.model.dtype == torch.float32 else _ROUNDED


def _state(vlm: VLM) -> dict[str, object]:
    """What changes if a weight is written to or a hook is left behind."""
    state: dict[str, object] = {name: tensor._version for name, tensor in vlm.model.named_parameters()}
    for name, module in vlm.model.named_modules():
        state[f"hooks of {name}"] = (*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks)
    return state
