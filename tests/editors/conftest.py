"""Tiny models that know something, for editors that build on what a model answers rightly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from vlmend import Edit, WeightOp
from vlmend.data.formats import plain
from vlmend.edits.merge import merge

if TYPE_CHECKING:
    from vlmend import VLM, EditCase


@pytest.fixture(scope="session")
def exemplars(cases, picture, tmp_path_factory) -> list[EditCase]:
    """The requests of `cases`, asked of other pictures, where their targets are right."""
    folder = tmp_path_factory.mktemp("exemplars")
    made: list[EditCase] = []
    for number, case in enumerate(cases):
        file = folder / f"{number}.png"
        picture(100 + number).save(file)
        made.append(replace(case, id=f"exemplar-{number}", request=replace(case.request, image=file), probes=()))
    return made


@pytest.fixture(scope="session")
def exemplars_file(exemplars, tmp_path_factory) -> Path:
    """The same on disk."""
    path = tmp_path_factory.mktemp("cases") / "exemplars.jsonl"
    plain.write(exemplars, path)
    return path


@pytest.fixture(scope="session")
def taught(tiny_folder, cases, exemplars, tmp_path_factory) -> Callable[..., VLM]:
    """`taught(family)`: a tiny model that answers the exemplars rightly and the cases as they are rejected.

    Nothing is read of a picture in its first layer, so that with another's visual states after it that is what is seen.
    """
    import vlmend

    loaded: dict[str, VLM] = {}

    def load(family: str = "llava") -> VLM:
        if family not in loaded:
            base = vlmend.load(str(tiny_folder(family)))
            wrong = [replace(case, request=replace(case.request, answer=case.rejected)) for case in cases]
            reading = base.weights.named(base.parts.modules([0], ["attn.out"]), matrices_only=True)
            blind = WeightOp.values({name: torch.zeros_like(weight) for name, weight in reading.items()})
            first = Edit(base.fingerprint, (blind,))
            lesson = vlmend.FT(layers=[1, 2, 3], modules=("mlp", "attn", "head"), steps=300, lr=1e-2, stop_loss=0.02)
            with base.using(first):
                second = lesson.fit(base, [*wrong, *exemplars])
            folder = merge(base, [first, second], tmp_path_factory.mktemp(family) / "taught")
            loaded[family] = vlmend.load(str(folder))
        return loaded[family]

    return load
