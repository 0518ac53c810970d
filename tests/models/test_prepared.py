from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image

from vlmend import Example
from vlmend.errors import PromptError
from vlmend.models.pictures import content_hash, open_picture


def test_prompts_follow_the_chat_template(llava, picture):
    prepared = llava.prepare([Example("what ?", picture(1), "red"), Example("who ?", None, "nobody")])
    with_picture, without = prepared.rows
    assert with_picture.prompt == "<s><image> <user> what ? <assistant>"
    assert without.prompt == "<s> <user> who ? <assistant>"
    for row in prepared.rows:
        assert row.ids_T.tolist().count(llava.tokenizer.bos_token_id) == 1
    assert int(with_picture.visual_T.sum()) == 16
    assert llava.tokenizer.decode(without.target_N) == " nobody</s>"
    assert without.answer_length == len(without.target_N) - 1


def test_without_a_chat_template(tiny, picture):
    blip = tiny("blip2")
    rows = blip.prepare([Example("what ?", picture(1), "red"), Example("who ?", None, "nobody")]).rows
    assert [row.prompt for row in rows] == ["what ?", "who ?"]
    assert [int(row.visual_T.sum()) for row in rows] == [8, 0]
    assert [blip.tokenizer.decode(row.target_N) for row in rows] == [" red</s>", " nobody</s>"]


def test_one_string_or_two(llava):
    """The answer's tokens are those after the prompt's, as they stand in one string."""
    row = llava.prepare([Example("is there a dog ?", None, "no , there is a cat")]).rows[0]
    whole = llava.tokenizer.encode(row.prompt + " no , there is a cat</s>", add_special_tokens=False)
    assert [*row.ids_T.tolist(), *row.target_N.tolist()] == whole


def test_answers_are_trimmed(llava):
    plain, spaced = llava.prepare([Example("who ?", None, "me"), Example("who ?", None, "  me\n")]).rows
    assert plain.target_N.tolist() == spaced.target_N.tolist()


def test_no_answer_no_target(llava):
    prepared = llava.prepare([Example("who ?"), Example("who ?", None, " "), Example("who ?", None, "me")])
    assert [len(row.target_N) for row in prepared.rows][:2] == [0, 0]
    rows = llava.run(prepared).rows
    assert [len(row.logits_NV) for row in rows][:2] == [0, 0]
    assert len(rows[2].logits_NV) > 0


def test_equal_pictures_are_one(llava, picture, tmp_path):
    picture(3).save(tmp_path / "one.png")
    picture(3).save(tmp_path / "two.bmp")
    prepared = llava.prepare(
        [Example("a", tmp_path / "one.png"), Example("b", tmp_path / "two.bmp"), Example("c", picture(3))]
    )
    assert len(prepared.pictures) == 1
    assert content_hash(picture(3)) != content_hash(picture(4))
    assert content_hash(Image.new("RGB", (2, 3))) != content_hash(Image.new("RGB", (3, 2)))


@pytest.mark.parametrize("shared", [False, True])
def test_a_question_is_processed_once_for_all_its_answers(vlm, picture, monkeypatch, shared):
    asked = [Example("what ?", picture(1), "a red"), Example("what ?", picture(2), "a"), Example("who ?", picture(1))]
    asked += [replace(asked[0], answer=answer) for answer in ("blue", None)]
    alone = [vlm.prepare([one]).rows[0] for one in asked]
    fields, calls = vlm._preparer.fields, []
    monkeypatch.setattr(vlm._preparer, "fields", lambda *given: calls.append(given) or fields(*given))
    with vlm.sharing() if shared else nullcontext():
        prepared = vlm.prepare(asked)
        assert len(calls) == 3
        again = vlm.prepare([replace(asked[1], answer="a cat")]).rows[0]
        assert len(calls) == (3 if shared else 4)
    assert again.picture == alone[1].picture
    for one, row, example in zip(alone, prepared.rows, asked, strict=True):
        assert torch.equal(one.ids_T, row.ids_T) and torch.equal(one.target_N, row.target_N)
        assert (one.answer_length, one.picture, row.asked) == (row.answer_length, row.picture, example)


