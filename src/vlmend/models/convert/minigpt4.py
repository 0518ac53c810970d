"""MiniGPT-4 (Zhu et al. 2023, arXiv 2304.10592) as the BLIP-2 with a Llama that it is.

An original MiniGPT-4 comes in pieces: an EVA vision transformer (``eva_vit_g.pth``), BLIP-2's Q-Former with its queries
and ``ln_vision`` (``blip2_pretrained_flant5xxl.pth``), one projection (``llama_proj``, in MiniGPT-4's own file), and a
Vicuna or Llama-2 folder. Their keys are those of LAVIS; here they become those of ``Blip2ForConditionalGeneration``:

    visual_encoder.blocks.N.attn.{qkv.weight, q_bias, v_bias}   vision_model.encoder.layers.N.self_attn.qkv, k's bias 0
    visual_encoder.{cls_token, pos_embed, patch_embed.proj}     vision_model.embeddings.*
    ln_vision                                                   vision_model.post_layernorm
    Qformer.bert.encoder.layer.N.{attention, crossattention,    qformer.encoder.layer.N.*
        intermediate_query, output_query}
    query_tokens, llama_proj                                    query_tokens, language_projection

The vision file has one block more than is used: LAVIS builds 39 of its 40. Words of the Q-Former, its text branch and a
T5 or its projection, if the files have them, are no part of MiniGPT-4. Two things are not kept: ``ln_vision`` gets the
transformer's epsilon (1e-6, not 1e-5), as in transformers' own BLIP-2; and the picture stands before the whole prompt,
where the original writes it between "<Img>" and "</Img>" inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
)

from vlmend.errors import ModelError, VlmendError, WriteError
from vlmend.models.folders import unusable
from vlmend.models.hub import check_place, reason
from vlmend.models.loading import quiet

__all__ = ["convert", "read_checkpoints", "renamed"]

_MEAN, _DEVIATION = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's
_IMAGE = "<image>"
_TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% else %}"
)
_TEMPLATES = {
    "vicuna": _TURNS + "###Human: {{ m['content'] }}###Assistant:{% endif %}{% endfor %}",
    "llama-2": _TURNS + "[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
}
"""Name -> chat template: MiniGPT-4's own wording for either language model."""

_FIXED = {
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual_encoder.patch_embed.proj.bias": "vision_model.embeddings.patch_embedding.bias",
    "ln_vision.weight": "vision_model.post_layernorm.weight",
    "ln_vision.bias": "vision_model.post_layernorm.bias",
    "query_tokens": "query_tokens",
    "Qformer.bert.embeddings.LayerNorm.weight": "qformer.layernorm.weight",
    "Qformer.bert.embeddings.LayerNorm.bias": "qformer.layernorm.bias",
    "llama_proj.weight": "language_projection.weight",
    "llama_proj.bias": "language_projection.bias",
}
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.projection",
    "attn.qkv": "self_attn.qkv",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_BIASES = ("q_bias", "v_bias")
_FORMER = re.compile(r"Qformer\.bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.(self|output)\.(.+)")
_QUERIES = re.compile(r"Qformer\.bert\.encoder\.layer\.(\d+)\.(intermediate_query|output_query)\.(.+)")
_UNUSED = re.compile(
    r"(t5_|opt_|llama_model|visual_encoder\.(norm|fc_norm|head)\.|Qformer\.(cls|bert\.pooler)|temp$|vision_proj|text_proj|itm_head"
    r"|Qformer\.bert\.embeddings\.(word_embeddings|position_embeddings|position_ids)"
    r"|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.)"
)
_BARE = re.compile(r"(cls_token|pos_embed|patch_embed\.|blocks\.|norm\.|fc_norm\.|head\.)")


