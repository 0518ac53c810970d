"""An original MiniGPT-4 checkpoint as a BLIP-2: its pictures are seen as before, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

import vlmend
from tiny_models.base import tokenizer
from vlmend.data.records import Example
from vlmend.errors import ModelError, VlmendError
from vlmend.models.convert.minigpt4 import Heads, convert

VISION, FORMER, INNER, WORDS, QUERIES, PATCH, SIDE = 24, 16, 40, 32, 5, 4, 3
HEADS = Heads(vision=12, former=8)


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.3


def linear(name: str, out: int, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": tensor(out, width), f"{name}.bias": tensor(out)}


def norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + tensor(width), f"{name}.bias": tensor(width)}


def eva(blocks: int) -> dict[str, Tensor]:
    """The vision transformer's file, without prefix."""
    found = {
        "cls_token": tensor(1, 1, VISION),
        "pos_embed": tensor(1, SIDE * SIDE + 1, VISION),
        "patch_embed.proj.weight": tensor(VISION, 3, PATCH, PATCH),
        "patch_embed.proj.bias": tensor(VISION),
        "head.weight": tensor(7, VISION),
    }
    for at in (f"blocks.{n}" for n in range(blocks)):
        found |= norm(f"{at}.norm1", VISION) | norm(f"{at}.norm2", VISION)
        found |= {f"{at}.attn.q_bias": tensor(VISION), f"{at}.attn.v_bias": tensor(VISION)}
        found |= {f"{at}.attn.qkv.weight": tensor(3 * VISION, VISION)} | linear(f"{at}.attn.proj", VISION, VISION)
        found |= linear(f"{at}.mlp.fc1", INNER, VISION) | linear(f"{at}.mlp.fc2", VISION, INNER)
    return found


def former(layers: int) -> dict[str, Tensor]:
    """BLIP-2's file: queries, Q-Former with a text branch that is not used, ln_vision, and a T5's projection."""
    found = {"query_tokens": tensor(1, QUERIES, FORMER), **norm("ln_vision", VISION), **linear("t5_proj", 9, FORMER)}
    found |= norm("Qformer.bert.embeddings.LayerNorm", FORMER)
    found |= {"Qformer.bert.embeddings.word_embeddings.weight": tensor(11, FORMER)}
    for layer in range(layers):
        at = f"Qformer.bert.encoder.layer.{layer}"
        for kind, seen in (("attention", FORMER), *([("crossattention", VISION)] if layer % 2 == 0 else [])):
            found |= linear(f"{at}.{kind}.self.query", FORMER, FORMER)
            found |= linear(f"{at}.{kind}.self.key", FORMER, seen) | linear(f"{at}.{kind}.self.value", FORMER, seen)
            found |= linear(f"{at}.{kind}.output.dense", FORMER, FORMER)
            found |= norm(f"{at}.{kind}.output.LayerNorm", FORMER)
        found |= linear(f"{at}.intermediate_query.dense", INNER, FORMER)
        found |= linear(f"{at}.output_query.dense", FORMER, INNER) | norm(f"{at}.output_query.LayerNorm", FORMER)
        found |= linear(f"{at}.intermediate.dense", INNER, FORMER) | linear(f"{at}.output.dense", FORMER, INNER)
    return found


def attended(query: Tensor, key: Tensor, value: Tensor, head: int) -> Tensor:
    parts = [x.unflatten(-1, (-1, head)).transpose(1, 2) for x in (query, key, value)]
    weights = (parts[0] @ parts[1].mT / head**0.5).softmax(-1)
    return (weights @ parts[2]).transpose(1, 2).flatten(2)


