"""Changes of linear layers in closed form, spread over several decoder layers: what `memit` and `alphaedit` share.

Meng et al., *Mass-Editing Memory in a Transformer*, ICLR 2023, arXiv 2210.07229, section 4. An edit is

1. what the last of the layers is to hand on at some tokens for the answer to be said, z = h + delta: delta by descent
   on the answer's loss (equation 16);
2. at each of the layers in turn, for the keys k (what its linear layer is given at these tokens) the shares
   r = (z - h) / (layers left) that it is to add (equation 20), h being what the last one hands on by now;
3. a change dW of the linear layer that adds r at k and as little as it can elsewhere (equation 14).

Elsewhere is what editors differ in: a matrix M [I, I], small where W must not move. For N keys K and shares R

    dW  =  R^T (1 + K M K^T)^-1 K M,

which is the ridge regression on keys with the inverse of M for a ridge, and by Woodbury's identity takes the inverse of
an N x N matrix alone. It is left as factors [O, N] and [N, I]. All requests of an edit are in one regression.

In a vision-language model a request's subject is in its picture. Which tokens the keys are of is the setting ``key``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from vlmend.data.formats import read
from vlmend.data.records import EditCase, Example
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.fitting import answer_loss, descend
from vlmend.editors.settings import Amount, Count, Rate, Size
from vlmend.editors.unrelated import answered, random_prompts
from vlmend.edits.edit import Edit
from vlmend.edits.left import KeysOp
from vlmend.edits.ops import WeightOp
from vlmend.errors import EditError
from vlmend.models.parts import NO_PART, LayerSpec
from vlmend.models.prepared import Prepared
from vlmend.models.trace import altered, capture
from vlmend.models.vlm import VLM

__all__ = ["ClosedForm", "spread"]

_ANSWER = 16  # tokens, of answers to prompts that are about nothing

_HANDS_ON = ("mlp.down", "attn.out")
Key = Literal["answer", "last", "visual"]
_PLACES = {
    "answer": lambda row: range(len(row.ids_T) - 1, len(row.ids_T) - 1 + len(row.target_N)),
    "last": lambda row: range(len(row.ids_T) - 1, len(row.ids_T)),
    "visual": lambda row: row.visual.tolist(),
}
"""Setting ``key`` -> places of a row's tokens, its answer behind its prompt."""