@pytest.mark.parametrize("files", [False, True])
def test_a_picture_is_processed_once_for_all_its_questions(vlm, picture, monkeypatch, tmp_path, files):
    """Whatever the processor: rows and what the encoder is given are those of each question by itself."""
    pictures = [picture(1), picture(2)]
    if files:
        for index, one in enumerate(pictures):
            one.save(tmp_path / f"{index}.png")
        pictures = [tmp_path / "0.png", tmp_path / "1.png"]
    asked = [Example(f"what is {word} ?", one, "red") for word in ("it", "this here") for one in pictures]
    alone = [vlm.prepare([one]) for one in asked]
    made = type(vlm.processor.image_processor)
    process, calls = made.__call__, []
    monkeypatch.setattr(made, "__call__", lambda self, *given, **set: calls.append(1) or process(self, *given, **set))
    prepared = vlm.prepare(asked)
    assert len(calls) == 2
    for one, row in zip(alone, prepared.rows, strict=True):
        assert torch.equal(one.rows[0].ids_T, row.ids_T) and one.rows[0].picture == row.picture
        assert one.rows[0].extras.keys() == row.extras.keys()
        mine, own = prepared.pictures[row.picture], one.pictures[row.picture]
        assert mine.keys() == own.keys() and all(torch.equal(mine[name], own[name]) for name in own)


def test_what_is_set_of_the_image_processor_is_heeded(llava, picture):
    """What it made before of the same picture is not what it makes of it now."""
    own = llava.processor.image_processor
    picture_1 = picture(1)

    def pixels() -> torch.Tensor:
        return next(iter(llava.prepare([Example("what ?", picture_1)]).pictures.values()))["pixel_values"]

    before, mean = pixels(), own.image_mean
    own.image_mean = [0.0, 0.0, 0.0]
    changed = pixels()
    own.image_mean = mean
    assert torch.equal(pixels(), before) and not torch.equal(changed, before)
    llava.processor.image_processor = copy.copy(own)
    llava.processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    try:
        assert torch.equal(pixels(), changed)
    finally:
        llava.processor.image_processor = own


def test_nothing_to_run(llava):
    prepared = llava.prepare([])
    assert llava.run(prepared).rows == ()
    assert llava.generate(prepared) == []


def test_more_rows_than_a_batch(llava, picture, monkeypatch):
    examples = [Example("what ? " * (1 + index % 3), picture(index % 2), "red") for index in range(7)]
    prepared = llava.prepare(examples)
    at_once = llava.run(prepared).rows
    said = llava.generate(prepared, max_new_tokens=3)
    monkeypatch.setattr(llava, "batch_rows", 2)
    for one, other in zip(at_once, llava.run(prepared).rows, strict=True):
        assert (one.logits_NV - other.logits_NV).abs().max() < 2e-5
    assert llava.generate(prepared, max_new_tokens=3) == said


def test_bad_pictures(llava, picture, tmp_path):
    whole = tmp_path / "whole.jpg"
    picture(1, (200, 200)).save(whole)
    (tmp_path / "half.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name, problem in [("none.png", "no such file"), ("half.jpg", "truncated"), ("text.png", "cannot identify")]:
        with pytest.raises(PromptError, match=problem) as caught:
            llava.prepare([Example("what ?", tmp_path / name)])
        assert name in str(caught.value)


def test_grey_and_transparent_pictures(llava):
    assert open_picture(Image.new("RGBA", (8, 8))).mode == "RGB"
    llava.run(llava.prepare([Example("what ?", Image.new("L", (8, 8)), "red")]))


def test_turned_photographs(picture, tmp_path):
    upright = picture(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    assert content_hash(open_picture(tmp_path / "turned.png")) == content_hash(upright)


def test_empty_question(llava):
    with pytest.raises(PromptError, match="empty question"):
        llava.prepare([Example("")])


def test_markers_that_do_not_fit(llava, picture):
    one, two = picture(1), (picture(1), picture(2))
    for question, image, problem in [
        ("what is <image> ?", None, r"0 picture\(s\) were given for 1 <image> marker"),
        ("<image> and <image> ?", one, r"1 picture\(s\) were given for 2 <image> marker"),
        ("what is <image> ?", two, r"2 picture\(s\) were given for 1 <image> marker"),
        ("what is <image> ?", (), "0 picture"),
    ]:
        with pytest.raises(PromptError, match=problem) as caught:
            llava.prepare([Example(question, image)])
        assert question in str(caught.value)


def test_the_models_own_token_in_the_question(tiny, picture):
    """It cannot be told from a picture's."""
    for image in (None, picture(1)):
        with pytest.raises(PromptError, match="image_pad"):
            tiny("qwen2_vl").prepare([Example("what is <|image_pad|> ?", image, "red")])
