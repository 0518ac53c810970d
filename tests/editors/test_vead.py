"""What the Visual Edit Adapter promises beyond the contract, and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vlmend import Edit, EditCase, Example
from vlmend.editors.checkpoint import Checkpoint
from vlmend.editors.training import held_apart, train
from vlmend.editors.vead import VEAD
from vlmend.editors.vead_training import VEADLesson, VEADTraining, mapper_losses
from vlmend.edits.functions import FunctionOp
from vlmend.edits.routes import RouteOp
from vlmend.errors import EditError, EditFormatError, PartsError, RunError, UnknownNameError
from vlmend.models.above import Above
from vlmend.models.prefix import beginning
from vlmend.models.prompts import MARKER
from vlmend.models.trace import capture

TINY = VEADTraining(
    layers=[1, 2], width=16, heads=4, gate_width=16, samples=4, steps=4, check_every=2, batch=2, held_out=0.3, lr=1e-2
)


@pytest.fixture(scope="module")
def trained(tiny, cases, tmp_path_factory) -> str:
    """A folder of adapters for the tiny Llava, hardly trained."""
    folder = tmp_path_factory.mktemp("vead")
    train(replace(TINY, steps=30, check_every=30), tiny("llava"), cases, folder)
    return str(folder)


@pytest.fixture
def acting(trained) -> VEAD:
    return VEAD(weights(trained, "doubled"))


def weights(folder: str, name: str, size: float = 1.0) -> str:
    """The same adapters with a way out that is not small, whatever the training's best check was."""
    from vlmend.editors.shelf import Trained

    found = Trained.load(Path(folder))
    maker = torch.Generator().manual_seed(0)
    tensors = {
        key: size * torch.randn(value.shape, generator=maker) if "leave" in key else value
        for key, value in found.tensors.items()
    }
    out = Path(folder) / name
    replace(found, tensors=tensors).save(out)
    return str(out)


def logits(vlm, example: Example, edit: Edit | None) -> torch.Tensor:
    return vlm.run(vlm.prepare([replace(example, answer="red")]), edit).rows[0].logits_NV


def test_acts_on_any_picture_and_on_none_without(llava, cases, acting, picture):
    edit = acting.fit(llava, cases[:1])
    assert [op.layer for op in edit.ops] == [1, 2]
    asked = cases[0].request
    for example in (asked, replace(asked, image=picture(7)), replace(asked, image=(picture(7), picture(8)))):
        assert not torch.allclose(logits(llava, example, None), logits(llava, example, edit), atol=1e-3)
    blind = Example("who wrote the song ?")
    assert torch.equal(logits(llava, blind, None), logits(llava, blind, edit))


def test_every_one_of_several_pictures_is_changed(llava, cases, acting, picture):
    """Of a row with two pictures, the second alone is not what the change comes from."""
    edit = acting.fit(llava, cases[:1])
    prepared = llava.prepare([Example("what ?", (picture(7), picture(8)), "red")])
    with capture({"next": llava.parts.layers[2]}) as calls:
        llava.run(prepared)
        llava.run(prepared, edit)
    row = prepared.rows[0]
    moved_T = (calls[1].input - calls[0].input)[0].abs().amax(-1)[: len(row.ids_T)] > 1e-6
    assert torch.equal(moved_T, row.visual_T)


def test_own_pictures_only(llava, cases, acting, picture):
    edit = replace(acting, pictures="own").fit(llava, cases[:1])
    other = replace(cases[0].request, image=picture(7))
    assert torch.equal(logits(llava, other, None), logits(llava, other, edit))
    assert not torch.allclose(logits(llava, cases[0].request, None), logits(llava, cases[0].request, edit), atol=1e-3)
    kinds = {
        one: [op.kind for op in replace(acting, pictures=one).fit(llava, cases[:2]).ops] for one in ("auto", "any")
    }
    assert kinds == {"auto": ["route"] * 2, "any": ["function"] * 4}


def test_an_input_finds_its_edit_whatever_the_order(llava, cases, acting):
    """`edit_batch` of VisEdit pairs edit i with input i: asked in another order, each question gets another's edit."""
    asked = [replace(case.request, answer="red") for case in cases[:2]]
    edits = [acting.fit(llava, [case]) for case in cases[:2]]

    def said(examples: list[Example], found) -> torch.Tensor:
        return torch.cat([row.logits_NV.argmax(-1) for row in llava.run(llava.prepare(examples), found).rows])

    wanted = said(asked[::-1], edits[::-1])  # each what its own edit makes of it
    published = float((said(asked[::-1], edits) == wanted).float().mean())
    both = acting.fit(llava, cases[:2])
    ours = float((said(asked[::-1], both) == wanted).float().mean())
    assert published < ours == 1.0