def read_checkpoints(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of some files by LAVIS's names, which a file of the vision transformer alone leaves the prefix off.

    Args:
        files: ``.safetensors``, or ``.pth`` as torch writes it; of these nothing but tensors is read.

    Raises:
        ModelError: a file cannot be read or holds no tensors.
    """
    found: dict[str, Tensor] = {}
    for path in files:
        tensors = _tensors(path)
        bare = any(name.startswith("blocks.") for name in tensors)
        if bare:
            tensors = {f"visual_encoder.{n}" if _BARE.match(n) else n: tensor for n, tensor in tensors.items()}
            last = max(_blocks(tensors))
            tensors = {n: t for n, t in tensors.items() if not n.startswith(f"visual_encoder.blocks.{last}.")}
        found |= tensors
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is not there") from error
    except Exception as error:  # torch and pickle raise anything about a file that is none of theirs
        raise ModelError(f"{path} cannot be read as tensors: {reason(error)}") from error
    inner = content.get("model", content) if isinstance(content, Mapping) else {}
    tensors = {str(name): tensor for name, tensor in inner.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise ModelError(f"{path} holds no tensors by name")
    return tensors


def _blocks(names: Iterable[str]) -> set[int]:
    return {int(found[1]) for name in names if (found := re.match(r"visual_encoder\.blocks\.(\d+)\.", name))}


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by the names of ``Blip2ForConditionalGeneration``; those of a language model are not among them.

    Raises:
        ModelError: names a tensor that has no place in a MiniGPT-4, or that lacks.
    """
    out: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if name in _FIXED:
            out[_FIXED[name]] = tensor
        elif found := re.match(r"visual_encoder\.blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            if found[2] not in _BLOCK:
                unknown.append(name)
            out[f"vision_model.encoder.layers.{found[1]}.{_BLOCK.get(found[2], '')}.{found[3]}"] = tensor
        elif found := _FORMER.match(name):
            part = "attention" if found[3] == "self" else "output"
            out[f"qformer.encoder.layer.{found[1]}.{found[2]}.{part}.{found[4]}"] = tensor
        elif found := _QUERIES.match(name):
            out[f"qformer.encoder.layer.{found[1]}.{found[2]}.{found[3]}"] = tensor
        elif not _UNUSED.match(name) and not name.endswith(_BIASES):
            unknown.append(name)
    if unknown:
        raise ModelError(f"the checkpoint has '{unknown[0]}', which is no part of a MiniGPT-4")
    for layer in sorted(_blocks(tensors)):
        at = f"visual_encoder.blocks.{layer}.attn."
        if missing := [f"{at}{bias}" for bias in _BIASES if f"{at}{bias}" not in tensors]:
            raise ModelError(f"the checkpoint lacks '{missing[0]}': name all files that it comes in")
        query, value = (tensors[f"{at}{bias}"] for bias in _BIASES)
        out[f"vision_model.encoder.layers.{layer}.self_attn.qkv.bias"] = torch.cat(
            [query, torch.zeros_like(query), value]
        )
    return out


@dataclass(frozen=True)
class Heads:
    """What shapes do not tell: the width of a head of the vision transformer (EVA ViT-g: 88) and of the Q-Former."""

    vision: int = 88
    former: int = 64


def convert(
    files: Sequence[Path], language: Path | str, out: Path, *, prompt: str = "vicuna", heads: Heads = Heads()
) -> Path:
    """Write a folder that transformers and `vlmend.load` read.

    Args:
        files: the checkpoint's, in any order; of a tensor in several the last counts.
        language: folder or hub id of the language model, a Llama.
        out: the folder, made if absent.
        prompt: whose wording the chat template has: "vicuna" or "llama-2".
        heads: see there.

    Raises:
        ModelError: a file cannot be read; a tensor is unknown, missing, or of another shape; the language model is
            no Llama or of another width; ``out`` is there and is no empty folder.
        VlmendError: there is no language model at ``language``.
        WriteError: the folder cannot be written.
    """
    if prompt not in _TEMPLATES:
        raise ModelError(f"no prompt '{prompt}'; there are: {', '.join(_TEMPLATES)}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ModelError(f"{out} is there already, and no empty folder: name another")
    for file in files:  # all before the long work
        if not file.is_file():
            raise ModelError(f"{file} is not there, or no file")
    check_place(str(language), VlmendError)
    kind = _read(AutoConfig, language).model_type
    if kind != "llama":
        raise ModelError(f"{language} is a {kind}, and MiniGPT-4's language model a Llama")
    state = renamed(read_checkpoints(files))
    if missing := [old for old, new in _FIXED.items() if new not in state and not old.startswith("Qformer")]:
        raise ModelError(f"the checkpoint lacks '{missing[0]}': name all files that it comes in")
    words, info = _read(AutoModelForCausalLM, language, output_loading_info=True)
    if lacking := sorted(info["missing_keys"]):
        raise ModelError(f"'{language}' holds no whole {_LANGUAGE}: it lacks {', '.join(lacking[:3])}")
    tokenizer: Any = _read(AutoTokenizer, language)
    tokenizer.chat_template = _TEMPLATES[prompt]
    queries = state["query_tokens"].shape[1]
    size = _size(state, heads)
    processor = Blip2Processor(
        BlipImageProcessorPil(size={"height": size, "width": size}, image_mean=_MEAN, image_std=_DEVIATION),
        tokenizer,
        num_query_tokens=queries,
    )  # adds the picture's token
    if len(tokenizer) > words.get_input_embeddings().num_embeddings:
        words.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model = _model(state, words, tokenizer, heads, size)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            part = Path(beside) / out.name
            model.save_pretrained(part)
            processor.save_pretrained(part)
            part.rename(out)  # whole or not at all; a folder that is there must be empty
    except OSError as error:
        raise WriteError(out, error) from error
    return out


_LANGUAGE = "language model of transformers"


def _read(kind: Any, language: Path | str, **how: Any) -> Any:
    """What an auto class loads; weights of a Vicuna are seldom safetensors."""
    try:
        with quiet():
            return kind.from_pretrained(language, **how)
    except Exception as error:  # damaged files raise whatever their reader comes upon
        raise unusable(str(language), _LANGUAGE, error) from error


def _size(state: Mapping[str, Tensor], heads: Heads) -> int:
    """Pixels a side."""
    places = state["vision_model.embeddings.position_embedding"].shape[1] - 1
    return round(places**0.5) * state["vision_model.embeddings.patch_embedding.weight"].shape[-1]


def _model(state: dict[str, Tensor], words: Any, tokenizer: Any, heads: Heads, size: int) -> Any:
    patch = state["vision_model.embeddings.patch_embedding.weight"]
    vision, inner = patch.shape[0], _rows(state, "vision_model.encoder.layers.0.mlp.fc1.weight")
    former = _rows(state, "language_projection.weight", 1)
    layers = [int(m[1]) for n in state if (m := re.match(r"qformer\.encoder\.layer\.(\d+)\.attention\.", n))]
    crossed = sorted(
        {int(m[1]) for n in state if (m := re.match(r"qformer\.encoder\.layer\.(\d+)\.crossattention", n))}
    )
    if not layers or not crossed:
        raise ModelError("the checkpoint lacks the Q-Former: name all files that it comes in")
    if _rows(state, "language_projection.weight") != words.config.hidden_size:
        wide = _rows(state, "language_projection.weight")
        raise ModelError(
            f"llama_proj makes states of width {wide}, the language model's have {words.config.hidden_size}"
        )
    config = Blip2Config(
        vision_config={
            "hidden_size": vision,
            "intermediate_size": inner,
            "num_hidden_layers": 1 + max(int(n.split(".")[3]) for n in state if ".encoder.layers." in n),
            "num_attention_heads": vision // heads.vision,
            "image_size": size,
            "patch_size": patch.shape[-1],
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
        },
        qformer_config={
            "vocab_size": len(tokenizer),
            "hidden_size": former,
            "num_hidden_layers": 1 + max(layers),
            "num_attention_heads": former // heads.former,
            "intermediate_size": _rows(state, "qformer.encoder.layer.0.intermediate_query.dense.weight"),
            "encoder_hidden_size": vision,
            "cross_attention_frequency": crossed[1] - crossed[0] if len(crossed) > 1 else 1 + max(layers),
        },
        text_config=words.config.to_dict(),
        num_query_tokens=state["query_tokens"].shape[1],
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
    )
    model: Any = Blip2ForConditionalGeneration(config)
    wanted = model.state_dict()
    state |= {f"language_model.{name}": tensor for name, tensor in words.state_dict().items()}
    if missing := sorted(wanted.keys() - state.keys()):
        raise ModelError(f"the checkpoint lacks what becomes '{missing[0]}': name all files that it comes in")
    if extra := sorted(state.keys() - wanted.keys()):
        raise ModelError(f"the checkpoint has what would become '{extra[0]}', which such a model has not")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, {tuple(wanted[name].shape)} is expected"
            raise ModelError(f"the checkpoint's tensor for '{name}' has shape {shapes}")
    model.load_state_dict(state)
    model.generation_config = words.generation_config
    return model.to(words.dtype)


def _rows(state: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    if name not in state:
        raise ModelError(f"the checkpoint lacks what becomes '{name}': name all files that it comes in")
    return state[name].shape[axis]
