"""The adapter, its losses and the mapper's targets are those of VisEdit, but for one defect of the published code.

The numbers are those of VisEdit's own classes (commit 26419f2) on the tiny Llava; formulae and shapes are in
`vlmend.editors.vead_training` and `vlmend.edits.attend`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vlmend
from vlmend import VLM
from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_GENERALITY
from vlmend.editors.influence import influences
from vlmend.editors.vead_adapter import Adapter
from vlmend.editors.vead_training import Drawn, Learned, VEADLesson, VEADTraining
from vlmend.edits.attend import attend, gate_logits
from vlmend.edits.functions import FunctionOp
from vlmend.models.prepared import Prepared, Row

LAYER, INFLUENCED, SAMPLES = 1, (2, 3), 3
PROBES = {"rel": "reliability", "gen_text": TEXT_GENERALITY, "gen_image": IMAGE_GENERALITY, "loc_image": IMAGE_LOCALITY}
CHOICES = {"reliability": "rel", "text_rephrase": "gen_text", "image_rephrase": "gen_image"}
NAMES = {
    "ln_img_reps": "norm",
    "ln_edit_reps": "edit_norm",
    "mlp_begin": "enter",
    "cross_att_q_mlp": "query",
    "cross_att_k_mlp": "key",
    "cross_att_v_mlp": "value",
    "mlp_end": "leave",
    "influence_mapper.ln_img_reps": "gate_norm",
    "influence_mapper.ln_edit_reps": "gate_edit_norm",
    "influence_mapper.img_map.l_in": "gate_in",
    "influence_mapper.img_map.l_out": "gate_out",
    "influence_mapper.prompt_token_map.l_in": "gate_edit_in",
    "influence_mapper.prompt_token_map.l_out": "gate_edit_out",
}
"""VisEdit's names of the adapter's parts -> ours."""


@dataclass(frozen=True)
class Golden:
    numbers: dict[str, Tensor]
    said: dict[str, Any]

    def weights(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        return {"unit": torch.tensor(1.0, dtype=dtype)} | {
            f"{mine}.{kind}": self.numbers[f"adapter.{theirs}.{kind}"].to(dtype)
            for theirs, mine in NAMES.items()
            for kind in ("weight", "bias")
        }


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> Golden:
    folder = fixtures / "visedit"
    return Golden(load_file(folder / "vead.safetensors"), json.loads((folder / "vead.json").read_text()))


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize(("dtype", "name", "tolerance"), [(torch.float32, "f32", 1e-5), (torch.float64, "f64", 1e-9)])
def test_the_adapter(golden: Golden, dtype: torch.dtype, name: str, tolerance: float) -> None:
    """Two edits on two rows; the second edit's last three tokens are padding."""
    case = {key.removeprefix("adapter_case."): value for key, value in golden.numbers.items() if "adapter_case" in key}
    adapter = Adapter.sized(golden.weights(dtype), heads=4).to(dtype)
    adapter.load_state_dict(golden.weights(dtype))
    begin, end = golden.said["adapter_case"]["vt_range"]
    for row in range(2):
        signal = case["edit_signal"][row][case["edit_mask"][row] > 0].to(dtype)
        tensors = adapter.states_side() | adapter.edit_side(signal, int(case["prompt_end"][row]))
        states = case["layer_output"][row].to(dtype)
        visual = states[begin:end]
        logits = gate_logits(visual, tensors)
        close(logits, case[f"influence_logit.{name}"][row], tolerance)
        close(logits.sigmoid(), case[f"influence_map.{name}"][row], tolerance)
        for ending, given in {"": tensors, "_no_mapper": {k: v for k, v in tensors.items() if k != "gate"}}.items():
            wanted = case[f"output{ending}.{name}"][row]
            close(visual + attend(visual, given, heads=4), wanted[begin:end], tolerance)
            if dtype == torch.float32:
                op = FunctionOp(LAYER, 64, "attend", given, {"heads": 4})
                is_visual = torch.zeros(len(states), dtype=torch.bool)
                is_visual[begin:end] = True
                close(op.change(states, is_visual), wanted, tolerance)


@pytest.fixture(scope="module")
def vlm(fixtures: Path) -> VLM:
    return vlmend.load(fixtures / "tiny_llava")


@dataclass(frozen=True)
class Step:
    """The golden training step: a lesson with the golden weights, its three cases, their rows by probe."""

    lesson: VEADLesson
    cases: list[Learned]
    rows: dict[str, list[Row]]

    def drawn(self, golden: Golden, choice: str) -> list[Drawn]:
        tokens = torch.tensor(golden.said["sampled_visual_tokens"])
        noise = golden.numbers["train.noise"]
        return [
            Drawn(
                shown=self.rows[CHOICES[choice]][i],
                hidden=self.rows["loc_image"][i],
                tokens_K=tokens,
                noise={layer: noise[place, :, i][None] for place, layer in enumerate(INFLUENCED)},
            )
            for i in range(SAMPLES)
        ]


@pytest.fixture(scope="module")
def step(vlm: VLM, golden: Golden) -> Step:
    pictures: dict[str, dict[str, Tensor]] = {}
    rows = {probe: [row_of(vlm, golden, f"probe.{probe}.{i}", pictures) for i in range(SAMPLES)] for probe in PROBES}
    method = VEADTraining(
        layers=[LAYER], width=32, heads=4, gate_width=48, samples=8, influenced=INFLUENCED, mapper_weight=0.1
    )
    lesson = VEADLesson(method, vlm, [], [])
    lesson.module[str(LAYER)].load_state_dict(golden.weights())
    lesson.above.add(Prepared(tuple(row for some in rows.values() for row in some), pictures))
    cases = []
    for i in range(SAMPLES):
        must = {PROBES[probe]: [rows[probe][i]] for probe in ("rel", "gen_text", "gen_image")}
        cases.append(Learned(must, {IMAGE_LOCALITY: [rows["loc_image"][i]]}, {}))
    return Step(lesson, cases, rows)


