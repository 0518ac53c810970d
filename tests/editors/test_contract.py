"""What every registered editor promises."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import vlmend
from conftest import CORE, FAMILIES, assert_untouched, hooks_of, left_alone, weights_of
from vlmend import VLM, Edit, EditCase, Example, WeightOp, editor, evaluate
from vlmend.editors.base import CONTROLS, EDITORS, Editor, editor_class
from vlmend.editors.training import TRAINABLE, train, trainable_class
from vlmend.edits.compact import compact
from vlmend.edits.counterfactual import CounterfactualOp
from vlmend.edits.experts import Experts, ExpertsOp
from vlmend.edits.functions import FunctionOp
from vlmend.edits.left import KeysOp, LeftOp
from vlmend.edits.memory import MemoryOp
from vlmend.edits.merge import merge
from vlmend.edits.neurons import NeuronOp
from vlmend.edits.prompts import PromptOp, RecallOp
from vlmend.edits.recall import Keys
from vlmend.edits.routes import RouteOp
from vlmend.edits.states import StateOp
from vlmend.errors import EditError, PromptError, UnknownNameError

# Hyper-parameters under which an editor moves a tiny random model; none: its defaults.
QUICK: dict[str, dict[str, Any]] = {
    "ft": {"steps": 20, "lr": 5e-3},
    "lora": {"lr": 2e-2},
    "t-patcher": {"memory_weight": 0.1, "lr": 0.05},
    "ultraedit": {"eta": 0.1},
    "visual-delta": {"layers": [0, 1, 2], "size": 6.0, "lr": 0.5, "steps": 120, "keep_weight": 0.0},
    "vead": {"pictures": "own"},  # edits for any picture add up, on a random model to anything
    "vead-memory": {"steps": 120, "lr": 0.5},
    "visual-exemplar": {"layers": 0},
}
# Editors that take something from what a model answers rightly: a random one knows nothing (see `taught`).
TAUGHT = ("visual-exemplar",)


# Trainings that make a tiny random model editable, for editors that must be trained: for a moment, on the very cases.
QUICK_TRAINING: dict[str, dict[str, Any]] = {
    "ke": {
        "layers": [2, 3], "modules": ("mlp",), "hidden": 16, "condition": 16, "learns": (), "keeps": (),
        "lr": 3e-2, "steps": 30, "check_every": 30, "batch": 3, "held_out": 0.1,
    },
    "liveedit": {
        "layers": [1], "width": 32, "heads": 4, "rank": 8, "learns": (), "keeps": (),
        "lr": 1e-2, "steps": 200, "check_every": 100, "batch": 3, "held_out": 0.1,
    },
    "lte": {
        "layers": [1, 2, 3], "alone": 1.0, "learns": (), "keeps": (), "plain_weight": 0.0,
        "lr": 1e-2, "steps": 60, "check_every": 20, "batch": 3, "held_out": 0.1,
    },
    "mend": {
        "layers": [2, 3], "modules": ("mlp",), "rank": 16, "learns": (), "keeps": (), "request_weight": 1.0,
        "lr": 1e-3, "alpha": 2e-3, "alpha_lr": 2e-4, "steps": 30, "check_every": 30, "batch": 3, "held_out": 0.1,
    },
    "serac": {
        "width": 32, "size": 16, "learns": (), "keeps": (), "retargets": 0, "invented": 0.0,
        "lr": 1e-2, "steps": 60, "check_every": 60, "batch": 8, "held_out": 0.1,
    },
    "vead": {
        "layers": [0, 1, 2], "width": 48, "heads": 4, "gate_width": 0, "learns": (), "keeps": (),
        "lr": 2e-2, "steps": 120, "check_every": 120, "batch": 3, "held_out": 0.1, "seed": 1,
    },
    "vead-memory": {"width": 16, "size": 16, "steps": 2, "check_every": 2, "batch": 3, "held_out": 0.1},
}  # fmt: skip
# What adapters such a training begins with.
BEGINNING: dict[str, dict[str, Any]] = {"vead-memory": {**QUICK_TRAINING["vead"], "layers": [0], "steps": 60}}

# What may be left of the target's loss; half, where nothing is said. Through its pictures' tokens alone, all of them
# changed by one adapter, a random model is not led to every answer.
LEFT = {"ultraedit": 0.9, "vead": 0.8, "vead-memory": 0.85}
# Editors that do nothing but tell the model something, which a random one does not heed; tests/editors/test_<name>.py
# hold them to the same on a model that does.
TELLING = ("ike",)
# The same for an edit on top of another: the gradient of a model that an edit has changed is none that a network of so
# few steps has met.
LEFT_ON_TOP = {**LEFT, "ke": 0.8, "liveedit": 0.8, "mend": 0.8}
# Editors whose edits prompts find by what they are about.
FOUND = ("ike", "liveedit", "lte", "serac", "vead-memory")


@pytest.fixture(scope="session")
def shelf(tiny, cases, picture, tmp_path_factory):
    """A folder of weights for an editor and some models; each is trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("shelf")
    others = [
        dataclasses.replace(
            case, request=dataclasses.replace(case.request, image=picture(seed)), id=f"{case.id}-{seed}"
        )
        for seed in (41, 42)
        for case in cases
    ]

    def weights(name: str, families: tuple[str, ...]) -> str:
        for family in families:
            out = folder / name / family
            if not out.exists():
                settings = dict(QUICK_TRAINING[name])
                if name in BEGINNING:
                    settings["adapter"] = str(folder / "beginning" / family)
                    beginning = trainable_class("vead")(**BEGINNING[name])
                    train(beginning, tiny(family), [*cases, *others], settings["adapter"])
                maker = trainable_class(name)(**settings)
                train(maker, tiny(family), [*cases, *others], out)
        return str(folder / name)

    return weights


