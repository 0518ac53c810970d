"""Second pictures: painted by a tiny pipeline, and judged by a model of pictures and texts and by the model itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTextModel

from pretended import pretending
from tiny_models.base import tokenizer
from tiny_models.painting import TEXT, save_clip, save_pipeline
from vlmend import EditCase, Example
from vlmend.build.errors import Asking
from vlmend.build.pictures import Diffused, Scorer, judged
from vlmend.errors import VlmendError


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> str:
    """A tiny Stable Diffusion."""
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def test_a_picture_is_painted_again_by_its_seed(pipeline):
    painter = Diffused(pipeline, steps=2, size=16)
    one, again, other = (painter.painted("a red dog", seed) for seed in (1, 1, 2))
    assert one.size == (16, 16)
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_they_are_where_they_are_told_to_be(pipeline, tmp_path):
    """On a device that is none: what is left behind on the CPU is noticed."""
    clip = save_clip(tmp_path / "clip")
    captions, picture = ["a red dog", "the song"], Image.new("RGB", (20, 16), "red")
    here = Scorer(clip).likeliest(picture, captions)
    with pretending():
        assert Scorer(clip, "cuda").likeliest(picture, captions) == here
        painter: Any = Diffused(pipeline, device="cuda")
        parts = (painter._pipeline.unet, painter._pipeline.vae, painter._pipeline.text_encoder)
        assert all(next(part.parameters()).device.type == "cuda" for part in parts)


def test_no_pipeline(tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(VlmendError, match="holds no text-to-image pipeline"):
        Diffused(str(tmp_path)).check()


def test_scorer(tmp_path):
    """The likeliest caption is that with the largest logit."""
    save_clip(tmp_path / "clip")
    model, processor = CLIPModel.from_pretrained(tmp_path / "clip"), CLIPProcessor.from_pretrained(tmp_path / "clip")
    captions, picture = ["a red dog", "the song", "what is in the cup ?"], Image.new("RGB", (20, 16), "red")
    given = processor(text=captions, images=picture, return_tensors="pt", padding=True)
    with torch.no_grad():
        wanted = int(model(**given).logits_per_image[0].argmax())
    assert Scorer(str(tmp_path / "clip")).likeliest(picture, captions) == wanted
    Scorer(str(tmp_path / "clip")).check()
    with pytest.raises(VlmendError, match="holds no model of pictures and texts"):
        Scorer(str(tmp_path)).check()


def test_a_model_of_texts_alone_scores_no_pictures(tmp_path):
    words = tokenizer()
    CLIPTextModel(CLIPTextConfig(vocab_size=len(words), max_position_embeddings=32, **TEXT)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    with pytest.raises(VlmendError, match="holds no"):
        Scorer(str(tmp_path)).check()


def test_without_other_questions_the_same_error_is_made(tiny, picture):
    vlm, right = tiny("llava"), Asking().right
    case = EditCase("a", Example("what is it ?", picture(1), "red"))
    said = vlm.answer(picture(1), "what is it ?", max_new_tokens=4)

    def flaw(case: EditCase) -> str | None:
        return judged(vlm, case, replace(case.request, image=picture(1)), [], right, max_new_tokens=4)

    assert flaw(replace(case, rejected=said)) is None
    assert flaw(replace(case, rejected=f"not {said}")) == "the model says something else of it"
    assert flaw(replace(case, request=replace(case.request, answer=said))) == "the model is right about it"


def test_recognised_where_other_questions_are_answered_rightly(tiny, picture):
    """Whatever it says of the case's own question, as long as it is wrong."""
    vlm, right = tiny("llava"), Asking().right
    case = EditCase("a", Example("what is it ?", picture(1), "red"), rejected="not what it says")
    asked = ["what colour is it ?", "where is it ?"]
    known = [Example(one, picture(2), vlm.answer(picture(1), one, max_new_tokens=4)) for one in asked]
    wrong = replace(known[1], answer="nothing of the kind")
    assert judged(vlm, case, case.request, known, right, max_new_tokens=4) is None
    found = judged(vlm, case, case.request, [known[0], wrong], right, max_new_tokens=4)
    assert found == "the model does not recognise it"


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("there is a cat on this desk", None),
        ("a table without anything", "the model is right about it"),
        ("a dog on a table", "the model says something else of it"),
        ("a cat", "the model does not recognise it"),
    ],
)
def test_captions_are_judged_by_their_objects(monkeypatch, tiny, picture, said, wrong):
    """Another wrong caption that names the table again, and the cat that is not there, is the same error."""
    vlm = tiny("llava")
    monkeypatch.setattr(type(vlm), "generate", lambda self, prepared, **_: [said])
    case = EditCase("a", Example("describe it", picture(1), "a table"), rejected="a cat lies on a table")
    second = replace(case.request, image=picture(2))
    assert judged(vlm, case, second, [], Asking("caption", synonyms="table, desk\ncat\ndog").right) == wrong