@dataclass(frozen=True)
class ClosedForm:
    """An editor in closed form; what editors have in common.

    Attributes:
        layers: which decoder layers change, in their order; the last is the one that is to hand on z.
        module: which linear layer of them, by role: "mlp.down" or "attn.out", whose outputs are added to the states.
        key: the tokens whose states are changed: "answer", where the answer is said; "last", the prompt's last one;
            "visual", those of the pictures.
        steps: of the descent to delta, at most.
        lr: its learning rate.
        stop_loss: it ends when the answer's loss is below this, in nats.
        limit: bound on delta's norm at each token, in norms of the state there.
        reference: a file of cases with answers that stand for all that must stay; prompts of random words and pictures
            if none is named.
        drawn: how many of these.
        seed: of these.
    """

    name: ClassVar[str]

    layers: LayerSpec = (0.5, 0.65, 0.8)
    module: str = "mlp.down"
    key: Key = "answer"
    steps: Count = 25
    lr: Rate = 0.5
    stop_loss: Amount = 0.02
    limit: Amount = 4.0
    reference: str = ""
    drawn: Size = 128
    seed: int = 0

    def free(self, moments_II: Tensor, keys_NI: Tensor) -> Tensor:
        """M of one layer, out of the mean of k k^T over the reference, and the keys of edits in force."""
        raise NotImplementedError

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Find every request's delta, then solve layer by layer; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target, or no picture where keys are of pictures or layers
                look at one, a setting is none that is known, or the descent diverges.
            DataError: the reference cannot be read.
            PartsError: the model has no such layers or module, or no visual tokens where these are keys.
        """
        check_cases(cases)
        if self.key not in _PLACES:
            raise EditError(f"key of {self.name} is {', '.join(_PLACES)}, not {self.key!r}")
        if self.key == "visual" and (blind := [case.id for case in cases if not case.request.pictures]):
            raise EditError(f"case '{blind[0]}' has no picture, whose tokens could be keys")
        linears = self._linears(vlm)
        rows = [vlm.prepare([case.request]) for case in cases]
        wanted = [self._wanted(vlm, row, max(linears)) for row in rows]
        left: list[tuple[str, tuple[Tensor, Tensor]]] = []
        met: dict[str, Tensor] = {}
        for at, (layer, (name, linear)) in enumerate(sorted(linears.items())):
            ops = [WeightOp.low_rank(dict(left))] if left else []
            pairs = [self._keys(vlm, row, linear, max(linears), ops) for row in rows]
            keys_NI = torch.cat([keys for keys, _ in pairs])
            shares_NO = torch.cat([z - h for z, (_, h) in zip(wanted, pairs, strict=True)]) / (len(linears) - at)
            before_NI = torch.cat([keys_NI[:0], *self._left_by_earlier(vlm, name)])
            free_II = self.free(self._moments(vlm, linears)[layer].double(), before_NI.double())
            factors = spread(shares_NO.double(), keys_NI.double(), free_II)
            left.append((name, tuple(one.to(linear.weight.dtype) for one in factors)))  # type: ignore[arg-type]
            met[name] = keys_NI
        ops = [WeightOp.low_rank(dict(left)), KeysOp(met)]
        return edit_of(self, vlm, cases, ops)

    def _linears(self, vlm: VLM) -> dict[int, tuple[str, nn.Linear]]:
        """Decoder layer -> its linear layer, under the name of its weight on disk."""
        if self.module not in _HANDS_ON:
            raise EditError(f"module of {self.name} is what hands on a layer's share: {' or '.join(_HANDS_ON)}")
        found: dict[int, tuple[str, nn.Linear]] = {}
        for layer in vlm.parts.layer_indices(self.layers):
            some = vlm.weights.linears(vlm.parts.modules([layer], [self.module]))
            if len(some) > 1:
                raise EditError(f"'{self.module}' is {len(some)} linear layers, and {self.name} changes one of a layer")
            found[layer] = next(iter(some.items()))
        return found

    def _wanted(self, vlm: VLM, prepared: Prepared, layer: int) -> Tensor:
        """z of one request, [N, D] in float32."""
        places = torch.tensor(list(_PLACES[self.key](prepared.rows[0])), device=vlm.device)
        following = (*vlm.parts.layers, vlm.parts.norm)[layer + 1]
        with torch.no_grad(), capture({"layer": vlm.parts.layers[layer]}) as calls:
            vlm.run(prepared)
        if not calls:
            raise EditError(NO_PART.format(layer))
        states_ND = _at(calls[-1].output, places)
        delta_ND = torch.zeros_like(states_ND, requires_grad=True)
        most_N1 = self.limit * states_ND.norm(dim=-1, keepdim=True)

        def add(x_BTD: Tensor) -> Tensor:
            return x_BTD.index_add(1, places, delta_ND.to(x_BTD.dtype).expand(len(x_BTD), -1, -1))

        def bounded() -> None:
            with torch.no_grad():
                delta_ND.mul_((most_N1 / delta_ND.norm(dim=-1, keepdim=True).clamp(min=1e-9)).clamp(max=1))

        with altered(following, add):
            descend(
                [delta_ND],
                lambda: answer_loss(vlm.run(prepared, grad=True, first=2 * (layer + 1))),
                steps=self.steps,
                lr=self.lr,
                stop_loss=self.stop_loss,
                after_step=bounded,
            )
        return states_ND + delta_ND.detach()

    @torch.no_grad()
    def _keys(
        self, vlm: VLM, prepared: Prepared, linear: nn.Linear, last: int, ops: Sequence[WeightOp]
    ) -> tuple[Tensor, Tensor]:
        """One request's keys at a linear layer [N, I], and what the last layer hands on there [N, D], in float32."""
        places = torch.tensor(list(_PLACES[self.key](prepared.rows[0])), device=vlm.device)
        with capture({"key": linear, "state": vlm.parts.layers[last]}) as calls:
            vlm.run(prepared, ops=ops)
        found = {call.name: call for call in calls}
        entered = found["key"].input
        assert entered is not None
        return _at(entered, places), _at(found["state"].output, places)

    def _left_by_earlier(self, vlm: VLM, name: str) -> list[Tensor]:
        """Keys of the edits in force at one weight."""
        return [op.keys[name].to(vlm.device) for op in vlm.ops_in_force if isinstance(op, KeysOp) and name in op.keys]

    def _moments(self, vlm: VLM, linears: Mapping[int, tuple[str, nn.Linear]]) -> dict[int, Tensor]:
        """Layer -> mean of k k^T over the reference's tokens, [I, I], of the model without edits; found once."""
        if vlm.fingerprint not in self._known:
            with vlm.bare():
                layers = {layer: linear for layer, (_, linear) in linears.items()}
                self._known[vlm.fingerprint] = moments(vlm, self._reference(vlm), layers)
        return self._known[vlm.fingerprint]

    def _reference(self, vlm: VLM) -> list[Example]:
        if not self.reference:
            drawn = random_prompts(vlm, self.drawn, seed=self.seed)
            return answered(vlm, drawn, max_new_tokens=_ANSWER)
        if not Path(self.reference).exists():
            raise EditError(f"there is no reference at '{self.reference}': a file of cases is expected")
        return [case.request for case in read(self.reference)]

    @cached_property
    def _known(self) -> dict[str, dict[int, Tensor]]:
        return {}


@torch.no_grad()
def moments(vlm: VLM, examples: Sequence[Example], linears: Mapping[int, nn.Linear]) -> dict[int, Tensor]:
    """For each layer the mean of x x^T over all tokens of examples and answers, x what it is given: [I, I]."""
    prepared = vlm.prepare(examples)
    totals = {layer: torch.zeros(x.in_features, x.in_features, device=vlm.device) for layer, x in linears.items()}
    counts = dict.fromkeys(linears, 0)  # by layer: one that looks at pictures is not run without one
    for at in range(len(prepared)):
        with capture({str(layer): linear for layer, linear in linears.items()}) as calls:
            vlm.run(prepared.take([at]))
        for call in calls:
            assert call.input is not None
            x_NI = call.input.flatten(0, -2).float()
            totals[int(call.name)] += x_NI.T @ x_NI
            counts[int(call.name)] += len(x_NI)
    return {layer: total_II / max(1, counts[layer]) for layer, total_II in totals.items()}


def _at(x: Tensor, places: Tensor) -> Tensor:
    """Of the states of one row those at some places, in float32."""
    return x.flatten(0, -2)[places].float()


def spread(shares_NO: Tensor, keys_NI: Tensor, free_II: Tensor) -> tuple[Tensor, Tensor]:
    """The change that adds shares at keys, as factors [O, N] and [N, I]: the module's equation."""
    right_NI = keys_NI @ free_II
    gram_NN = right_NI @ keys_NI.T + torch.eye(len(keys_NI), dtype=keys_NI.dtype, device=keys_NI.device)
    return shares_NO.T, torch.linalg.solve(gram_NN, right_NI)