@pytest.fixture(params=sorted(EDITORS))
def method(request, shelf, exemplars_file) -> Editor:
    settings = dict(QUICK.get(request.param, {}))
    if request.param in TAUGHT:
        settings["exemplars"] = str(exemplars_file)
    if request.param in TRAINABLE:
        asked = request.node.callspec.params
        families = ("llava", *(asked[name] for name in ("vlm", "family") if name in asked))
        settings["weights"] = shelf(request.param, tuple(dict.fromkeys(families)))
    return editor(request.param, **settings)


@pytest.fixture(params=CORE)
def vlm(request, method, tiny, taught):
    yield from left_alone((taught if method.name in TAUGHT else tiny)(request.param))


@pytest.fixture
def llava(method, tiny, taught):
    yield from left_alone((taught if method.name in TAUGHT else tiny)("llava"))


def target_nll(vlm: VLM, case: EditCase, edit: Edit | None) -> float:
    row = vlm.run(vlm.prepare([case.request]), edit).rows[0]
    return float(torch.nn.functional.cross_entropy(row.logits_NV, row.target_N))


@pytest.mark.parametrize("gains", [True, False])
def test_while_cases_are_measured_it_makes_the_same_edits(method, llava, cases, gains):
    """What is run for several purposes once may be rounded otherwise."""
    alone, made = method.fit(llava, cases[:1]), []
    for _ in range(2):  # how rows can be run is found out the first time
        evaluate(
            llava,
            method,
            cases[:1],
            protocol="legacy",
            max_new_tokens=0,
            gains=gains,
            on_edit=lambda _, one: made.append(one),
        )
    for case in cases:
        prepared = llava.prepare([case.request])
        wanted = llava.run(prepared, alone).rows[0].logits_NV
        for one in made:
            found = llava.run(prepared, one).rows[0].logits_NV
            assert float((found - wanted).abs().max()) <= 1e-3 * float(wanted.abs().max())


def test_is_an_editor(method):
    assert isinstance(method, Editor)
    assert EDITORS[method.name]
    assert dataclasses.is_dataclass(method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, dataclasses.fields(method)[0].name, None)
    assert "arXiv" in (__import__(type(method).__module__, fromlist=["_"]).__doc__ or "")


def test_fit_mends_and_leaves_the_model_alone(method, vlm, cases):
    before, hooks = weights_of(vlm), hooks_of(vlm)
    case = cases[0]
    edit = method.fit(vlm, [case])
    assert_untouched(vlm, before)
    assert hooks_of(vlm) == hooks
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in vlm.model.parameters())
    assert (edit.method, edit.base, edit.model) == (method.name, vlm.fingerprint, vlm.name)
    assert [request.case for request in edit.requests] == [case.id]
    assert edit.requests[0].target == case.request.answer
    moved(method, vlm, case, edit, LEFT.get(method.name, 0.5))


def moved(method: Editor, vlm: VLM, case: EditCase, edit: Edit, left: float) -> None:
    """Of the target's loss at most so much is left; told, a random model says at least something else."""
    before, after = target_nll(vlm, case, None), target_nll(vlm, case, edit)
    assert after != before if method.name in TELLING else after < left * before


