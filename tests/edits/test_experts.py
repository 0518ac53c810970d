"""Experts and their routing: equal to the published code's figures, at every token, and bit for bit none elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vlmend.editors.liveedit_network import LiveEditNetwork
from vlmend.edits.experts import Experts, ExpertsOp, Features, features, likeness, mixed, soft_weights
from vlmend.errors import EditError

HEADS = 4
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
OURS = {
    "edit_extractor": "edits",
    "inpt_extractor": "prompts",
    "eqe1": "shown",
    "eqe2": "asked",
    "layer_norm1": "shown_norm",
    "layer_norm2": "asked_norm",
    "ca_query_info_ext1": "find",
    "ca_query_info_ext2": "ask",
    "ca_vision_info_ext": "look",
    "q_mlp": "query",
    "k_mlp": "key",
    "v_mlp": "value",
    "instant_reps_norm": "norm",
}


def ours(name: str) -> str:
    """A published parameter's name in `LiveEditNetwork`."""
    for which, theirs in (("up", "moegen_c"), ("down", "moegen_r")):
        if name.startswith(theirs):
            rest = name.removeprefix(f"{theirs}.").replace("layer_norm.", f"{which}_norm.")
            rest = rest.replace("ca_lora.", f"make_{which}.").replace("phi", which)
            return ".".join(OURS.get(part, part) for part in rest.split("."))
    if name == "inpt_extractor.vis_rep_prot":
        return "sentinel"
    return ".".join(OURS.get(part, part) for part in name.split("."))


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> dict[str, Tensor]:
    return load_file(fixtures / "liveedit.safetensors")


@pytest.fixture(scope="module")
def about(fixtures: Path) -> dict[str, Any]:
    return json.loads((fixtures / "liveedit.json").read_text())


@pytest.fixture(scope="module")
def network(golden: dict[str, Tensor]) -> LiveEditNetwork:
    published = {n.removeprefix("param."): t for n, t in golden.items() if n.startswith("param.")}
    prototypes = {"eqe1", "eqe2", "phi", "vis_rep_prot"}
    tensors = {ours(n): t[0] if n.split(".")[-1] in prototypes else t for n, t in published.items()}
    return LiveEditNetwork.sized(tensors | {"unit": torch.tensor(1.0)}, HEADS)


@pytest.fixture(scope="module")
def pool(network: LiveEditNetwork, golden: dict[str, Tensor], about: dict[str, Any]) -> Experts:
    """The six edits, made by our network out of the published states; what stands before the picture is left out."""
    made: list[Experts] = []
    for edit in range(6):
        states_TD = golden[f"edit.{edit}.layer_output"][0, 1:]
        visual_T = torch.arange(len(states_TD)) < 36
        made.append(network.experts(states_TD, visual_T, about[f"edit.{edit}.query_range"][1] - 1))
    joined = made[0]
    for one in made[1:]:
        joined = joined + one
    return joined


@pytest.fixture(scope="module")
def op(network: LiveEditNetwork, pool: Experts) -> ExpertsOp:
    return ExpertsOp(0, network.reader(), HEADS, pool)


def test_experts_and_their_features_are_the_published_ones(pool: Experts, golden: dict[str, Tensor]) -> None:
    torch.testing.assert_close(pool.found.psi_NKM, golden["pool.query_features"], **CLOSE)
    torch.testing.assert_close(pool.found.phi_NKM, golden["pool.vision_features"], **CLOSE)
    torch.testing.assert_close(pool.up_ERD, golden["pool.U"], **CLOSE)
    torch.testing.assert_close(pool.down_ERD, golden["pool.V"], **CLOSE)


@pytest.mark.parametrize("query", range(6))
def test_a_prompt_is_routed_and_changed_as_published(
    op: ExpertsOp, pool: Experts, golden: dict[str, Tensor], about: dict[str, Any], query: int
) -> None:
    told, states_TD = about["queries"][query], golden[f"query.{query}.layer_output"][0]
    begin, end = told["query_range"]
    prompt_TD, visual_T = states_TD[1:end], torch.arange(end - 1) < begin - 1
    reader = dict(op.reader)
    own = features(prompt_TD[~visual_T][None], prompt_TD[visual_T][None], reader, HEADS)
    torch.testing.assert_close(own.phi_NKM, golden[f"query.{query}.vision_feature"], **CLOSE)
    torch.testing.assert_close(own.psi_NKM, golden[f"query.{query}.query_feature"], **CLOSE)
    seen_E = likeness(own.phi_NKM, pool.found.phi_NKM)
    torch.testing.assert_close(seen_E, golden[f"query.{query}.vis_sim"], **CLOSE)
    places, weights_E = op.routed(prompt_TD, visual_T)
    assert places == told["kept"]
    if places:
        torch.testing.assert_close(weights_E[None], golden[f"query.{query}.fuse_coe"], **CLOSE)
    changed_TD = op.decided(prompt_TD, visual_T)(states_TD)
    torch.testing.assert_close(changed_TD[None], golden[f"query.{query}.output"], **CLOSE)
    assert torch.equal(changed_TD, states_TD) == (not places)


