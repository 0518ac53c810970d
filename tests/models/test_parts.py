from __future__ import annotations

import pytest
import torch
from torch import nn

from vlmend import VLM
from vlmend.errors import PartsError
from vlmend.models.feeding import feeder_of
from vlmend.models.parts import ROLES, find_parts
from vlmend.models.verify import verify


def test_every_family_resolves(vlm: VLM):
    parts = vlm.parts
    modules = dict(vlm.model.named_modules(remove_duplicate=False))
    for part in ("vision", "connector", "decoder", "norm", "embed", "head"):
        assert modules[parts.paths[part]] is getattr(parts, part)
    assert len(parts.layers) == 4
    assert parts.image_token == vlm.model.config.image_token_id


def test_roles(vlm: VLM):
    for role in ("attn", "attn.q", "attn.k", "attn.v", "attn.out", "mlp", "mlp.up", "mlp.down"):
        found = vlm.parts.modules([0, -1], [role])
        assert {path.split("layers.")[1][0] for path in found} == {"0", "3"}
    down = next(iter(vlm.parts.modules("last", ["mlp.down"]).values()))
    assert isinstance(down, nn.Linear)
    assert down.out_features < down.in_features
    between = {vlm.parts.connector, vlm.parts.qformer} - {None}
    assert set(vlm.parts.modules("all", ["connector"]).values()) == between
    seen = {id(one) for one in vlm.parts.vision.parameters()}
    seen -= {id(one) for one in vlm.parts.connector.parameters()}  # in some families within the encoder
    found = vlm.parts.modules("all", ["vision"]).values()
    assert {id(one) for module in found for one in module.parameters()} == seen


def test_no_module_is_in_two_places(vlm: VLM):
    """Connector, vision encoder and decoder layers share no parameter, where the one lies within the other too."""
    places = [("connector",), ("vision",), ("attn", "mlp")]
    each = [
        {id(one) for module in vlm.parts.modules("all", roles).values() for one in module.parameters()}
        for roles in places
    ]
    assert all(each)
    assert sum(map(len, each)) == len(set().union(*each))


def test_no_layers(llava):
    with pytest.raises(PartsError, match="no layer is named"):
        llava.parts.layer_indices([])


def test_a_qformer_belongs_to_the_connector(tiny):
    for name in ("blip2", "blip2_llama", "instructblip"):
        parts = tiny(name).parts
        assert [*parts.modules("last", ["connector"])] == ["qformer", "language_projection"]
        assert parts.paths["qformer"] == "qformer"


def test_modules_by_path(tiny):
    """Any module can be named by its path, with stars; what is no path of the model is said."""
    vlm = tiny("blip2")
    outputs = vlm.parts.modules("last", ["qformer.*.output_query.dense", "mlp.down"])
    count = len(vlm.parts.qformer.encoder.layer)
    assert [*outputs][:count] == [f"qformer.encoder.layer.{index}.output_query.dense" for index in range(count)]
    assert len(outputs) == count + 1
    every = dict(vlm.model.named_modules())
    assert all(every[path] is module for path, module in outputs.items())
    for path in ("vision_model.encoder.layers.0.mlp.fc1", f"{vlm.parts.paths['layers']}.0.fc1"):
        assert [*vlm.parts.modules("last", [path])] == [path]
    with pytest.raises(PartsError, match=r"no module role 'qformer\.layer\.9'"):
        vlm.parts.modules("last", ["qformer.layer.9"])


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("all", (0, 1, 2, 3)),
        ("last", (3,)),
        ("early", (0,)),
        ("middle", (1, 2)),
        ("late", (3,)),
        (2, (2,)),
        (-2, (2,)),
        (0.5, (2,)),
        (1.0, (3,)),
        (0.0, (0,)),
        ([3, -4, 3], (0, 3)),
        ((0.25, -1), (1, 3)),
    ],
)
def test_layers_are_resolved(llava, spec, layers):
    assert llava.parts.layer_indices(spec) == layers


@pytest.mark.parametrize("count", range(1, 9))
def test_thirds_cover_all_layers(llava, count):
    from dataclasses import replace

    parts = replace(llava.parts, layers=llava.parts.layers[:1] * count)
    thirds = [parts.layer_indices(name) for name in ("early", "middle", "late")]
    assert {index for third in thirds for index in third} == set(range(count))
    assert all(thirds)


@pytest.mark.parametrize("spec", [4, -5, 1.5, -0.1, "bottom"])
def test_layers_that_are_not_there(llava, spec):
    with pytest.raises(PartsError):
        llava.parts.layer_indices(spec)


def test_unknown_role(llava):
    with pytest.raises(PartsError, match="roles are: attn"):
        llava.parts.modules("last", ["mlp.left"])
    assert "mlp.left" not in ROLES


def test_parts_that_are_not_found(llava):
    from unittest.mock import patch

    with (
        patch.object(type(llava.model.base_model), "get_encoder", lambda self, modality: self),
        patch.object(type(llava.model), "get_encoder", lambda self, modality: self),
    ):
        with pytest.raises(PartsError, match="could not find its vision"):
            find_parts(llava.model)


def test_wrong_parts_do_not_pass(llava, tiny):
    """Each part in another's place is noticed."""
    from dataclasses import replace
    from unittest.mock import patch

    right = llava.parts
    other = nn.Linear(right.head.in_features, right.head.out_features, bias=False)
    nn.init.normal_(other.weight)
    wrong = {
        "layers": right.layers[:-1],
        "norm": right.layers[0].input_layernorm,
        "connector": other,
        "head": other,
        "vision": right.layers[0].input_layernorm.__class__(48),
    }
    for part, module in wrong.items():
        with patch.object(llava, "parts", replace(right, **{part: module})), pytest.raises(PartsError):
            verify(llava)
    reordered = replace(right, layers=(right.layers[1], right.layers[0], *right.layers[2:]))
    with patch.object(llava, "parts", reordered), pytest.raises(PartsError, match="layers ran as"):
        verify(llava)
    verify(llava)


def test_a_qformer_that_is_not_used_does_not_pass(tiny):
    from dataclasses import replace
    from unittest.mock import patch

    vlm = tiny("blip2")
    with (
        patch.object(vlm, "parts", replace(vlm.parts, qformer=nn.Linear(2, 2))),
        pytest.raises(PartsError, match="its qformer"),
    ):
        verify(vlm)


def test_cross_attention_in_an_unknown_way_is_refused(llava):
    from unittest.mock import patch

    layer = llava.parts.layers[0]
    with patch.object(layer, "cross_attn", torch.nn.Identity(), create=True):
        parts = find_parts(llava.model)
        assert not parts.in_stream and parts.crosses(0) and not parts.crosses(1)
        with pytest.raises(PartsError, match="cross-attention, but does not take them encoded"):
            feeder_of(llava.model, parts)