def generates_the_likeliest(vlm: VLM, asked: Example, edit: Edit) -> None:
    """With the edit, cached generation begins with the token that a teacher-forced run holds likeliest."""
    prepared = vlm.prepare([asked])
    (reply,) = vlm.replies(prepared, edit, max_new_tokens=4)
    first_V = vlm.run(prepared, edit).rows[0].logits_NV[0].clone()
    first_V[vlm.parts.image_token] = -torch.inf  # a picture cannot be said
    assert reply.tokens[0] == int(first_V.argmax())


def mends_two_pictures(method: Editor, vlm: VLM, case: EditCase, picture) -> None:
    """A request about two pictures is mended, where the model takes two; else the editor says that it does not."""
    asked = dataclasses.replace(case.request, image=(picture(1), picture(2, (40, 28))))
    both = dataclasses.replace(case, request=asked)
    try:
        vlm.prepare([asked])
    except PromptError as error:
        assert "takes one picture" in str(error)
        with pytest.raises(PromptError, match="takes one picture"):
            method.fit(vlm, [both])
        return
    if method.name in TAUGHT:  # of two pictures there is no exemplar among those of one
        with pytest.raises(EditError, match="has no exemplar"):
            method.fit(vlm, [both])
        return
    edit = method.fit(vlm, [both])
    left = 1.0 if method.name in TRAINABLE else 0.9  # it was trained, for a moment, on requests about one
    moved(method, vlm, both, edit, left)
    generates_the_likeliest(vlm, asked, edit)


def test_a_request_about_two_pictures(method, vlm, cases, picture):
    mends_two_pictures(method, vlm, cases[0], picture)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*CORE}))
def test_every_other_family(method, family, tiny, taught, cases, picture):
    """What the quick tests promise on a few families, on the rest: the target moves, the model is left alone."""
    vlm = (taught if method.name in TAUGHT else tiny)(family)
    before = weights_of(vlm)
    case = cases[0]
    edit = method.fit(vlm, [case])
    generates_the_likeliest(vlm, case.request, edit)
    assert_untouched(vlm, before)
    moved(method, vlm, case, edit, 0.9)
    mends_two_pictures(method, vlm, case, picture)


def test_undo_is_bit_exact(method, llava, cases):
    before = weights_of(llava)
    edit = method.fit(llava, cases[:1])
    with llava.using(edit):
        llava.generate(llava.prepare([cases[0].request]), max_new_tokens=2)
    assert_untouched(llava, before)


def test_saved_and_loaded_it_does_the_same(method, llava, cases, tmp_path):
    edit = method.fit(llava, cases[:1])
    back = Edit.load(edit.save(tmp_path / "edit"))
    prepared = llava.prepare([cases[0].request])
    base, now, then = (llava.run(prepared, e).rows[0].logits_NV for e in (None, edit, back))
    assert torch.equal(now, then)
    assert not torch.allclose(base, now, atol=1e-3)


def noise_like(tensor: torch.Tensor, maker: torch.Generator) -> torch.Tensor:
    draw = torch.randn(tensor.shape, generator=maker)
    return draw * (tensor.norm() / draw.norm())


def randomised(op: Any, maker: torch.Generator) -> Any:
    """The operation with noise of equal norm in place of what was fitted."""
    if isinstance(op, WeightOp):
        zeros = {name: torch.zeros(change.shape) for name, change in op.changes.items()}
        return WeightOp.deltas({name: noise_like(op.fold(name, zero), maker) for name, zero in zeros.items()})
    if isinstance(op, StateOp):
        return StateOp(op.layer, op.places, noise_like(op.delta_SD, maker))
    if isinstance(op, FunctionOp):
        seen = 1.0 + torch.rand(1, op.width, generator=maker)
        value = noise_like(op.tensors_by_name["value"], maker)
        assert not torch.equal(op.value(seen), torch.zeros(1, op.width))
        return dataclasses.replace(op, tensors_by_name={**op.tensors_by_name, "value": value})
    if isinstance(op, MemoryOp):
        return dataclasses.replace(op, entries=tuple(randomised(one, maker) for one in op.entries))
    if isinstance(op, ExpertsOp):
        own = op.experts
        factors = [noise_like(one, maker) for one in (own.up_ERD, own.down_ERD)]
        return dataclasses.replace(op, experts=Experts(own.found, *factors))
    if isinstance(op, NeuronOp):
        return NeuronOp(op.layer, *(noise_like(one, maker) for one in (op.keys_PD, op.bias_P, op.values_PD)))
    if isinstance(op, PromptOp | KeysOp):  # its words stay, for what makes nothing of them; and what acts on nothing
        return op
    if isinstance(op, CounterfactualOp):
        keys = Keys(noise_like(op.keys.asked_NC, maker), noise_like(op.keys.seen_NC, maker))
        return dataclasses.replace(op, keys=keys)
    if isinstance(op, RecallOp):
        return dataclasses.replace(op, keys_E2D=noise_like(op.keys_E2D, maker))
    assert isinstance(op, RouteOp)
    return RouteOp(op.key, tuple(randomised(one, maker) for one in op.ops))