def test_generation_with_a_cache_is_forced_argmax(vlm, cases, tmp_path):
    """In every family: what is generated with an edit in force is what whole passes with it say."""
    train(replace(TINY, layers=[1], steps=1, check_every=1), vlm, cases, tmp_path)
    edit = VEAD(weights(str(tmp_path), "loud")).fit(vlm, cases[:1])
    asked = cases[0].request
    said = vlm.replies(vlm.prepare([asked]), edit, max_new_tokens=4)[0]
    row = replace(vlm.prepare([asked]).rows[0], target_N=torch.tensor(said.tokens))
    forced = vlm.run(replace(vlm.prepare([asked]), rows=(row,)), edit).rows[0].logits_NV
    forced[:, vlm.parts.image_token] = -torch.inf
    assert forced.argmax(-1).tolist() == list(said.tokens)
    back = Edit.load(edit.save(tmp_path / "edit"))
    assert torch.equal(logits(vlm, asked, edit), logits(vlm, asked, back))


def test_a_change_stands_where_the_prompt_has_its_picture(llava, cases, trained, monkeypatch):
    """VisEdit changes the places that the last prompt it was told of had its picture at, which generation does not tell
    it, nor a second editor of the model: what is said differs from what is forced."""
    shouting = VEAD(weights(trained, "shouting", 30.0))
    one, other = (shouting.fit(llava, [case]) for case in cases[:2])
    first = replace(cases[0].request, answer="red")
    second = replace(first, question=f"so now tell me what it is that {MARKER} shows ?")
    rows = llava.prepare([first, second]).rows
    stale_T, own_T = (row.visual_T.nonzero().flatten().tolist() for row in rows)
    assert len(stale_T) == len(own_T) and not set(stale_T) & set(own_T)

    def forced(tokens) -> torch.Tensor:
        prepared = llava.prepare([second])
        row = replace(prepared.rows[0], target_N=torch.tensor(tokens))
        found = llava.run(replace(prepared, rows=(row,)), other).rows[0].logits_NV
        found[:, llava.parts.image_token] = -torch.inf
        return found.argmax(-1)

    def agreement() -> float:
        """Of what is said to the second prompt by the second edit, after the first ones, with what is forced there."""
        llava.generate(llava.prepare([first]), one, max_new_tokens=2)
        said = llava.replies(llava.prepare([second]), other, max_new_tokens=16)[0].tokens
        monkeypatch.undo()
        return float((forced(said) == torch.tensor(said)).float().mean())

    change = FunctionOp.change

    def stale(self, states_TD, visual_T):
        at_T = torch.zeros(len(states_TD), dtype=torch.bool)
        at_T[[place for place in stale_T if place < len(states_TD)]] = True
        return change(self, states_TD, at_T)

    monkeypatch.setattr(FunctionOp, "change", stale)
    assert agreement() < 1.0
    assert agreement() == 1.0
    apart = [logits(llava, first, one), logits(llava, second, other)]
    for row, alone in zip(llava.run(llava.prepare([first, second]), [one, other]).rows, apart, strict=True):
        torch.testing.assert_close(row.logits_NV, alone, atol=1e-4, rtol=1e-4)


def test_what_an_edit_is_made_of_is_shared(llava, cases, acting):
    """Many edits of one editor hold one adapter."""
    one, two = (acting.fit(llava, [case]).ops[0] for case in cases[:2])
    assert isinstance(one, FunctionOp) and isinstance(two, FunctionOp)
    assert one.tensors_by_name["enter.weight"].data_ptr() == two.tensors_by_name["enter.weight"].data_ptr()
    assert one.tensors_by_name["key"].data_ptr() != two.tensors_by_name["key"].data_ptr()


def test_a_model_without_weights(llava, cases, tmp_path):
    with pytest.raises(EditError, match=r"vead needs weights that were trained .* run 'vlmend train-editor vead MODEL"):
        VEAD(str(tmp_path)).fit(llava, cases[:1])
    with pytest.raises(EditError, match=f"fingerprint {llava.fingerprint}"):
        VEAD().fit(llava, cases[:1])
    blind = replace(cases[0], request=replace(cases[0].request, image=None))
    with pytest.raises(EditError, match="case-0' has no picture"):
        VEAD().fit(llava, [blind])


