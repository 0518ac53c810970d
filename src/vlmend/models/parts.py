"""Where the parts of a vision-language model are, found by probing what transformers gives, not by its family.

The parts are verified when a model is loaded (`verify.py`). Everything else in the package asks here: no other file
knows a module path, and layers and modules are named by role ("late", "mlp.down") and resolved against the model. Users
who know a path may give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from vlmend.errors import PartsError

__all__ = ["NO_PART", "NO_VISUAL_TOKENS", "ROLES", "LayerSpec", "Parts", "find_parts"]

LayerSpec = str | int | float | Sequence[int | float]
"""Layers by name (the thirds "early", "middle", "late"; "last"; "all"), index (-1: the last) or depth (0.0 to 1.0)."""

ROLES: dict[str, tuple[str, ...]] = {
    "attn": ("self_attn", "attention", "attn", "cross_attn"),
    "attn.q": ("self_attn.q_proj", "attention.query", "cross_attn.q_proj"),
    "attn.k": ("self_attn.k_proj", "attention.key", "cross_attn.k_proj"),
    "attn.v": ("self_attn.v_proj", "attention.value", "cross_attn.v_proj"),
    "attn.out": ("self_attn.o_proj", "self_attn.out_proj", "attention.dense", "cross_attn.o_proj"),
    "mlp": ("mlp", "feed_forward", "fc1+fc2"),
    "mlp.gate": ("mlp.gate_proj",),
    "mlp.up": ("mlp.up_proj", "mlp.gate_up_proj", "fc1", "mlp.fc1"),
    "mlp.down": ("mlp.down_proj", "fc2", "mlp.fc2"),
}
"""Roles of modules inside a decoder layer, with the names they go by; "+" joins modules that have no common owner."""

NO_PART = "layer {} looks at pictures: it has no part in the answer to a question without one"
NO_VISUAL_TOKENS = "this model reads pictures by cross-attention: it has no visual tokens to work on"

_CONNECTORS = ("multi_modal_projector", "connector", "language_projection", "projector", "mm_projector", "merger")
_QFORMERS = ("qformer",)
_NORMS = ("norm", "final_layer_norm", "ln_f")
_THIRDS = {"early": 0, "middle": 1, "late": 2}


@dataclass(frozen=True)
class Parts:
    """The parts of one model.

    Attributes:
        vision: the vision encoder.
        connector: what maps its output into the decoder's width; behind a Q-Former, the projection.
        decoder: the text stack that owns ``layers`` and ``norm``.
        layers: the decoder layers, in their order.
        norm: the norm after the last layer.
        embed: the token embedding.
        head: the projection to the vocabulary.
        image_token: id of the token that stands for one visual token, or for a picture where that has none.
        paths: part name -> path of its module in the model.
        in_stream: whether pictures become tokens of the decoder's stream; else some layers read them by
            cross-attention, and those are not run for a text without a picture.
        qformer: what reads the vision encoder's output by queries, before the connector; ``None`` in most models.
    """

    vision: nn.Module
    connector: nn.Module
    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    norm: nn.Module
    embed: nn.Module
    head: nn.Module
    image_token: int
    paths: dict[str, str]
    in_stream: bool = True
    qformer: nn.Module | None = None

    @property
    def outside(self) -> dict[str, nn.Module]:
        """Path -> module of what a picture goes through before the decoder."""
        between = {} if self.qformer is None else {self.paths["qformer"]: self.qformer}
        return {self.paths["vision"]: self.vision, **between, self.paths["connector"]: self.connector}

    def crosses(self, index: int) -> bool:
        """Whether a layer reads pictures by cross-attention, and is run only where there is one."""
        return not self.in_stream and _crosses(self.layers[index])

    def need_visual_tokens(self) -> None:
        """Refuse to work on visual tokens where there are none.

        Raises:
            PartsError: the model reads pictures by cross-attention.
        """
        if not self.in_stream:
            raise PartsError(NO_VISUAL_TOKENS)

    def layer_indices(self, spec: LayerSpec) -> tuple[int, ...]:
        """Resolve layers against this model, sorted and each once.

        Raises:
            PartsError: an unknown name, or an index or depth outside of the model.
        """
        count = len(self.layers)
        if isinstance(spec, str):
            if spec == "all":
                return tuple(range(count))
            if spec == "last":
                return (count - 1,)
            if spec in _THIRDS:
                third = _THIRDS[spec]
                bounds = [round(count * part / 3) for part in (third, third + 1)]
                return tuple(range(*bounds)) or (min(bounds[0], count - 1),)
            raise PartsError(f"no layers named '{spec}'; there are: all, early, middle, late, last, or indices")
        items = [spec] if isinstance(spec, int | float) else list(spec)
        if not items:
            raise PartsError("no layer is named; there are: all, early, middle, late, last, or indices")
        return tuple(sorted({self._index(item) for item in items}))

    def _index(self, item: int | float) -> int:
        count = len(self.layers)
        if isinstance(item, float):
            if not 0.0 <= item <= 1.0:
                raise PartsError(f"a depth is between 0.0 and 1.0, not {item}")
            return min(int(item * count), count - 1)
        if not -count <= item < count:
            raise PartsError(f"there is no layer {item}: the decoder has {count} layers")
        return item % count

    def stage_of(self, path: str) -> int:
        """The stage at which a module or parameter, by its path in memory, is first used.

        Stage 2k lies before layer k and stage 2k + 1 behind its attention; the last, 2n, before the norm. All that
        comes before the layers is of stage 0.
        """
        prefix = f"{self.paths['layers']}."
        owner, _, inside = path.removeprefix(prefix).partition(".")
        if path.startswith(prefix) and owner.isdigit():
            index = int(owner)
            behind = self.attention(index) is not None and any(
                inside == name or inside.startswith(f"{name}.") for name in self._found(index, "mlp")
            )
            return 2 * index + behind
        after = any(f"{path}.".startswith(f"{self.paths[part]}.") for part in ("norm", "head"))
        return 2 * len(self.layers) if after else 0

    def attention(self, index: int) -> nn.Module | None:
        """The attention module of a layer, if it is one module that looks at the states which enter the layer, and the
        layer has a feed-forward part beside it."""
        if self.crosses(index):
            return None
        return next(iter(self._found(index, "attn").values()), None) if self._found(index, "mlp") else None

    def feed_forward(self, index: int) -> nn.Module | None:
        """The first module of a layer's feed-forward part."""
        return next(iter(self._found(index, "mlp").values()), None)

    def feed_forward_ends(self, index: int) -> tuple[nn.Module, nn.Module]:
        """The modules of a layer at which its feed-forward part begins and ends; one and the same where it is one.

        Raises:
            PartsError: the layer has none.
        """
        first, *_, last = [*self._in_layer(index, "mlp").values()] * 2
        return first, last

    def modules(self, layers: LayerSpec, roles: Sequence[str]) -> dict[str, nn.Module]:
        """Path -> module for every role; "vision", "connector", "head" and "norm" stand outside of the layers.

        A Q-Former belongs to the "connector", and a connector within the vision encoder not to "vision". What is no
        role is a module's path in memory, "*" for anything: "qformer.*.output_query.dense".

        Raises:
            PartsError: a role that this model's layers do not have, or what is neither role nor path.
        """
        outside = {
            "vision": _without(self.vision, self.paths["vision"], self.connector),
            "connector": {path: module for path, module in self.outside.items() if module is not self.vision},
            "head": {self.paths["head"]: self.head},
            "norm": {self.paths["norm"]: self.norm},
        }
        found: dict[str, nn.Module] = {}
        for role in roles:
            if role in outside:
                found |= outside[role]
            elif role in ROLES:
                for index in self.layer_indices(layers):
                    prefix = f"{self.paths['layers']}.{index}"
                    found |= {f"{prefix}.{name}": module for name, module in self._in_layer(index, role).items()}
            elif called := self._called(role):
                found |= called
            else:
                known = ", ".join((*ROLES, *outside))
                raise PartsError(f"no module role '{role}', and no module's path; roles are: {known}")
        return found

    def _called(self, pattern: str) -> dict[str, nn.Module]:
        """Path -> module of all whose path is as the pattern says."""
        every = {**self.outside, self.paths["decoder"]: self.decoder, self.paths["head"]: self.head}
        named = {path: module for owner, part in every.items() for path, module in part.named_modules(prefix=owner)}
        return {path: module for path, module in named.items() if fnmatchcase(path, pattern)}

    def _in_layer(self, index: int, role: str) -> dict[str, nn.Module]:
        if found := self._found(index, role):
            return found
        kind = type(self.layers[index]).__name__
        raise PartsError(f"layer {index} ({kind}) has no module of role '{role}' (looked for {', '.join(ROLES[role])})")

    def _found(self, index: int, role: str) -> dict[str, nn.Module]:
        """Name in the layer -> module, for a role; empty if the layer has none."""
        for names in ROLES[role]:
            modules = {name: _descend(self.layers[index], name) for name in names.split("+")}
            present = {name: module for name, module in modules.items() if module is not None}
            if len(present) == len(modules):
                return present
        return {}