def test_beats_chance(method, llava, cases):
    """The target gains more than under noise of equal norm in the same places."""
    if method.name in TELLING:
        pytest.skip("words have no norm")
    edit = method.fit(llava, cases[:1])
    gains = []
    for seed in range(5):
        maker = torch.Generator().manual_seed(seed)
        random = dataclasses.replace(edit, ops=tuple(randomised(op, maker) for op in edit.ops))
        gains.append(target_nll(llava, cases[0], None) - target_nll(llava, cases[0], random))
    gain = target_nll(llava, cases[0], None) - target_nll(llava, cases[0], edit)
    assert gain > max(gains) + 1.0


def test_several_requests_in_one_edit(method, llava, cases):
    edit = method.fit(llava, cases)
    assert [request.case for request in edit.requests] == [case.id for case in cases]
    for case in cases:
        moved(method, llava, case, edit, 1.0)


def test_fitted_on_top_of_another(method, llava, cases):
    first = method.fit(llava, cases[:1])
    with llava.using(first):
        second = method.fit(llava, cases[1:2])
    assert second.fitted_on == (first.id,)
    assert second.base == first.base
    both = first + second
    moved(method, llava, cases[1], both, LEFT_ON_TOP.get(method.name, 0.5))
    assert [request.case for request in both.requests] == ["case-0", "case-1"]


def test_the_later_of_two_edits_of_one_request_counts(method, llava, cases):
    """In force one after another, as one edit, and with all that it holds joined, as a sequence keeps it."""
    first, answer = cases[0], cases[1].request.answer
    other = dataclasses.replace(first, id="later", request=dataclasses.replace(first.request, answer=answer))
    once = method.fit(llava, [first])
    with llava.using(once):
        again = method.fit(llava, [other])
        with llava.using(again):
            in_turn = llava.run(llava.prepare([other.request])).rows[0].logits_NV
    both = once + again
    prepared = llava.prepare([other.request])
    for edit in (both, compact(both)):
        torch.testing.assert_close(llava.run(prepared, edit).rows[0].logits_NV, in_turn, atol=1e-3, rtol=1e-3)
    if method.name in FOUND:
        torch.testing.assert_close(llava.run(prepared, again).rows[0].logits_NV, in_turn, atol=1e-3, rtol=1e-3)
    if method.name not in TRAINABLE:  # those know the targets of a few steps' training
        moved(method, llava, other, compact(both), LEFT_ON_TOP.get(method.name, 0.5))


def test_same_request_same_edit(method, llava, cases):
    assert method.fit(llava, cases[:1]).id == method.fit(llava, cases[:1]).id


def test_what_changes_weights_alone_can_be_merged(method, llava, cases, tmp_path):
    """As a plain model it says what the edited one says; what else an edit may hold is refused."""
    edit = method.fit(llava, cases[:1])
    if not all(isinstance(op, WeightOp | LeftOp) for op in edit.ops):
        with pytest.raises(EditError, match="cannot be merged into weights"):
            merge(llava, [edit], tmp_path / "merged")
        return
    back = vlmend.load(merge(llava, [edit], tmp_path / "merged"))
    edited = llava.run(llava.prepare([cases[0].request]), edit).rows[0].logits_NV
    plain = back.run(back.prepare([cases[0].request])).rows[0].logits_NV
    torch.testing.assert_close(plain, edited, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("broken", [[], [EditCase("x", Example("what ?", None, ""))]])
def test_nothing_to_edit(method, llava, broken):
    with pytest.raises(EditError):
        method.fit(llava, broken)


def test_registry():
    assert not EDITORS.keys() & CONTROLS.keys()
    for name in (*EDITORS, *CONTROLS):
        assert editor_class(name).name == name
    with pytest.raises(UnknownNameError, match=r"no editor named 'nothing'; there are: .*ft"):
        editor("nothing")
    with pytest.raises(UnknownNameError, match="no hyper-parameter of editor 'ft' named 'step'"):
        editor("ft", step=3)
