"""What a memory of visual edits promises beyond the contract, and the training of its keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlmend import Example
from vlmend.data.records import TEXT_GENERALITY
from vlmend.editors.shelf import Trained
from vlmend.editors.training import train
from vlmend.editors.vead_memory import VEADMemory
from vlmend.editors.vead_memory_training import VEADMemoryLesson, VEADMemoryTraining
from vlmend.editors.vead_training import VEADTraining
from vlmend.edits.memory import MemoryOp
from vlmend.errors import EditError, EditFormatError

ADAPTER = VEADTraining(
    layers=[1], width=16, heads=4, gate_width=16, samples=4, steps=8, check_every=8, batch=2, held_out=0.3, lr=1e-2
)
TINY = VEADMemoryTraining(width=16, size=8, heads=4, steps=6, check_every=3, batch=2, held_out=0.3)


@pytest.fixture(scope="module")
def adapter(tiny, cases, tmp_path_factory) -> str:
    """An adapter whose way out is not nothing, whatever its best check was."""
    folder = tmp_path_factory.mktemp("adapter")
    found = train(ADAPTER, tiny("llava"), cases, folder)
    draw = torch.Generator().manual_seed(0)
    out = {name: torch.randn(x.shape, generator=draw) for name, x in found.tensors.items() if "leave" in name}
    replace(found, tensors={**found.tensors, **out}).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(tiny, cases, adapter, tmp_path_factory) -> str:
    """A folder of keys and an adapter for the tiny Llava, hardly trained."""
    folder = tmp_path_factory.mktemp("memory")
    train(replace(TINY, adapter=adapter), tiny("llava"), cases, folder)
    return str(folder)


def logits(vlm, example: Example, edit) -> torch.Tensor:
    return vlm.run(vlm.prepare([replace(example, answer="red")]), edit).rows[0].logits_NV


def test_acts_where_it_was_asked_and_nowhere_near(llava, cases, trained, picture) -> None:
    edit = VEADMemory(trained, bar=0.99999).fit(llava, cases)
    (memory,) = edit.ops
    assert isinstance(memory, MemoryOp)
    assert len(memory.entries) == len(cases)
    asked = cases[0].request
    assert not torch.allclose(logits(llava, asked, None), logits(llava, asked, edit), atol=1e-3)
    for near in (replace(asked, question="who ?"), replace(asked, image=picture(9)), replace(asked, image=None)):
        assert torch.equal(logits(llava, near, None), logits(llava, near, edit))


def test_the_descent_begins_at_what_the_adapter_makes(llava, cases, trained) -> None:
    asked = llava.prepare([cases[0].request])

    def loss(**settings) -> float:
        row = llava.run(asked, VEADMemory(trained, **settings).fit(llava, cases[:1])).rows[0]
        return float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N))

    assert loss(steps=30, lr=0.5) < loss(steps=0) - 0.5
    assert loss(steps=30, stop_loss=100.0) == loss(steps=0)


def test_the_adapter_is_stored_once(llava, cases, trained, tmp_path) -> None:
    sizes = []
    for count in (1, 3):
        folder = VEADMemory(trained, steps=1).fit(llava, cases[:count]).save(tmp_path / str(count))
        sizes.append((folder / "edit.safetensors").stat().st_size)
    shared = sum(x.nbytes for x in Trained.load(Path(trained)).tensors.values())
    assert sizes[1] - sizes[0] < 0.5 * shared


def test_keys_tell_near_misses_apart(llava, cases, trained, adapter) -> None:
    """Learnt on the very cases: each prompt recalls its own, or none."""
    method = replace(TINY, adapter=adapter, keeps=("image_locality",), learns=(TEXT_GENERALITY,), lr=1e-2)
    lesson = VEADMemoryLesson(method, llava, cases, cases)
    before = lesson.check()
    optimizer = torch.optim.Adam(lesson.module.parameters(), lr=1e-2)
    for step in range(60):
        loss, parts = lesson.loss(range(3), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = lesson.check()
    assert set(parts) == {"own", "near", "other"}
    assert after.loss < before.loss
    assert after.score == 1.0
    assert 0 < float(lesson.module.bar) < 1
    held = [one for name, one in lesson.module.named_parameters() if name.startswith("adapter.")]
    assert held and all(one.grad is None for one in held)


def test_a_training_that_was_cut_short_ends_the_same(llava, cases, adapter, tmp_path) -> None:
    method = replace(TINY, adapter=adapter)
    whole = train(method, llava, cases, tmp_path / "whole")

    class Killed(Exception): ...

    def kill(done: int, _all: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        train(method, llava, cases, tmp_path / "cut", progress=kill)
    again = train(method, llava, cases, tmp_path / "cut")
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)
    own = Trained.load(Path(adapter)).tensors
    assert all(torch.equal(tensor, whole.tensors[f"adapter.{name}"]) for name, tensor in own.items())


def test_refusals(llava, cases, adapter, trained, tmp_path) -> None:
    blind = replace(cases[0], request=replace(cases[0].request, image=None))
    with pytest.raises(EditError, match="case-0' has no picture"):
        VEADMemory(trained).fit(llava, [blind])
    with pytest.raises(EditError, match="vead-memory needs weights that were trained for this model"):
        VEADMemory(adapter).fit(llava, cases[:1])
    with pytest.raises(EditError, match="3 heads do not divide the width 16"):
        train(replace(TINY, adapter=adapter, heads=3), llava, cases, tmp_path / "heads")
    with pytest.raises(EditError, match="vead needs weights that were trained for this model"):
        train(TINY, llava, cases, tmp_path / "none")
    train(replace(ADAPTER, layers=[1, 2], steps=1, check_every=1), llava, cases, tmp_path / "two")
    with pytest.raises(EditError, match="the adapter is for 2: train one for one"):
        train(replace(TINY, adapter=str(tmp_path / "two")), llava, cases, tmp_path / "memory")
    about = json.loads((Path(trained) / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps({**about, "facts": {"heads": 4}}))
    (tmp_path / "adapter.safetensors").write_bytes((Path(trained) / "adapter.safetensors").read_bytes())
    with pytest.raises(EditFormatError, match="the weights for 'vead-memory' are no memory's"):
        VEADMemory(str(tmp_path)).fit(llava, cases[:1])
