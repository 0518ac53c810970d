"""Every family takes its turn; and a published tiny Llava with the numbers that VisEdit gives for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from conftest import FAMILIES, left_alone

if TYPE_CHECKING:
    from torch import Tensor

    from vlmend import VLM, Example


@pytest.fixture(params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tiny: Callable[..., VLM]) -> Iterator[VLM]:
    """A loaded model of every family in turn; checked to be left bit for bit as it was."""
    yield from left_alone(tiny(request.param))


@dataclass(frozen=True)
class Golden:
    """A model, its three samples, and what is expected of them."""

    vlm: VLM
    examples: list[Example]
    numbers: dict[str, Tensor]
    said: dict[str, Any]


@pytest.fixture(scope="session")
def golden(fixtures: Path) -> Golden:
    from safetensors.torch import load_file

    import vlmend

    given = load_file(fixtures / "tiny_llava" / "golden.safetensors")
    said = json.loads((fixtures / "visedit" / "attribution.json").read_text())
    pictures = [Image.fromarray(np.asarray(given[f"image_uint8.{i}"])) for i in range(len(said["prompts"]))]
    return Golden(
        vlm=vlmend.load(fixtures / "tiny_llava"),
        examples=[vlmend.Example(prompt, one) for prompt, one in zip(said["prompts"], pictures, strict=True)],
        numbers=load_file(fixtures / "visedit" / "attribution.safetensors"),
        said=said,
    )
