"""How `mend` is trained: MEND's losses, with MMEdit's terms for pictures, on edit cases with their probes.

Mitchell et al., ICLR 2022, arXiv 2110.11309, section 3.3; MMEdit, arXiv 2310.08475, section 4.1 and its code. With each
case's own edit in force

    L  =  c_edit * (CE(target | other words) + CE(target | another picture))
        + c_loc * (KL(before || after | text locality) + KL(before || after | image locality))

(`changes_lesson`), c_edit = 0.1 and c_loc = 1. Published: fc1 and fc2 of the last three decoder layers, rank 1920, Adam
at 1e-6 and at 1e-4 for alpha, which begins at 1e-4, 20,000 steps of one case; KL over all attended positions, here over
those that predict the target. The edits' gradients are found once, since the weights they are taken at stay.

Beyond the papers: near misses can be asked to stay; the request itself can be in the loss; cases can be learnt with
other targets (`lessons.retargeted`); alpha begins at a step downhill (`mend_network`); any linear layers can be edited,
those of connector and vision encoder too; and the weights are those of the best check on cases held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from vlmend.data.records import IMAGE_GENERALITY, IMAGE_LOCALITY, TEXT_GENERALITY, TEXT_LOCALITY, EditCase
from vlmend.editors.changes_lesson import ChangesLesson, cases_from
from vlmend.editors.changing import Layers
from vlmend.editors.mend_network import MENDNetwork, grouped
from vlmend.editors.settings import Amount, Count, Number, Rate, Share, Size
from vlmend.errors import EditError
from vlmend.models.parts import LayerSpec
from vlmend.models.vlm import VLM

__all__ = ["MENDTraining"]


@dataclass(frozen=True)
class MENDTraining:
    """The training of `mend`.

    Attributes:
        layers: which decoder layers ("late", "last", indices or depths).
        modules: which modules in them, by role, "connector", "vision" or paths; every linear layer within is edited.
        rank: R of the network's maps.
        shared: one network for all layers of a shape, or one for each layer.
        alpha: size of the first step downhill.
        alpha_lr: learning rate of alpha.
        learns: kinds of probes that must give the target.
        keeps: kinds of probes whose answers must stay.
        request_weight: of the request's own cross-entropy; 0 as published.
        edit_weight: c_edit, of each kind that is learnt.
        keep_weight: c_loc, of each kind that must stay.
        retargets: how many targets beside its own each case is learnt with.
        steps, batch, lr, cooldown, held_out, check_every, seed: see `vlmend.editors.training.Trainable`.
    """

    name: ClassVar[str] = "mend"

    layers: LayerSpec = (-3, -2, -1)
    modules: tuple[str, ...] = ("mlp.up", "mlp.down")
    rank: Size = 1920
    shared: bool = True
    alpha: Number = 1e-4
    alpha_lr: Rate = 1e-4
    learns: tuple[str, ...] = (TEXT_GENERALITY, IMAGE_GENERALITY)
    keeps: tuple[str, ...] = (TEXT_LOCALITY, IMAGE_LOCALITY)
    request_weight: Amount = 0.1
    edit_weight: Amount = 0.1
    keep_weight: Amount = 1.0
    retargets: Count = 0
    steps: Size = 2000
    batch: Size = 4
    lr: Rate = 1e-4
    cooldown: Share = 0.0
    held_out: Share = 0.1
    check_every: Size = 200
    seed: int = 0

    def lesson(self, vlm: VLM, learned: Sequence[EditCase], held: Sequence[EditCase]) -> ChangesLesson:
        """Run every case's rows, and its request's backwards.

        Raises:
            EditError: a rank or learning rate that is none, modules without a linear layer, or a request whose answer
                depends on none of the layers.
            PartsError: the model has no such layers or modules.
        """
        if self.rank < 1 or self.lr <= 0 or self.alpha_lr <= 0:
            raise EditError("rank, lr and alpha_lr must be above 0")
        layers = Layers.found(vlm, self.layers, self.modules)
        groups = grouped(layers.shapes, shared=self.shared)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = MENDNetwork(groups, layers.shapes, self.rank, -self.alpha, self.alpha_lr / self.lr)
        network.to(vlm.device)
        known, unseen = cases_from(self, vlm, learned, held, layers.linears)
        network.measure(case.gradients for case in known)
        facts = {**layers.facts, "groups": groups}
        return ChangesLesson(
            self, vlm, layers.linears, network, lambda case: network(case.gradients), facts, known, unseen
        )
