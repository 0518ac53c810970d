"""MEND is the published one in its normalisation, its network and its changes of weights; its training; its refusals.

The numbers are those of EasyEdit's classes (commit 14cea82) on random inputs; formulae are in
`vlmend.editors.mend_network`. The published code adds alpha times the change, as is done here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vlmend
from vlmend.data.records import IMAGE_LOCALITY, TEXT_LOCALITY
from vlmend.editors.gradients import Gradient
from vlmend.editors.mend import MEND
from vlmend.editors.mend_network import IDMLP, MENDNetwork, Moments, grouped
from vlmend.editors.mend_training import MENDTraining
from vlmend.editors.shelf import Trained
from vlmend.editors.training import train
from vlmend.errors import EditError, EditFormatError, PartsError

TINY = MENDTraining(
    layers=[2, 3], modules=("mlp",), rank=8, lr=1e-3, alpha=2e-3, steps=4, check_every=2, batch=2, held_out=0.3
)
INPUTS, OUTPUTS = 16, 24


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> dict[str, Tensor]:
    return load_file(fixtures / "mend_ke.safetensors")


@pytest.fixture(scope="module")
def trained(tiny, cases, tmp_path_factory) -> str:
    """A folder of networks for the tiny Llava, hardly trained."""
    folder = tmp_path_factory.mktemp("mend")
    train(TINY, tiny("llava"), cases, folder)
    return str(folder)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def weights(golden: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The published network's tensors by our names."""
    names = {"u": "out", "v": "into", "bias": "bias"}
    names |= {"mode_scale.weight": "scale", "mode_shift.weight": "shift"} if layers > 1 else {}
    return {
        f"maps.{at}.{mine}": golden[f"mend.param.mlp.layers.{at}.{theirs}"]
        for at in range(2)
        for theirs, mine in names.items()
    }


def network(golden: dict[str, Tensor], moments: Moments, layers: int) -> IDMLP:
    made = IDMLP(INPUTS, INPUTS + OUTPUTS, 10, layers)
    made.load_state_dict(weights(golden, layers) | {"mean": made.mean, "deviation": made.deviation})
    made.measure(moments)
    return made.requires_grad_(False)


def gradient(golden: dict[str, Tensor], call: str) -> Gradient:
    return Gradient.of(golden[f"mend.{call}.u"][0], golden[f"mend.{call}.delta"][0])


def moments_after(golden: dict[str, Tensor], calls: int) -> Moments:
    found = Moments.none(INPUTS + OUTPUTS)
    for call in range(calls):
        one = gradient(golden, f"train{call}")
        found = found.with_more(torch.cat([one.inputs_TI, one.deltas_TO], -1))
    return found


@pytest.mark.parametrize("call", [0, 1])
def test_normalisation_and_what_follows_from_it(golden, call) -> None:
    """The published statistics are running ones, a token at a time; ours are of all tokens, and the same."""
    found = moments_after(golden, call + 1)
    stat = {key.rsplit(".", 1)[1]: x for key, x in golden.items() if key.startswith(f"mend.train{call}.stat.")}
    assert found.count == int(stat["k"])
    close(found.mean_D, torch.cat([stat["u_mean"], stat["v_mean"]]))
    close(found.squares_D, torch.cat([stat["u_s"], stat["v_s"]]))
    close(found.deviation_D, torch.cat([stat["u_std"], stat["v_std"]]))
    made = network(golden, found, 2)(gradient(golden, f"train{call}"), call)
    close(made.inputs_TI, golden[f"mend.train{call}.u_tilde"])
    close(made.deltas_TO, golden[f"mend.train{call}.delta_tilde"])


@pytest.mark.parametrize(("name", "layers", "layer"), [("mode0", 2, 0), ("mode1", 2, 1), ("nomode", 1, 0)])
def test_the_network_and_the_change(golden, name, layers, layer) -> None:
    """Two layers that share a network, and one that has its own."""
    made = network(golden, moments_after(golden, 2), layers)(gradient(golden, "eval"), layer)
    close(made.inputs_TI, golden[f"mend.eval.{name}.u_tilde"])
    close(made.deltas_TO, golden[f"mend.eval.{name}.delta_tilde"])
    whole = MENDNetwork([list("ab"[:layers])], dict.fromkeys("ab"[:layers], (OUTPUTS, INPUTS)), 10, 0.037, 0.5)
    state = network(golden, moments_after(golden, 2), layers).state_dict()
    whole.load_state_dict(whole.state_dict() | {f"networks.0.{key}": x for key, x in state.items()})
    left_OT, right_TI = whole({"ab"[layer]: gradient(golden, "eval")})["ab"[layer]]
    assert left_OT.shape == (OUTPUTS, 7)  # two of nine tokens have no input, or no gradient
    close((left_OT @ right_TI).detach(), golden[f"mend.eval.{name}.dW"])