def original(pixels: Tensor, t: dict[str, Tensor], blocks: int, layers: int) -> Tensor:
    """What the original makes of a picture, written down from its papers: a pre-norm ViT and a post-norm BERT."""

    def apply(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def normed(name: str, x: Tensor, eps: float) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)

    x = functional.conv2d(pixels, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], 1) + t["pos_embed"]
    for at in (f"blocks.{n}" for n in range(blocks)):
        bias = torch.cat([t[f"{at}.attn.q_bias"], torch.zeros(VISION), t[f"{at}.attn.v_bias"]])
        qkv = functional.linear(normed(f"{at}.norm1", x, 1e-6), t[f"{at}.attn.qkv.weight"], bias)
        x = x + apply(f"{at}.attn.proj", attended(*qkv.chunk(3, -1), HEADS.vision))
        inner = functional.gelu(apply(f"{at}.mlp.fc1", normed(f"{at}.norm2", x, 1e-6)))
        x = x + apply(f"{at}.mlp.fc2", inner)
    seen = normed("ln_vision", x, 1e-6)
    q = normed("Qformer.bert.embeddings.LayerNorm", t["query_tokens"].expand(len(x), -1, -1), 1e-12)
    for layer in range(layers):
        at = f"Qformer.bert.encoder.layer.{layer}"
        for kind, context in (("attention", None), *([("crossattention", seen)] if layer % 2 == 0 else [])):
            other = q if context is None else context
            asked = [apply(f"{at}.{kind}.self.{p}", s) for p, s in (("query", q), ("key", other), ("value", other))]
            out = apply(f"{at}.{kind}.output.dense", attended(*asked, HEADS.former))
            q = normed(f"{at}.{kind}.output.LayerNorm", out + q, 1e-12)
        inner = functional.gelu(apply(f"{at}.intermediate_query.dense", q))
        q = normed(f"{at}.output_query.LayerNorm", apply(f"{at}.output_query.dense", inner) + q, 1e-12)
    return apply("llama_proj", q)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny MiniGPT-4, as they are published, and its Llama."""
    folder = tmp_path_factory.mktemp("minigpt4")
    torch.manual_seed(0)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=WORDS, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    words.save_pretrained(folder / "llama")
    torch.save(eva(3), folder / "eva.pth")
    torch.save({"model": former(4)}, folder / "blip2.pth")
    torch.save({"model": linear("llama_proj", WORDS, FORMER), "epoch": 3}, folder / "minigpt4.pth")
    return folder


def files(pieces: Path) -> list[Path]:
    return [pieces / name for name in ("eva.pth", "blip2.pth", "minigpt4.pth")]


def test_pictures_are_seen_as_the_original_sees_them(pieces: Path, tmp_path: Path) -> None:
    out = convert(files(pieces), pieces / "llama", tmp_path / "out", heads=HEADS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    vlm = vlmend.load(str(out))
    parts = [torch.load(path, weights_only=True) for path in files(pieces)]
    tensors = {name: x for part in parts for name, x in part.get("model", part).items()}
    pixels = torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    with torch.no_grad():
        ours = vlm.model.get_image_features(pixels, return_dict=True).pooler_output
        theirs = original(pixels, tensors, blocks=2, layers=4)  # the last block of the file is not used
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    from PIL import Image

    (row,) = vlm.prepare([Example("what is it ?", Image.new("RGB", (20, 20)), None)]).rows
    assert int(row.visual_T.sum()) == QUERIES
    assert "###Human: what is it ?###Assistant:" in row.prompt
    assert len(vlm.generate(vlm.prepare([Example("what ?", Image.new("RGB", (9, 9)), None)]), max_new_tokens=3)) == 1


def test_safetensors_do_as_well(pieces: Path, tmp_path: Path) -> None:
    whole = (
        {f"visual_encoder.{name}": x for name, x in eva(2).items()} | former(4) | linear("llama_proj", WORDS, FORMER)
    )
    save_file(whole, tmp_path / "all.safetensors")
    out = convert([tmp_path / "all.safetensors"], pieces / "llama", tmp_path / "out", prompt="llama-2", heads=HEADS)
    assert vlmend.load(str(out)).model.config.vision_config.num_hidden_layers == 2  # a whole model's blocks are used


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("ln_vision.weight"), "lacks 'ln_vision.weight'"),
        (lambda t: t.pop("Qformer.bert.encoder.layer.1.attention.self.key.bias"), "lacks what becomes 'qformer"),
        (lambda t: t.update(surprise=torch.zeros(1)), "has 'surprise', which is no part of a MiniGPT-4"),
        (lambda t: t.update({"query_tokens": torch.zeros(1, QUERIES, 3)}), "'query_tokens' has shape"),
    ],
)
def test_what_does_not_fit_is_named(pieces: Path, tmp_path: Path, change, problem: str) -> None:  # type: ignore[no-untyped-def]
    tensors = former(4)
    change(tensors)
    save_file(tensors, tmp_path / "blip2.safetensors")
    with pytest.raises(ModelError, match=problem):
        given = [pieces / "eva.pth", tmp_path / "blip2.safetensors", pieces / "minigpt4.pth"]
        convert(given, pieces / "llama", tmp_path / "out", heads=HEADS)
    assert not (tmp_path / "out").exists()


def test_files_that_are_none_are_refused(pieces: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(b"not a checkpoint")
    for path, problem in ((tmp_path / "bad.pth", "cannot be read as tensors"), (tmp_path / "no.pth", "is not there")):
        with pytest.raises(ModelError, match=problem):
            convert([path], pieces / "llama", tmp_path / "out", heads=HEADS)
    with pytest.raises(ModelError, match=r"lacks 'ln_vision\.weight'"):
        convert([pieces / "eva.pth"], pieces / "llama", tmp_path / "out", heads=HEADS)
    with pytest.raises(ModelError, match="no prompt 'gpt'"):
        convert([pieces / "eva.pth"], pieces / "llama", tmp_path / "out", prompt="gpt")


def test_a_damaged_language_model_is_one_line(pieces: Path, tmp_path: Path) -> None:
    copytree(pieces / "llama", tmp_path / "llama")
    (tmp_path / "llama" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(VlmendError, match="holds no language model of transformers"):
        convert(files(pieces), tmp_path / "llama", tmp_path / "out", heads=HEADS)
    save_file({"model.norm.weight": torch.zeros(WORDS)}, tmp_path / "llama" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="holds no whole language model of transformers: it lacks"):
        convert(files(pieces), tmp_path / "llama", tmp_path / "out", heads=HEADS)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_written_to(pieces: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert convert(files(pieces), pieces / "llama", tmp_path / "out", heads=HEADS) == tmp_path / "out"
    with pytest.raises(ModelError, match="is there already"):
        convert(files(pieces), pieces / "llama", tmp_path / "out", heads=HEADS)