def test_damaged_weights(llava, cases, trained, tmp_path):
    for name in ("adapter.json", "adapter.safetensors"):
        (tmp_path / name).write_bytes((Path(trained) / name).read_bytes())
    (tmp_path / "adapter.safetensors").write_bytes(b"x")
    with pytest.raises(EditFormatError, match="is damaged"):
        VEAD(str(tmp_path)).fit(llava, cases[:1])
    (tmp_path / "adapter.safetensors").unlink()
    with pytest.raises(EditFormatError, match=r"adapter.safetensors is missing"):
        VEAD(str(tmp_path)).fit(llava, cases[:1])


@pytest.mark.parametrize(
    ("op", "problem"),
    [
        (lambda: FunctionOp(0, 4, "nothing", {}), "no function of states named 'nothing'"),
        (lambda: FunctionOp(0, 4, "attend", {}, {"heads": 2}), "does not work with its tensors"),
    ],
)
def test_functions_are_checked(op, problem):
    with pytest.raises(EditError, match=problem):
        op()


def test_mapper_losses_by_hand():
    """Two tokens, logits 0 and ln 3: shares 1/4 and 3/4; the gate is 1/2 and 3/4 open."""
    ln3 = 1.0986123
    found = mapper_losses([torch.tensor([0.0, ln3])], [torch.tensor([0.0])], [torch.tensor([0.5, 0.5])])
    quarter, half, three_quarters = (torch.tensor(x).log() for x in (0.25, 0.5, 0.75))
    assert float(found["rank"]) == pytest.approx(float(-0.5 * quarter - 0.5 * three_quarters), rel=1e-5)
    assert float(found["up"]) == pytest.approx(float(-(half + three_quarters) / 2), rel=1e-5)
    assert float(found["down"]) == pytest.approx(float(-half), rel=1e-5)


def test_above_gives_what_the_whole_model_gives(vlm, cases):
    """Rows kept one by one, in another order and grouping, as in whole runs, in each family."""
    lesson = VEADLesson(replace(TINY, layers=[1]), vlm, cases, [])
    rows = [row for case in lesson.learned for some in (*case.must.values(), *case.stay.values()) for row in some]
    examples = [example for case in cases for example in _asked(case)]
    whole = [row.logits_NV for row in vlm.run(vlm.prepare(examples)).rows]
    order = list(range(len(rows)))[::-1]
    found = lesson.above.run([rows[place] for place in order], [()] * len(rows))
    for place, logits_NV in zip(order, found, strict=True):
        torch.testing.assert_close(logits_NV, whole[place], atol=1e-4, rtol=1e-4)


def test_a_common_beginning_is_run_once(vlm, picture):
    """Many rows about one picture, in each family: the same states as each by itself."""
    words = ("what colour is the cup ?", "is there a dog ?", "how many ?")
    examples = [Example(f"{words[n % 3]} {n} " + "so " * n, picture(1), "red") for n in range(12)]
    together, alone = Above(vlm, 1), Above(vlm, 1)
    prepared = vlm.prepare(examples)
    together.add(prepared)
    for index, row in enumerate(prepared.rows):
        alone.add(prepared.take([index]))
        wanted = alone.states(row)
        torch.testing.assert_close(together.states(row), wanted, atol=1e-4, rtol=1e-4)
    few = float(together.size) / sum(len(row.ids_T) + len(row.target_N) for row in prepared.rows)
    assert few < len(vlm.parts.norm.weight) or not together.alike(*prepared.rows[:2])


def test_what_an_edit_makes_of_a_picture_is_made_once(vlm, cases):
    """Two rows about one picture with one edit, in each family: the loss and its gradients are those of one by one."""
    lesson = VEADLesson(replace(TINY, layers=[1]), vlm, cases[:2], [])
    rows = [(case, row) for case in lesson.learned for some in case.must.values() for row in some]

    def gradients(together: bool):
        ops = {id(case): lesson._edit(case).ops for case in lesson.learned}
        groups = [rows] if together else [[one] for one in rows]
        logits = [
            one for some in groups for one in lesson.above.run([row for _, row in some], [ops[id(c)] for c, _ in some])
        ]
        lesson.module.zero_grad()
        sum(one.logsumexp(-1).sum() for one in logits).backward()
        return [parameter.grad.clone() for parameter in lesson.module.parameters() if parameter.grad is not None]

    lesson.above.run([rows[0][1]], [()])  # compared with a whole run, this once
    with capture({"above": vlm.parts.layers[2]}) as calls:
        found = gradients(together=True)
    begun = [len(call.input) for call in calls if call.input.shape[1] == beginning(rows[0][1])]
    pictures = {(id(case), row.picture) for case, row in rows}
    assert len(pictures) < len(rows)
    assert sum(begun) == (len(pictures) if lesson.above._goes_on else 0)
    for mine, other in zip(found, gradients(together=False), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)