def find_parts(model: Any) -> Parts:
    """Find the parts of a transformers image-text-to-text model.

    Raises:
        PartsError: a part cannot be found; says which.
    """
    decoder = _decoder(model)
    vision = _vision(model)
    found: dict[str, Any] = {
        "vision": vision,
        "connector": _connector(model, vision, decoder),
        "decoder": decoder,
        "layers": getattr(decoder, "layers", None),
        "norm": _norm(decoder),
        "embed": model.get_input_embeddings(),
        "head": model.get_output_embeddings(),
    }
    absent = [name for name, module in found.items() if not isinstance(module, nn.Module)]
    image_token: Any = getattr(model.config, "image_token_id", None)
    if not isinstance(image_token, int):
        absent.append("image token")
    if absent:
        raise PartsError(f"{type(model).__name__}: could not find its {', '.join(absent)}")
    if (qformer := _first(model, _QFORMERS) or _first(model.base_model, _QFORMERS)) is not None:
        found["qformer"] = qformer
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    paths = {part: names[id(module)] for part, module in found.items()}
    layers = tuple(found.pop("layers"))
    in_stream = not any(map(_crosses, layers))
    return Parts(**found, layers=layers, image_token=image_token, paths=paths, in_stream=in_stream)


def _decoder(model: Any) -> Any:
    """The stack that owns the layers: ``get_decoder`` may stop at a causal model around it, so go on inwards."""
    if not hasattr(model, "get_decoder"):
        raise PartsError(f"{type(model).__name__} has no text decoder")
    decoder = model.get_decoder()
    while hasattr(decoder, "get_decoder") and (inner := decoder.get_decoder()) is not decoder:
        decoder = inner
    if not hasattr(decoder, "layers"):
        return next((inner for inner in decoder.children() if hasattr(inner, "layers")), decoder)
    return decoder