def test_a_network_in_use_holds_two_matrices_as_one_where_that_is_less(golden) -> None:
    """And gives the golden figures so."""
    shapes = {"a": (OUTPUTS, INPUTS)}
    for rank in (INPUTS + OUTPUTS, 10):
        fresh = MENDNetwork([["a"]], shapes, rank)
        used = MENDNetwork.trained([["a"]], shapes, fresh.state_dict())
        assert [one.both is not None for one in used.networks[0].maps] == [rank > 10] * 2
        assert used.state_dict().keys() == fresh.state_dict().keys()
    made = network(golden, moments_after(golden, 2), 2)
    for one in made.maps:
        one.join()
    close(made(gradient(golden, "eval"), 1).deltas_TO, golden["mend.eval.mode1.delta_tilde"])


def test_one_map_by_hand() -> None:
    """Of one input and one output: z = (1, -2); V z = 3, U V z + b = (3, -5); twice that and 1 more: (7, -9)."""
    made = IDMLP(1, 2, 1, 2)
    first, second = made.maps
    with torch.no_grad():
        first.into.copy_(torch.tensor([[1.0, -1.0]]))
        first.out.copy_(torch.tensor([[1.0], [-1.0]]))
        first.bias.copy_(torch.tensor([0.0, -2.0]))
        first.scale[1], first.shift[1] = 2.0, 1.0
        second.into.zero_()
    found = made(Gradient(torch.tensor([[1.0]]), torch.tensor([[-2.0]])), 1)
    assert float(found.inputs_TI.detach()) == pytest.approx(1 + 7)
    assert float(found.deltas_TO.detach()) == pytest.approx(-2)


def test_what_never_varied_is_not_blown_up() -> None:
    """An input that was the same at all tokens that were learnt from, and is not at another."""
    seen = torch.tensor([[1.0, 0.0, 1.0, 2.0], [3.0, 0.0, 2.0, 2.5]])
    made = IDMLP(2, 4, 1, 1)
    made.measure(Moments.none(4).with_more(seen))
    moved = made(Gradient(torch.tensor([[2.0, 0.1]]), torch.tensor([[1.5, 2.0]])), 0)
    assert float(moved.inputs_TI.detach().abs().max()) < 1e3


def test_the_first_step_is_downhill(llava, cases, trained) -> None:
    """Before the first step of training an edit is a step of descent on normalised gradients."""
    at_first = replace(TINY, steps=1, check_every=1, lr=1e-9, alpha_lr=1e-9, shared=False)
    folder = Path(trained) / "first"
    train(at_first, llava, cases, folder)
    prepared = llava.prepare([cases[0].request])

    def loss(edit) -> float:
        row = llava.run(prepared, edit).rows[0]
        return float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N))

    assert loss(MEND(str(folder)).fit(llava, cases[:1])) < loss(None) - 1


def test_an_edit_is_of_the_rank_of_its_tokens(llava, cases, trained) -> None:
    edit = MEND(trained).fit(llava, cases)
    tokens = sum(len(row.ids_T) + len(row.target_N) - 1 for row in llava.prepare([c.request for c in cases]).rows)
    base = dict(llava.weights.base())
    (op,) = edit.ops
    assert set(op.names) == set(llava.weights.linears(llava.parts.modules([2, 3], ["mlp"])))
    for name, change in op.changes.items():
        assert change.form == "low_rank"
        assert change.shape == base[name].shape
        assert sum(x.numel() for x in change.tensors) <= tokens * sum(change.shape)


def test_several_requests_add_up(llava, cases, trained) -> None:
    edits = [MEND(trained).fit(llava, [case]) for case in cases]
    (both,) = MEND(trained).fit(llava, cases).ops
    for name, weight in llava.weights.base():
        if name in both.names:
            nothing = torch.zeros_like(weight)
            close(both.fold(name, nothing), sum(edit.ops[0].fold(name, nothing) for edit in edits), 1e-5)


class NoMatrix(TorchDispatchMode):
    """Nothing is made that has the shape of one of these weights; the model's own are looked at, not made."""

    def __init__(self, vlm: vlmend.VLM, names: list[str]) -> None:
        super().__init__()
        base = dict(vlm.weights.base())
        self.shapes = {shape for name in names for shape in (base[name].shape, base[name].shape[::-1])}
        self.own = {x.untyped_storage().data_ptr() for x in base.values()}
        self.seen = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, Tensor):
                self.seen += 1
                mine = one.untyped_storage().data_ptr() in self.own
                assert mine or one.shape not in self.shapes, f"{function} makes {tuple(one.shape)}"
        return found


