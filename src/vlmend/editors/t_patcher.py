"""T-Patcher: a few more neurons in the last layer, one for each token that is answered wrongly.

Huang et al., *Transformer-Patcher: One Mistake worth One Neuron*, ICLR 2023, arXiv 2301.09785; a baseline of
VisEdit. A patch is a neuron beside those of the last decoder layer's feed-forward part: with the input q [D] of that
part, it adds relu(q k + b) v, with a key k [D], a bias b and a value v [D]. For every token of the target that the
model does not predict (the one that closes the answer is among them) there is one, whose q_e is the input where that
token is predicted; it begins at k = q_e / |q_e|^2 and b = 0, where its activation is 1, and v = 0. With M [N, D],
inputs that do not concern the request, and z(q) = q k + b, the patches minimise

    L   = l_e + activation_weight * l_a + memory_weight * (l_m1 + l_m2)
    l_e = mean negative log-likelihood of the target, as in `ft`
    l_a = mean over patches of exp(-z(q_e))                           it is active where it should be
    l_m1 = mean of the largest exp(z(q_m) - beta), q_m in M           it is not elsewhere: z(q_m) <= beta
    l_m2 = mean of the largest exp(z(q_m) - z(q_e) + gamma)           and far from it: z(q_m) <= z(q_e) - gamma

Losses, their weights and margins are as in the authors' code (github.com/ZeroYuHuang/Transformer-Patcher). Steps and
learning rate are not, nor how many of the largest count (there 1000 of a far larger memory; 5 patches in l_a), nor the
values at the start, which are random there, nor the activation, there the model's own: with relu a patch that is not
active adds nothing, bit for bit.

M must not come from what the edit will be measured on. The paper's comes from a model's training data; here it is made
of the model's own answers to neutral questions, without a picture and about the request's own, and to words drawn at
random from its vocabulary, without a picture and with a mosaic of random colours. In the last layer these are the
inputs where an answer's token is predicted, as no other reaches an output; below it, all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.data.records import EditCase, Example
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.fitting import answer_loss, descend
from vlmend.editors.settings import Amount, Count, Number, Rate, Size
from vlmend.editors.unrelated import answered, random_prompts
from vlmend.edits.edit import Edit
from vlmend.edits.neurons import NeuronOp, made_by
from vlmend.errors import EditError
from vlmend.models.parts import NO_PART, LayerSpec
from vlmend.models.prepared import Prepared
from vlmend.models.trace import capture
from vlmend.models.vlm import VLM

__all__ = ["TPatcher", "activation_loss", "memory_losses"]


@dataclass(frozen=True)
class TPatcher:
    """Patches as an editor.

    Attributes:
        layers: which decoder layers get patches; the paper's is the last.
        steps: AdamW steps.
        lr: learning rate, as a multiple of the mean absolute input (keys) and state (values) of the layer.
        activation_weight: weight of l_a.
        memory_weight: weight of l_m1 + l_m2.
        beta: where the pre-activation of an unrelated input should stay below.
        gamma: how far below that of the request's.
        hardest: over how many of the largest a memory loss is averaged.
        memory: the neutral questions; without them and without ``drawn`` there are no memory losses.
        memory_tokens: longest answer to them, in tokens.
        drawn: how many prompts of random words, every second one with a mosaic.
        seed: of words and mosaics.
    """

    name: ClassVar[str] = "t-patcher"

    layers: LayerSpec = "last"
    steps: Count = 150
    lr: Rate = 0.02
    activation_weight: Amount = 1.0
    memory_weight: Amount = 5.0
    beta: Number = -3.0
    gamma: Number = 3.0
    hardest: Size = 64
    memory: tuple[str, ...] = (
        "Describe the picture.",
        "What is this?",
        "What colour is it?",
        "How many are there?",
        "Where is it?",
        "Is there anything else?",
        "What is the name of it?",
        "Who wrote this?",
    )
    memory_tokens: Size = 16
    drawn: Count = 48
    seed: int = 0

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Fit patches to the cases' requests; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target, ``hardest`` is less than 1, or the fit diverges.
            PartsError: the model has no such layers.
        """
        check_cases(cases)
        if self.hardest < 1:
            raise EditError(f"the memory losses are means over at least 1 input, not {self.hardest}")
        requests = vlm.prepare([case.request for case in cases])
        patches = self._begun(vlm, requests, self._unrelated(vlm, cases))
        first = vlm.first_stage(patches)

        def loss_of() -> Tensor:
            loss = answer_loss(vlm.run(requests, ops=patches, grad=True, first=first))
            for one in patches:
                own_P, others_NP = one.before(one.queries_PD).diagonal(), one.before(one.memory_ND)
                loss = loss + self.activation_weight * activation_loss(own_P)
                if len(others_NP):
                    quiet, apart = memory_losses(own_P, others_NP, self.beta, self.gamma, self.hardest)
                    loss = loss + self.memory_weight * (quiet + apart)
            return loss

        descend([tensor for one in patches for tensor in one.fitted], loss_of, steps=self.steps, lr=self.lr)
        return edit_of(self, vlm, cases, [NeuronOp(one.layer, *one.neurons) for one in patches])

    def _begun(self, vlm: VLM, requests: Prepared, unrelated: Prepared) -> list[_Patches]:
        """A patch for every token of the requests that is predicted wrongly (for all, if none is), in every layer."""
        outputs = vlm.run(requests).rows
        wrong = [(one.logits_NV.argmax(-1) != one.target_N).cpu() for one in outputs]
        if not any(bool(row_N.any()) for row_N in wrong):
            wrong = [torch.ones_like(row_N) for row_N in wrong]
        begun: list[_Patches] = []
        for layer in vlm.parts.layer_indices(self.layers):
            everywhere = layer < len(vlm.parts.layers) - 1
            entered, left = _inputs_and_states(vlm, layer, requests, everywhere=False)
            if not all(map(len, entered)):
                raise EditError(NO_PART.format(layer))
            queries_PD = torch.cat([row_ND[row_N] for row_ND, row_N in zip(entered, wrong, strict=True)])
            memory = _inputs_and_states(vlm, layer, unrelated, everywhere=everywhere)[0]
            memory_ND = torch.cat([queries_PD[:0], *memory])
            begun.append(_Patches.at(layer, queries_PD, memory_ND, float(torch.cat(left).abs().mean())))
        return begun

    def _unrelated(self, vlm: VLM, cases: Sequence[EditCase]) -> Prepared:
        """Neutral questions and random words, with the model's own answers."""
        pictures = [None, *(case.request.image for case in cases if case.request.pictures)]
        asked = [Example(question, picture) for picture in pictures for question in self.memory]
        asked += random_prompts(vlm, self.drawn, seed=self.seed)
        return vlm.prepare(answered(vlm, asked, max_new_tokens=self.memory_tokens))


