"""Fixtures: tiny random models, saved to disk and loaded as a user loads them, and pictures to ask them about."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    from loopback import Served
    from vlmend import VLM, Edit, EditCase, Example

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

FIXTURES = Path(__file__).parent / "fixtures"
DEVICE = os.environ.get("VLMEND_TEST_DEVICE", "cpu")  # cuda; or pretended, which finds what would fail there
if DEVICE != "cpu":  # all that tests load is there
    import vlmend as _vlmend
    from vlmend.models.loading import load as _load

    _vlmend.load = partial(_load, device="cuda")  # type: ignore[assignment]


@pytest.fixture(scope="session", autouse=DEVICE == "pretended")
def pretended() -> Iterator[None]:
    """The whole session on a device that is none."""
    from pretended import pretending

    with pretending():
        yield


FAMILIES = (
    "llava",
    "llava_next",
    "llava_onevision",
    "internvl",
    "idefics3",
    "smolvlm",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "glm4v",
    "paligemma",
    "gemma3",
    "blip2",
    "blip2_llama",
    "instructblip",
)
CROSSING = ("mllama",)  # pictures are no tokens: layers look at them
CORE = ("llava", "llava_next", "idefics3", "qwen2_vl", "blip2")  # for what does not depend on how a model is built


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of committed sample files."""
    return FIXTURES


@pytest.fixture
def served() -> Iterator[Served]:
    """A language model on loopback that says what it is told to."""
    from loopback import serving

    with serving() as found:
        yield found


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_folder(family, seed=0)`: a saved tiny checkpoint; built once."""
    import tiny_models

    saved: dict[tuple[str, int], Path] = {}

    def folder(family: str = "llava", seed: int = 0) -> Path:
        if (family, seed) not in saved:
            saved[family, seed] = tiny_models.save(family, tmp_path_factory.mktemp(family), seed)
        return saved[family, seed]

    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Callable[..., Path]) -> Callable[..., VLM]:
    """`tiny(family)`: a loaded tiny model, shared by the session: tests leave it as they find it."""
    import torch

    import vlmend

    torch.set_num_threads(1)
    loaded: dict[str, VLM] = {}

    def load(family: str = "llava") -> VLM:
        if family not in loaded:
            loaded[family] = vlmend.load(str(tiny_folder(family)))
        return loaded[family]

    return load


@pytest.fixture(params=CORE)
def vlm(request: pytest.FixtureRequest, tiny: Callable[..., VLM]) -> Iterator[VLM]:
    """A loaded model of each of a few unlike families; checked to be left bit for bit as it was."""
    yield from left_alone(tiny(request.param))


@pytest.fixture
def llava(tiny: Callable[..., VLM]) -> Iterator[VLM]:
    """The tiny Llava; checked to be left bit for bit as it was."""
    yield from left_alone(tiny("llava"))


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """`serve(answer)`: the URL of a language model on loopback; ``answer``: body of a request -> status and bytes."""
    from loopback import serving

    with ExitStack() as stack:

        def start(answer: Callable[[dict[str, Any]], tuple[int, Any]]) -> str:
            found = stack.enter_context(serving())
            found.say = answer
            return found.url

        yield start


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Image.Image]:
    """`picture(seed)`: a small noise picture."""

    def draw(seed: int = 0, size: tuple[int, int] = (44, 36)) -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        return Image.fromarray(noise)

    return draw


@pytest.fixture(scope="session")
def cases(picture: Callable[[int], Image.Image]) -> list[EditCase]:
    """Three edit cases with all four kinds of probes."""
    from vlmend import EditCase, Example, Probe

    made: list[EditCase] = []
    for index, (right, wrong) in enumerate([("red", "blue"), ("three birds", "two"), ("a cat", "a dog")]):
        question = f"what is at place {index} ?"
        image = picture(index)
        made.append(
            EditCase(
                id=f"case-{index}",
                request=Example(question, image, right, aliases=(f"the {right}",)),
                rejected=wrong,
                probes=(
                    Probe("text_generality", Example(f"say what place {index} has", image, right)),
                    Probe("image_generality", Example(question, picture(10 + index), right)),
                    Probe("text_locality", Example("nq question: who wrote the song", None, "nobody")),
                    Probe("image_locality", Example("is there a dog ?", picture(20 + index), "no")),
                ),
                source="tests",
            )
        )
    return made


def left_alone(model: VLM) -> Iterator[VLM]:
    """Lend a model to a test, and check that it comes back bit for bit as it was."""
    before = weights_of(model)
    hooks = hooks_of(model)
    yield model
    assert_untouched(model, before)
    assert hooks_of(model) == hooks


def weights_of(model: VLM) -> dict[str, Any]:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in model.model.state_dict().items()}


def assert_untouched(model: VLM, before: dict[str, Any]) -> None:
    """Every tensor is bit for bit as it was."""
    import torch

    now = model.model.state_dict()
    assert now.keys() == before.keys()
    changed = [name for name in before if not torch.equal(now[name], before[name])]
    assert not changed


def hooks_of(model: VLM) -> list[tuple[str, tuple[int, ...]]]:
    """Every hook on every module, by its key."""
    return [
        (name, (*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks))
        for name, module in model.model.named_modules()
    ]


def said_by_forced_runs(vlm: VLM, example: Example, edit: Edit, tokens: int) -> str:
    """The greedy answer, a token at a time, each by a full forward pass over all before it."""
    import torch

    prepared = vlm.prepare([example])
    said: list[int] = []
    for _ in range(tokens):
        row = replace(prepared.rows[0], target_N=torch.tensor([*said, 0]), answer_length=len(said) + 1)
        logits_V = vlm.run(replace(prepared, rows=(row,)), edit).rows[0].logits_NV[-1]
        logits_V[vlm.parts.image_token : vlm.parts.image_token + 1] = -torch.inf  # Mllama has none for it
        said.append(int(logits_V.argmax()))
        if said[-1] == vlm.tokenizer.eos_token_id:
            break
    return vlm.tokenizer.decode(said, skip_special_tokens=True).strip()