def test_without_hard_routing_all_experts_act_as_published(
    op: ExpertsOp, pool: Experts, golden: dict[str, Tensor], about: dict[str, Any]
) -> None:
    for query in range(6):
        states_TD = golden[f"query.{query}.layer_output"][0]
        psi = golden[f"query.{query}.query_feature"]
        weights_E = soft_weights(likeness(psi, pool.found.psi_NKM)[0])
        changed_TD = mixed(states_TD, pool.up_ERD, pool.down_ERD, weights_E, op.reader)
        torch.testing.assert_close(
            (changed_TD - states_TD)[None], golden[f"query.{query}.residual_all_experts"], **CLOSE
        )


def test_padding_is_not_read(op: ExpertsOp, golden: dict[str, Tensor]) -> None:
    states_TD, reader = golden["query.1.layer_output"][0], dict(op.reader)
    words_TD, visual_SD = states_TD[37:44], states_TD[1:37]
    alone = features(words_TD[None], visual_SD[None], reader, HEADS)
    words, real = torch.cat([torch.full((3, 64), 9.0), words_TD])[None], torch.arange(10)[None] >= 3
    seen, there = torch.cat([visual_SD, torch.full((2, 64), 9.0)])[None], torch.arange(38)[None] < 36
    beside = features(words, seen, reader, HEADS, real, there)
    torch.testing.assert_close(alone.phi_NKM, beside.phi_NKM, **CLOSE)
    torch.testing.assert_close(alone.psi_NKM, beside.psi_NKM, **CLOSE)


def test_one_expert_by_hand() -> None:
    """D = 2, one expert of rank 1: relu(norm(h) . u) v, times its weight."""
    tensors = {"norm.weight": torch.ones(2), "norm.bias": torch.zeros(2)}
    states_TD = torch.tensor([[3.0, 1.0], [1.0, 3.0]])  # normed: (1, -1) and (-1, 1)
    up_ERD, down_ERD = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    changed_TD = mixed(states_TD, up_ERD, down_ERD, torch.tensor([0.5]), tensors)
    torch.testing.assert_close(changed_TD, torch.tensor([[3.0, 6.0], [1.0, 3.0]]), atol=1e-4, rtol=1e-4)


def test_a_prompt_without_a_picture_is_left_alone(op: ExpertsOp, golden: dict[str, Tensor]) -> None:
    states_TD = golden["query.5.layer_output"][0]
    nothing_T = torch.zeros(len(states_TD), dtype=torch.bool)
    assert torch.equal(op.change(states_TD, nothing_T), states_TD)


def test_joined_they_are_one_pool_and_others_are_not_taken(op: ExpertsOp, pool: Experts) -> None:
    def part(places: slice) -> Experts:
        found = Features(pool.found.phi_NKM[places], pool.found.psi_NKM[places])
        return Experts(found, pool.up_ERD[places], pool.down_ERD[places])

    halves = [ExpertsOp(0, op.reader, HEADS, part(some)) for some in (slice(3), slice(3, 6))]
    both = halves[0].joined(halves[1])
    assert isinstance(both, ExpertsOp)
    assert torch.equal(both.experts.up_ERD, pool.up_ERD)
    assert halves[0].joined(ExpertsOp(1, op.reader, HEADS, pool)) is None
    assert halves[0].joined(ExpertsOp(0, {**op.reader, "sentinel": torch.zeros(1, 64)}, HEADS, pool)) is None


def test_experts_that_do_not_fit_are_refused(op: ExpertsOp, pool: Experts) -> None:
    with pytest.raises(EditError, match="other numbers"):
        ExpertsOp(0, op.reader, HEADS, Experts(pool.found, pool.up_ERD[:2], pool.down_ERD))
    with pytest.raises(EditError, match="width 64, not 32"):
        op.check(4, 32)
    with pytest.raises(EditError, match="has 0 layers"):
        op.check(0, 64)