def activation_loss(own_P: Tensor) -> Tensor:
    """l_a, from each patch's pre-activation at its own query."""
    return (-own_P).exp().mean()


def memory_losses(own_P: Tensor, others_NP: Tensor, beta: float, gamma: float, hardest: int) -> tuple[Tensor, Tensor]:
    """l_m1 and l_m2, from the pre-activations at the patches' own queries and at N unrelated inputs."""
    quiet_NP = (others_NP - beta).exp()
    apart_NP = (others_NP - own_P + gamma).exp()
    count = min(hardest, others_NP.numel())
    return quiet_NP.flatten().topk(count).values.mean(), apart_NP.flatten().topk(count).values.mean()


@dataclass(frozen=True, eq=False)
class _Patches:
    """Patches of one layer that are being fitted: keys in units of ``1 / size``, values in units of ``scale``.

    ``queries_PD`` and ``memory_ND`` are inputs in units of ``size``, their mean absolute value.
    """

    layer: int
    queries_PD: Tensor
    memory_ND: Tensor
    size: float
    scale: float
    fitted: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def at(cls, layer: int, queries_PD: Tensor, memory_ND: Tensor, scale: float) -> _Patches:
        size = float(queries_PD.abs().mean())
        queries_PD = queries_PD / size
        keys_PD = queries_PD / queries_PD.square().sum(-1, keepdim=True)
        begun = (keys_PD, torch.zeros_like(keys_PD[:, 0]), torch.zeros_like(keys_PD))
        fitted = tuple(one.clone().requires_grad_(True) for one in begun)
        return cls(layer, queries_PD, memory_ND / size, size, scale, (fitted[0], fitted[1], fitted[2]))

    @property
    def neurons(self) -> tuple[Tensor, Tensor, Tensor]:
        keys_PD, bias_P, values_PD = self.fitted
        return keys_PD / self.size, bias_P, values_PD * self.scale

    def before(self, inputs_ND: Tensor) -> Tensor:
        """Pre-activations [N, P] at inputs in units of ``size``."""
        keys_PD, bias_P, _ = self.fitted
        return inputs_ND @ keys_PD.T + bias_P

    def check(self, layers: int, width: int) -> None:
        """They are made for the model at hand."""

    def added(self, inputs_TD: Tensor) -> Tensor:
        return made_by(*self.neurons, inputs_TD)


def _inputs_and_states(
    vlm: VLM, layer: int, prepared: Prepared, *, everywhere: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """For each row what a layer's feed-forward part is given, and what the layer hands on; [N, D] in float32.

    Where a token of its target is predicted, or at all its tokens; nothing where the layer is not run.
    """
    watched = {"part": vlm.parts.feed_forward_ends(layer)[0], "layer": vlm.parts.layers[layer]}
    inputs: list[Tensor] = []
    states: list[Tensor] = []
    for index, row in enumerate(prepared.rows):
        with capture(watched) as calls:
            vlm.run(prepared.take([index]))
        places = slice(None) if everywhere else slice(-len(row.target_N) - 1, -1)
        found = {call.name: call for call in calls}
        if not found:
            nothing = torch.empty(0, len(vlm.parts.norm.weight), device=vlm.device)  # type: ignore[arg-type]
            inputs.append(nothing)
            states.append(nothing)
            continue
        entered = found["part"].input
        assert entered is not None
        inputs.append(entered.flatten(0, -2)[places].float())
        states.append(found["layer"].output.flatten(0, -2)[places].float())
    return inputs, states
