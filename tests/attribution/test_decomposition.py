from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vlmend import Example, Target, attribute
from vlmend.attribution.decomposition import _frozen
from vlmend.attribution.modules import added
from vlmend.errors import AttributionError
from vlmend.models.trace import Call, capture

TARGETS = (Target(), Target("three birds"), Target("red", against="three birds"))


@pytest.mark.parametrize("target", TARGETS, ids=["own", "answer", "difference"])
def test_shares_add_up_to_the_logit(vlm, picture, target):
    example = Example("what colour is the cup ?", picture(1))
    found = attribute(vlm, example, "decomposition", target)
    assert found.completeness is not None
    assert found.completeness.error < 1e-4
    assert found.completeness.expected == pytest.approx(found.target["value"], rel=1e-4, abs=1e-5)
    assert float(found.scores.sum()) + sum(found.rest.values()) == pytest.approx(found.target["value"], abs=1e-4)


def test_the_golden_model(golden):
    """A norm with weights; and what attention and MLP add is what they give, as measured elsewhere."""
    vlm = golden.vlm
    for index, example in enumerate(golden.examples):
        found = attribute(vlm, example, "decomposition")
        assert found.completeness.error < 1e-4
        head_D = vlm.parts.head.weight[golden.said[f"key_token_id.{index}"]]
        last = len(vlm.prepare([example]).rows[0].ids_T) - 1
        with capture({"norm": vlm.parts.norm}) as calls:
            attribute(vlm, example, "contributions")
        state_D = calls[0].input[0, last]
        scale = state_D.pow(2).mean().add(1e-5).rsqrt()
        for layer in range(len(vlm.parts.layers)):
            for column, name in enumerate(("att", "mlp")):
                given_D = golden.numbers[f"{name}_out_last.{index}.{layer}"]
                wanted = head_D @ (vlm.parts.norm.weight * scale * given_D)
                assert float(found.scores[layer, column]) == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm])
def test_norms_are_measured(kind):
    torch.manual_seed(0)
    norm = kind(32)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    norm.requires_grad_(False)
    states_ND = torch.randn(3, 32, dtype=torch.float64) + 1
    frozen = _frozen(norm, states_ND, norm(states_ND.float()).double())
    assert frozen.centred == (kind is nn.LayerNorm)
    one_ND, other_ND = torch.randn_like(states_ND), torch.randn_like(states_ND)
    torch.testing.assert_close(frozen(states_ND).float(), norm(states_ND.float()))
    torch.testing.assert_close(frozen(one_ND + other_ND), frozen(one_ND) + frozen(other_ND) - frozen.bias_D)
    rows_ND = torch.randn_like(states_ND)
    torch.testing.assert_close(
        (frozen.pulled_back(rows_ND) * one_ND).sum(-1), (rows_ND * (frozen(one_ND) - frozen.bias_D)).sum(-1)
    )


def test_a_norm_that_does_not_scale_is_refused():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.tanh(x)

    states_ND = torch.randn(2, 8, dtype=torch.float64)
    with pytest.raises(AttributionError, match="Odd"):
        _frozen(Odd(), states_ND, torch.tanh(states_ND))


class Layer(nn.Module):
    """A decoder layer of a made-up family: what its modules give is scaled on its way, or the sum is normed."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.self_attn, self.mlp, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.how = how

    def forward(self, states):
        if self.how == "parallel":
            return states + self.self_attn(states) + self.mlp(states)
        if self.how == "scaled":
            states = states + 0.2 * self.self_attn(states)
            return states + 0.2 * self.mlp(states)
        return self.norm(states + self.self_attn(states) + self.mlp(states))


def called(how):
    layer = Layer(how)
    states = torch.randn(1, 5, 8)
    parts = SimpleNamespace(
        layers=(layer,), modules=lambda layers, roles: {"m": layer.self_attn if roles == ["attn"] else layer.mlp}
    )
    return layer, states, added(parts, 0, Call("layer", (states,), {}, layer(states)))


def test_scaled_and_parallel_modules():
    layer, states, found = called("scaled")
    torch.testing.assert_close(found.attention_BTD, 0.2 * layer.self_attn(states))
    torch.testing.assert_close(found.mlp_BTD, 0.2 * layer.mlp(states + 0.2 * layer.self_attn(states)))
    layer, states, found = called("parallel")
    torch.testing.assert_close(found.attention_BTD, layer.self_attn(states))
    torch.testing.assert_close(found.mlp_BTD, layer.mlp(states))


def test_a_layer_without_a_residual_stream_is_refused():
    with pytest.raises(AttributionError, match=r"layer 0 \(Layer\) does not add"):
        called("normed afterwards")
