"""KE is the published one in what it reads and in its changes of weights; its training; its refusals.

The numbers are those of VLKEB's port (commit 10951b7) on random inputs; formulae are in `vlmend.editors.ke_network`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vlmend.editors.gradients import Gradient
from vlmend.editors.ke import KE, words_of
from vlmend.editors.ke_network import KENetwork
from vlmend.editors.ke_training import KETraining
from vlmend.editors.training import train
from vlmend.errors import EditError, EditFormatError, PartsError

TINY = KETraining(layers=[2, 3], modules=("mlp",), hidden=8, condition=8, lr=1e-2, steps=2, check_every=2, batch=2,
                  held_out=0.3)  # fmt: skip
OUTPUTS, INPUTS = 20, 12


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> dict[str, Tensor]:
    numbers = load_file(fixtures / "mend_ke.safetensors")
    return {name.removeprefix("ke."): x for name, x in numbers.items() if name.startswith("ke.")}


@pytest.fixture(scope="module")
def trained(tiny, cases, tmp_path_factory) -> str:
    """A folder of a network for the tiny Llava, hardly trained."""
    folder = tmp_path_factory.mktemp("ke")
    train(TINY, tiny("llava"), cases, folder)
    return str(folder)


@pytest.fixture(scope="module")
def network(golden) -> KENetwork:
    inner, outer = "param.condition.", "param.conditioners.fc_weight_conditioner.conditioners."
    tensors = {
        "read.weight": golden[f"{inner}linear._linear_layers.0.weight"],
        "read.bias": golden[f"{inner}linear._linear_layers.0.bias"],
    }
    lstm = f"{inner}lstm._module."
    tensors |= {f"lstm.{name.removeprefix(lstm)}": x for name, x in golden.items() if name.startswith(lstm)}
    for at in (0, 2):
        tensors[f"readers.0.{at}.bias"] = golden[f"{outer}{at}.bias"]
        tensors[f"readers.0.{at}.parametrizations.weight.original0"] = golden[f"{outer}{at}.weight_g"]
        tensors[f"readers.0.{at}.parametrizations.weight.original1"] = golden[f"{outer}{at}.weight_v"]
    return KENetwork.sized({"fc": (OUTPUTS, INPUTS)}, tensors).requires_grad_(False)


@pytest.fixture(scope="module")
def words(golden) -> Tensor:
    """The golden text, embedded; padding dropped."""
    ids = golden["input_ids"][0][golden["mask"][0].bool()]
    return golden["param.condition.embedding.weight"][ids]


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(1.0, float(wanted.abs().max())))


def test_what_it_reads(golden, network, words) -> None:
    close(network.conditions(words)[None], golden["condition"])


@pytest.mark.parametrize("form", ["rows", "factors"])
def test_the_change(golden, network, words, form) -> None:
    """Of rank T + 1, and the same whatever the factors that the gradient is the product of."""
    grad = golden["grad.fc.weight"]
    gradient = Gradient(grad, torch.eye(OUTPUTS))
    if form == "factors":
        u, s, v = torch.linalg.svd(grad, full_matrices=False)
        gradient = Gradient(s[:, None] * v, u.T)
    left_OT, right_TI = network(words, {"fc": gradient})["fc"]
    assert left_OT.shape == (OUTPUTS, len(gradient.inputs_TI) + 1)
    close(left_OT @ right_TI, golden["dW.fc.weight"])


def test_words(llava, cases) -> None:
    """What it says >> what it should say || the question; asked where the case does not tell; cut."""
    embed = llava.parts.embed.weight

    def ids(text: str) -> list[int]:
        return llava.tokenizer(text, add_special_tokens=False)["input_ids"]

    told = ids("blue >> red || what is at place 0 ?")[:32]
    assert torch.equal(words_of(llava, cases[0]), embed[told])
    said = llava.generate(llava.prepare([cases[0].request]), max_new_tokens=16)[0]
    asked = ids(f"{said} >> red || what is at place 0 ?")[:32]
    assert torch.equal(words_of(llava, replace(cases[0], rejected=None)), embed[asked])
    long = replace(cases[0], request=replace(cases[0].request, question="what is there ? " * 20))
    assert len(words_of(llava, long)) == 32


def test_an_edit_is_of_the_rank_of_its_tokens(llava, cases, trained) -> None:
    (op,) = KE(trained).fit(llava, cases[:1]).ops
    row = llava.prepare([cases[0].request]).rows[0]
    assert op.changes
    for change in op.changes.values():
        assert change.form == "low_rank"
        assert change.tensors[0].shape[1] <= len(row.ids_T) + len(row.target_N)


def test_a_step_of_training(llava, cases) -> None:
    """Gradients reach all of the network, and not the model."""
    lesson = TINY.lesson(llava, cases[:2], cases[2:])
    loss, terms = lesson.loss([0, 1], torch.Generator())
    loss.backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in lesson.module.parameters())
    assert all(parameter.grad is None for parameter in llava.model.parameters())
    assert float(loss.detach()) == pytest.approx(sum(terms.values()), rel=1e-6)
    assert {name.split()[0] for name in terms} == {"ce", "kl"}
    assert lesson.check().parts.keys() >= {"reliability", "text_generality", "image_locality"}


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"hidden": 0}, EditError, "hidden and condition must be above 0"),
        ({"layers": 9}, PartsError, "no layer 9"),
        ({"modules": ("norm",)}, EditError, "no linear layer"),
    ],
)
def test_refusals(llava, cases, tmp_path, change, error, problem) -> None:
    with pytest.raises(error, match=problem):
        train(replace(TINY, **change), llava, cases, tmp_path)


def test_weights_that_are_not_there(llava, cases, trained, tmp_path) -> None:
    with pytest.raises(EditError, match=r"ke needs weights that were trained .* run 'vlmend train-editor ke MODEL"):
        KE().fit(llava, cases[:1])
    about = json.loads((Path(trained) / "adapter.json").read_text())
    shapes = {name: [out + 1, width] for name, (out, width) in about["facts"]["shapes"].items()}
    (tmp_path / "adapter.json").write_text(json.dumps({**about, "facts": {**about["facts"], "shapes": shapes}}))
    (tmp_path / "adapter.safetensors").write_bytes((Path(trained) / "adapter.safetensors").read_bytes())
    with pytest.raises(EditFormatError, match="the weights for 'ke' are no network's"):
        KE(str(tmp_path)).fit(llava, cases[:1])
    assert KE.pretrained(trained) == KE(trained)