def _asked(case: EditCase) -> list[Example]:
    return [case.request, *(probe.example for probe in case.probes if probe.example.pictures)]


def test_a_training_that_was_cut_short_ends_the_same(llava, cases, tmp_path):
    method = replace(TINY, steps=6)
    whole = train(method, llava, cases, tmp_path / "whole")

    class Killed(Exception): ...

    def kill(done: int, _all: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        train(method, llava, cases, tmp_path / "cut", progress=kill)
    assert len((tmp_path / "cut" / "records.jsonl").read_text().splitlines()) == 3
    text = (tmp_path / "cut" / "records.jsonl").read_text()
    (tmp_path / "cut" / "records.jsonl").write_text("".join(text.splitlines(keepends=True)[:-1]))  # killed in between
    resumed: list[int] = []
    again = train(method, llava, cases, tmp_path / "cut", progress=lambda done, _all: resumed.append(done))
    assert resumed == [5, 6]
    assert all(torch.equal(whole.tensors[name], again.tensors[name]) for name in whole.tensors)
    records = [(tmp_path / one / "records.jsonl").read_text() for one in ("whole", "cut")]
    assert records[0] == records[1]
    with pytest.raises(RunError, match=r"settings.lr=.*, not 1.0"):
        train(replace(method, lr=1.0), llava, cases, tmp_path / "cut")


def test_the_best_check_is_kept():
    module = torch.nn.Linear(1, 1)
    state = Checkpoint.begun(module)
    for step, (score, loss, value) in enumerate([(0.5, 2.0, 1.0), (0.75, 3.0, 2.0), (0.75, 2.5, 3.0), (0.5, 0.1, 4.0)]):
        torch.nn.init.constant_(module.weight, value)
        state = replace(state, step=step).recorded({"step": step, "score": score, "held out loss": loss}, module)
    assert state.best_record["step"] == 2
    assert float(state.best["weight"]) == 3.0


def test_held_out_pictures_are_not_learnt_from(llava, cases):
    twice = [*cases, *(replace(case, id=f"{case.id} again") for case in cases)]
    learned, held = held_apart(llava, twice, 0.3, seed=0)
    assert len(learned) + len(held) == 6
    assert not {id(case.request.image) for case in learned} & {id(case.request.image) for case in held}
    with pytest.raises(EditError, match="1 case is too few"):
        held_apart(llava, cases[:1], 0.3, seed=0)


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"layers": "last"}, PartsError, "nothing reads a picture's tokens above layer 3"),
        ({"layers": 9}, PartsError, "no layer 9"),
        ({"influenced": [0]}, EditError, "influences are measured above the adapters"),
        ({"heads": 5}, EditError, "5 heads do not divide"),
        ({"lr": 1e30}, EditError, "diverged"),
    ],
)
def test_refusals(llava, cases, tmp_path, change, error, problem):
    with pytest.raises(error, match=problem):
        train(replace(TINY, **change), llava, cases, tmp_path)


def test_unknown():
    from vlmend.editors.training import TRAINABLE, trainable_class

    assert all(trainable_class(name).name == name for name in TRAINABLE)
    with pytest.raises(UnknownNameError):
        trainable_class("nothing")


def test_routes_hold_functions(llava, cases, acting):
    """An adapter under a key is taken apart and put together as any operation."""
    from vlmend.edits.packing import packed, unpacked

    edit = replace(acting, pictures="own").fit(llava, cases[:1])
    (again,) = unpacked(*packed(edit.ops))
    assert isinstance(again, RouteOp)
    assert again.inner[0].fields() == edit.ops[0].inner[0].fields()


def test_the_last_layer_is_run_for_the_last_positions_alone(vlm, cases):
    """In each family: what comes behind its attention sees no more positions than are wanted."""
    above = Above(vlm, 1)
    prepared = vlm.prepare([case.request for case in cases])
    above.add(prepared)
    above.run(prepared.rows, [()] * 3)
    with capture({"norm": vlm.parts.norm}) as calls:
        found = above.run(prepared.rows, [()] * 3)
    keep = max(len(row.target_N) for row in prepared.rows) + 1
    assert calls[-1].output.shape[1] == keep
    for mine, whole in zip(found, vlm.run(prepared).rows, strict=True):
        torch.testing.assert_close(mine, whole.logits_NV, atol=1e-4, rtol=1e-4)
