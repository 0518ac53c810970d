"""How `ke` is trained: on edit cases with their probes, with MMEdit's locality terms.

De Cao et al., EMNLP 2021, arXiv 2104.08164, section 3.1, minimise the loss of the edit and its paraphrases while the
divergence elsewhere stays under a margin, by a Lagrangian; VLKEB's code bounds the change's norm in that way instead.
Here, as MMEdit trained it with a loss of locality, the divergence is a term of fixed weight (`changes_lesson`).
Published: hidden width 128, condition 1024, learning rate 3e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_GENERALITY, TEXT_LOCALITY, EditCase
from vlmend.editors.changes_lesson import ChangesLesson, cases_from
from vlmend.editors.changing import Layers
from vlmend.editors.ke import words_of
from vlmend.editors.ke_network import KENetwork
from vlmend.editors.settings import Amount, Count, Rate, Share, Size
from vlmend.errors import EditError
from vlmend.models.parts import LayerSpec
from vlmend.models.vlm import VLM

__all__ = ["KETraining"]


@dataclass(frozen=True)
class KETraining:
    """The training of `ke`.

    Attributes:
        layers: which decoder layers ("late", "last", indices or depths).
        modules: which modules in them, by role, "connector", "vision" or paths; every linear layer within is edited.
        hidden: width of the LSTM in each direction, and of the inner layers.
        condition: width of what is read of an edit.
        learns: kinds of probes that must give the target.
        keeps: kinds of probes whose answers must stay.
        request_weight: of the request's own cross-entropy.
        edit_weight: of each kind that is learnt.
        keep_weight: of each kind that must stay.
        retargets: how many targets beside its own each case is learnt with.
        steps, batch, lr, cooldown, held_out, check_every, seed: see `vlmend.editors.training.Trainable`.
    """

    name: ClassVar[str] = "ke"

    layers: LayerSpec = (-3, -2, -1)
    modules: tuple[str, ...] = ("mlp.up", "mlp.down")
    hidden: Size = 128
    condition: Size = 1024
    learns: tuple[str, ...] = (TEXT_GENERALITY, IMAGE_GENERALITY)
    keeps: tuple[str, ...] = (TEXT_LOCALITY, IMAGE_LOCALITY)
    request_weight: Amount = 1.0
    edit_weight: Amount = 1.0
    keep_weight: Amount = 1.0
    retargets: Count = 0
    steps: Size = 2000
    batch: Size = 4
    lr: Rate = 3e-4
    cooldown: Share = 0.0
    held_out: Share = 0.1
    check_every: Size = 200
    seed: int = 0

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> ChangesLesson:
        """Run every case's rows, and its request's backwards.

        Raises:
            EditError: a width that is none, modules without a linear layer, or a request whose answer depends on none
                of the layers.
            PartsError: the model has no such layers or modules.
        """
        if self.hidden < 1 or self.condition < 1:
            raise EditError("hidden and condition must be above 0")
        layers = Layers.found(vlm, self.layers, self.modules)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            width = vlm.parts.embed.weight.shape[1]  # type: ignore[union-attr]
            network = KENetwork(layers.shapes, int(width), self.hidden, self.condition)  # type: ignore[arg-type]
        network.to(vlm.device)
        known, unseen = cases_from(self, vlm, learned, held, layers.linears)
        words = {id(one): words_of(vlm, one.case) for one in (*known, *unseen)}
        return ChangesLesson(
            self,
            vlm,
            layers.linears,
            network,
            lambda one: network(words[id(one)], one.gradients),
            layers.facts,
            known,
            unseen,
        )