@pytest.mark.parametrize("shared", [True, False])
def test_a_step_of_training(llava, cases, shared) -> None:
    """Its terms are those of the edits, applied as they would be; gradients reach the network, and not the model."""
    method = replace(TINY, shared=shared, keeps=(TEXT_LOCALITY, IMAGE_LOCALITY))
    lesson = method.lesson(llava, cases[:2], cases[2:])
    names = [name for group in lesson.facts["groups"] for name in group]
    with NoMatrix(llava, names) as watched:
        loss, terms = lesson.loss([0, 1], torch.Generator())
        loss.backward()
    assert watched.seen > 100
    grads = {name: one.grad for name, one in lesson.module.named_parameters()}
    touched = [name for name, grad in grads.items() if grad is not None and bool(grad.any())]
    assert any("steps" in name for name in touched) and any(name.endswith("out") for name in touched)
    assert all(parameter.grad is None for parameter in llava.model.parameters())
    assert float(loss.detach()) == pytest.approx(sum(terms.values()), rel=1e-6)
    kinds = ("ce reliability", "ce text_generality", "ce image_generality", "kl text_locality", "kl image_locality")
    assert tuple(terms) == kinds
    wanted = {kind: [] for kind in terms}
    trained = Trained("mend", llava.fingerprint, lesson.facts, lesson.module.state_dict(), {})
    for case in cases[:2]:
        edit = edit_with(llava, case, trained)
        for kind, example in (("ce reliability", case.request), *((f"ce {p.kind}", p.example) for p in case.probes)):
            prepared = llava.prepare([example])
            before, after = (llava.run(prepared, one).rows[0].logits_NV.log_softmax(-1) for one in (None, edit))
            if kind in wanted:
                wanted[kind].append(-after.gather(-1, prepared.rows[0].target_N[:, None]).flatten())
            else:
                wanted[kind.replace("ce", "kl")].append((before.exp() * (before - after)).sum(-1))
    for kind, values in wanted.items():
        weight = 1.0 if kind.startswith("kl") else 0.1
        assert terms[kind] == pytest.approx(weight * float(torch.cat(values).mean()), rel=1e-3, abs=1e-5)


def edit_with(vlm: vlmend.VLM, case: vlmend.EditCase, trained: Trained):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trained.save(Path(folder))
        return MEND(folder).fit(vlm, [case])


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("llava", ("connector",)),
        ("llava", ("vision", "mlp.down")),
        ("blip2", ("connector",)),
        ("blip2", ("qformer.*.output_query.dense",)),
    ],
)
def test_any_linear_layers(tiny, cases, tmp_path, name, modules) -> None:
    """Those of the connector and the encoder are edited too; of them a question without a picture knows nothing."""
    vlm = tiny(name)
    method = replace(TINY, modules=modules, layers="last", alpha=1e-3, request_weight=1.0)
    best = train(method, vlm, cases, tmp_path).about["best"]
    assert best["held out"].keys() >= {"reliability", "text_generality", "image_locality"}
    edit = MEND(str(tmp_path)).fit(vlm, cases[:1])
    asked = vlm.prepare([cases[0].request])
    assert not torch.equal(vlm.run(asked).rows[0].logits_NV, vlm.run(asked, edit).rows[0].logits_NV)
    blind = vlm.prepare([cases[0].probes[2].example])
    untouched = torch.equal(vlm.run(blind).rows[0].logits_NV, vlm.run(blind, edit).rows[0].logits_NV)
    assert untouched == ("mlp.down" not in modules)


def test_a_training_that_was_cut_short_ends_the_same(llava, cases, tmp_path) -> None:
    method = replace(TINY, retargets=1)
    whole = train(method, llava, cases, tmp_path / "whole")

    class Killed(Exception): ...

    def kill(done: int, _all: int) -> None:
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        train(method, llava, cases, tmp_path / "cut", progress=kill)
    again = train(method, llava, cases, tmp_path / "cut")
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)


def test_groups() -> None:
    shapes = {"a": (2, 3), "b": (3, 2), "c": (2, 3)}
    assert grouped(shapes, shared=True) == [["a", "c"], ["b"]]
    assert grouped(shapes, shared=False) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"rank": 0}, EditError, "rank, lr and alpha_lr must be above 0"),
        ({"alpha_lr": 0.0}, EditError, "rank, lr and alpha_lr must be above 0"),
        ({"layers": 9}, PartsError, "no layer 9"),
        ({"modules": ("mouth",)}, PartsError, "no module role 'mouth'"),
        ({"modules": ("norm",)}, EditError, "no linear layer"),
        ({"lr": 1e30}, EditError, "diverged"),
    ],
)
def test_refusals(llava, cases, tmp_path, change, error, problem) -> None:
    with pytest.raises(error, match=problem):
        train(replace(TINY, **change), llava, cases, tmp_path)


def test_weights_that_are_not_there(llava, cases, trained, tmp_path) -> None:
    with pytest.raises(EditError, match=r"mend needs weights that were trained .* run 'vlmend train-editor mend MODEL"):
        MEND().fit(llava, cases[:1])
    about = json.loads((Path(trained) / "adapter.json").read_text())
    (tmp_path / "adapter.json").write_text(json.dumps({**about, "facts": {"groups": []}}))
    (tmp_path / "adapter.safetensors").write_bytes((Path(trained) / "adapter.safetensors").read_bytes())
    with pytest.raises(EditFormatError, match="the weights for 'mend' are no network's"):
        MEND(str(tmp_path)).fit(llava, cases[:1])
    assert MEND.pretrained(Path(trained)) == MEND(trained)