def row_of(vlm: VLM, golden: Golden, name: str, pictures: dict[str, dict[str, Tensor]]) -> Row:
    """A golden sequence, whose one image token stands for 36, as a row of ours."""
    ids, count = golden.numbers[f"{name}.input_ids"][0], int(golden.numbers[f"{name}.n_target"])
    at = int((ids == vlm.parts.image_token).nonzero())
    ids = torch.cat([ids[:at], ids[at].repeat(36), ids[at + 1 :]])
    pixels = golden.numbers[f"{name}.pixel_values"]
    key = f"{hash(pixels.numpy().tobytes())}"
    pictures[key] = {"pixel_values": pixels}
    prompt, target = ids[:-count], ids[-count:]
    return Row("", prompt, prompt == vlm.parts.image_token, target, count, key, {}, pictures=(key,), sizes=((24, 24),))


def test_states_behind_the_edit_layer(golden: Golden, step: Step) -> None:
    wanted, mask = golden.numbers["train.edit_signal"], golden.numbers["train.edit_mask"]
    for i, case in enumerate(step.cases):
        close(step.lesson.signal(case, LAYER)[0], wanted[i][mask[i] > 0])


def test_pictures_are_kept_once(step: Step) -> None:
    """Of twelve rows there are as many pictures' states as pictures."""
    rows = [row for some in step.rows.values() for row in some]
    words = sum(len(row.ids_T) + len(row.target_N) - 36 for row in rows)
    assert step.lesson.above.size == 64 * (words + 36 * len({row.picture for row in rows}))
    assert len({row.picture for row in rows}) < len(rows)


@pytest.mark.parametrize("choice", CHOICES)
def test_targets_of_the_mapper(golden: Golden, step: Step, choice: str) -> None:
    wanted = golden.numbers[f"train.bug_fixed.{choice}.mapper_target_y"]
    for i, one in enumerate(step.drawn(golden, choice)):
        close(influences(step.lesson.above, step.rows["rel"][i], one.shown, one.tokens_K, one.noise), wanted[i])


def test_what_the_published_line_does(golden: Golden, step: Step) -> None:
    """`x[:, a, b] = y[:, a, b]` moves one channel of one token, so that the influences of another picture's tokens are
    those of the edit's own, but for rounding; what was meant, `x[:, a:b]`, gives quite others."""
    published = golden.numbers["train.as_published.image_rephrase.mapper_target_y"]
    own = torch.stack(
        [
            influences(step.lesson.above, d.shown, d.shown, d.tokens_K, d.noise)
            for d in step.drawn(golden, "reliability")
        ]
    )
    meant = torch.stack(
        [
            influences(step.lesson.above, step.rows["rel"][i], d.shown, d.tokens_K, d.noise)
            for i, d in enumerate(step.drawn(golden, "image_rephrase"))
        ]
    )
    close(published, own, 5e-3)
    assert float((meant - published).abs().max()) > 0.5


@pytest.mark.parametrize("choice", CHOICES)
def test_losses(golden: Golden, step: Step, choice: str) -> None:
    run = golden.said["runs"][f"bug_fixed.{choice}"]
    log, layer = run["log"], "language_model.model.layers.1"
    wanted = {
        "ce reliability": log["Reliability loss"],
        f"ce {TEXT_GENERALITY}": log["Generality loss"]["text_rephrase"],
        f"ce {IMAGE_GENERALITY}": log["Generality loss"]["image_rephrase"],
        "kl": log["Locality loss"]["image_loc"],
        "mapper rank": log[f"Influence mapper rel-gen relative loss-{layer}"],
        "mapper up": log[f"Influence mapper rel-gen up loss-{layer}"],
        "mapper down": log[f"Influence mapper loc down loss-{layer}"],
    }
    loss, terms = step.lesson.losses(step.cases, step.drawn(golden, choice))
    assert terms == pytest.approx(wanted, rel=1e-5)
    assert float(loss.detach()) == pytest.approx(run["loss"], rel=1e-5)


def test_gradients(golden: Golden, step: Step) -> None:
    module = step.lesson.module
    module.zero_grad()
    step.lesson.losses(step.cases, step.drawn(golden, "image_rephrase"))[0].backward()
    found = {name.removeprefix("1."): parameter.grad for name, parameter in module.named_parameters()}
    total = torch.stack([grad.norm() for grad in found.values()]).norm()  # type: ignore[union-attr]
    assert float(total) == pytest.approx(golden.said["runs"]["bug_fixed.image_rephrase"]["grad_norm"], rel=1e-4)
    start, compared = "train.bug_fixed.image_rephrase.grad.", 0
    for name, wanted in golden.numbers.items():
        if name.startswith(start):
            theirs, kind = name.removeprefix(start).rsplit(".", 1)
            close(found[f"{NAMES[theirs]}.{kind}"], wanted, 1e-4)  # type: ignore[arg-type]
            compared += 1
    assert compared == 4


def test_without_the_mapper_or_a_locality_probe(step: Step, golden: Golden) -> None:
    """What is not asked for is not in the loss."""
    drawn = [replace(one, hidden=None) for one in step.drawn(golden, "reliability")]
    cases = [replace(case, stay={}) for case in step.cases]
    terms = step.lesson.losses(cases, drawn)[1]
    assert {name.split()[0] for name in terms} == {"ce", "mapper"}
    assert "mapper down" not in terms
