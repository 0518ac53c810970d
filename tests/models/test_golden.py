"""A small Llava in its published layout gives the numbers that transformers gives for it, here as everywhere.

The numbers were made in float32 on one thread with transformers 4.43, whose prompts had one token a picture, and agree
with those of 5.23, whose prompts have one a patch.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vlmend
from vlmend import VLM, Example
from vlmend.models.prepared import Prepared
from vlmend.models.trace import capture

SAMPLES = 3
END = torch.tensor([2])


@pytest.fixture(scope="module", params=["as saved today", "as published"])
def golden(request: pytest.FixtureRequest, fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> VLM:
    """The model; in its older form no file says how many visual tokens a picture has."""
    folder = fixtures / "tiny_llava"
    if request.param == "as published":
        folder = shutil.copytree(folder, tmp_path_factory.mktemp("golden") / "older")
        (folder / "processor_config.json").unlink()
    return vlmend.load(folder)


@pytest.fixture(scope="module")
def expected(fixtures: Path) -> dict[str, torch.Tensor]:
    return load_file(fixtures / "tiny_llava" / "golden.safetensors")


@pytest.fixture(scope="module")
def about(fixtures: Path) -> dict[str, list]:
    return json.loads((fixtures / "tiny_llava" / "golden.json").read_text())


@pytest.fixture(scope="module")
def prepared(golden: VLM, expected: dict[str, torch.Tensor], about: dict[str, list]) -> Prepared:
    """The three samples, their pictures given as pixels."""
    pictures = [Image.fromarray(np.asarray(expected[f"image_uint8.{i}"])) for i in range(SAMPLES)]
    return golden.prepare([Example(prompt, one) for prompt, one in zip(about["prompts"], pictures, strict=True)])


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within 1e-5 of the largest value, or of 1."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


def test_tokens_and_visual_positions(
    prepared: Prepared, expected: dict[str, torch.Tensor], about: dict[str, list]
) -> None:
    for index, (row, (start, stop)) in enumerate(zip(prepared.rows, about["visual_ranges"], strict=True)):
        assert torch.equal(row.ids_T, expected[f"input_ids_expanded.{index}"][0])
        assert row.visual_T.nonzero().flatten().tolist() == list(range(start, stop))
        assert stop - start == 36


def test_pixels(prepared: Prepared, expected: dict[str, torch.Tensor]) -> None:
    for index, row in enumerate(prepared.rows):
        close(prepared.pictures[row.content]["pixel_values"], expected[f"pixel_values.{index}"])


def test_logits_at_every_position(golden: VLM, prepared: Prepared, expected: dict[str, torch.Tensor]) -> None:
    for index, row in enumerate(prepared.rows):
        with torch.no_grad():
            found = golden.model(input_ids=row.ids_T[None], **prepared.pictures[row.content]).logits
        close(found, expected[f"logits.{index}"])


def test_logits_of_a_padded_batch(golden: VLM, prepared: Prepared, expected: dict[str, torch.Tensor]) -> None:
    """Our own forward pass, with the words behind the picture as the answer: all positions from its last token on."""
    end = 37
    rows = [
        replace(row, ids_T=row.ids_T[:end], visual_T=row.visual_T[:end], target_N=torch.cat([row.ids_T[end:], END]))
        for row in prepared.rows
    ]
    for index, row in enumerate(golden.run(replace(prepared, rows=tuple(rows))).rows):
        close(row.logits_NV, expected[f"logits.{index}"][0, end - 1 :])


def test_states_of_every_layer(golden: VLM, prepared: Prepared, expected: dict[str, torch.Tensor]) -> None:
    layers = golden.parts.layers
    for index, row in enumerate(prepared.rows):
        asked = replace(prepared, rows=(replace(row, target_N=END),))
        with capture({str(number): layer for number, layer in enumerate(layers)}) as calls:
            golden.run(asked)
        with capture({"layer": layers[0]}) as first:
            golden.run(asked)
        last = len(row.ids_T) - 1  # the answer's token comes behind it
        close(first[0].input[0, : last + 1], expected[f"inputs_embeds.{index}"][0])  # type: ignore[index]
        for number, call in enumerate(calls):
            close(call.output[0, last], expected[f"layer_out_last.{index}.{number}"])