def _vision(model: Any) -> Any:
    if not hasattr(model, "get_encoder"):
        return None
    vision = model.get_encoder(modality="image")
    return None if vision is model else vision


def _connector(model: Any, vision: Any, decoder: Any) -> Any:
    """By one of its usual names; else it is the last of what stands beside the encoder and the decoder."""
    known = _first(model, _CONNECTORS) or _first(model.base_model, _CONNECTORS) or _first(vision, _CONNECTORS)
    if known is not None or vision is None:
        return known
    apart = {id(vision), id(decoder), id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    beside = [
        child
        for name, child in model.base_model.named_children()
        if "audio" not in name
        and any(True for _ in child.parameters())
        and not any(id(module) in apart for module in child.modules())
    ]
    return beside[-1] if beside else None


def _norm(decoder: Any) -> Any:
    """By one of its usual names; else the only child that is called a norm."""
    known = _first(decoder, _NORMS)
    if known is not None:
        return known
    named = [child for name, child in decoder.named_children() if "norm" in name]
    return named[0] if len(named) == 1 else None


def _without(owner: nn.Module, path: str, part: nn.Module) -> dict[str, nn.Module]:
    """Path -> module of an owner, or of what is in it beside a part that it holds."""
    if part not in owner.modules():
        return {path: owner}
    children = {f"{path}.{name}": child for name, child in owner.named_children() if child is not part}
    return {name: one for at, child in children.items() for name, one in _without(child, at, part).items()}


def _crosses(layer: nn.Module) -> bool:
    return _descend(layer, "cross_attn") is not None


def _first(owner: Any, names: Sequence[str]) -> Any:
    return next((module for name in names if isinstance(module := getattr(owner, name, None), nn.Module)), None)


def _descend(module: nn.Module, path: str) -> nn.Module | None:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
        if not isinstance(found, nn.Module):
            return None
    return found
