"""Second pictures: painted by a tiny pipeline, and judged by a model of pictures and texts and by the model itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTextConfig, CLIPTextModel

from tiny_models.base import tokenizer
from vlmend import EditCase, Example
from vlmend.build.errors import Asking
from vlmend.build.pictures import Diffused, Scorer, judged
from vlmend.errors import VlmendError

TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> str:
    """A Stable Diffusion of a few thousand weights, saved as diffusers saves them."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    words = tokenizer()
    words.model_max_length = 32
    made = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=16,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        ),
        unet=diffusers.UNet2DConditionModel(
            sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
            attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=len(words), max_position_embeddings=32, **TEXT)),
        tokenizer=words,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("pipeline")
    made.save_pretrained(folder, safe_serialization=True)
    return str(folder)


def test_a_picture_is_painted_again_by_its_seed(pipeline):
    painter = Diffused(pipeline, steps=2, size=16)
    one, again, other = (painter.painted("a red dog", seed) for seed in (1, 1, 2))
    assert one.size == (16, 16)
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_no_pipeline(tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(VlmendError, match="holds no text-to-image pipeline"):
        Diffused(str(tmp_path)).check()


def test_scorer(tmp_path):
    """The likeliest caption is that with the largest logit."""
    torch.manual_seed(0)
    words = tokenizer()
    config = CLIPConfig(
        text_config={
            **TEXT,
            "vocab_size": len(words),
            "max_position_embeddings": 32,
            "eos_token_id": words.eos_token_id,
        },
        vision_config={**TEXT, "image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path / "clip")
    processor = CLIPProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}), words
    )
    processor.save_pretrained(tmp_path / "clip")
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
