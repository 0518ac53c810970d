"""The network of `ke`: it reads an edit, and says of each layer what is to be made of the gradient there.

De Cao et al., *Editing Factual Knowledge in Language Models*, EMNLP 2021, arXiv 2104.08164, section 3.2. With h the
last states of a bidirectional LSTM over the embedded words of an edit, and c = tanh(W h), a net of one inner layer with
tanh (its weights normalised row by row) makes of c, for a weight [O, I], the vectors alpha, gamma [I], beta, delta [O]
and a number eta, and the change of the weight is

    sigma(eta) * (grad * (softmax(beta) alpha^T) + softmax(delta) gamma^T)

with * entry by entry. As the gradient is a sum of outer products, sum_t delta_t u_t^T, each factor can be scaled in
place of the matrix: the change is of rank T + 1, and no matrix is made.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vlmend.editors.gradients import Changes, Gradient

__all__ = ["KENetwork"]


class KENetwork(nn.Module):
    """The hyper-network for some layers.

    Args:
        shapes: on-disk name -> (O, I), of each weight.
        embedding: E, of the words.
        hidden: of the LSTM in each direction, and of the inner layers.
        condition: C, of what is read.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], embedding: int, hidden: int, condition: int) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.lstm = nn.LSTM(embedding, hidden, bidirectional=True)
        self.read = nn.Linear(2 * hidden, condition)
        self.readers = nn.ModuleList(
            nn.Sequential(
                weight_norm(nn.Linear(condition, hidden)),
                nn.Tanh(),
                weight_norm(nn.Linear(hidden, 2 * (out + width) + 1)),
            )
            for out, width in shapes.values()
        )

    @classmethod
    def sized(cls, shapes: Mapping[str, tuple[int, int]], tensors: Mapping[str, Tensor]) -> KENetwork:
        """The network that has these tensors.

        Raises:
            KeyError, RuntimeError, ValueError: these are no network's.
        """
        condition, both = tensors["read.weight"].shape
        made = cls(shapes, tensors["lstm.weight_ih_l0"].shape[1], both // 2, condition)
        made.load_state_dict(dict(tensors))
        return made

    def conditions(self, words_TE: Tensor) -> Tensor:
        """c [C], of the embedded words of one edit."""
        _, (last_2H, _) = self.lstm(words_TE)
        return torch.tanh(self.read(last_2H.flatten()))

    def forward(self, words_TE: Tensor, gradients: Mapping[str, Gradient]) -> Changes:
        """The change of each layer that has a gradient, as factors [O, T + 1] and [T + 1, I]."""
        condition_C = self.conditions(words_TE)
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        for reader, (name, (out, width)) in zip(self.readers, self.shapes.items(), strict=True):
            if name not in gradients:
                continue
            made: Tensor = reader(condition_C)
            alpha_I, beta_O, gamma_I, delta_O, eta_1 = made.split([width, out, width, out, 1])
            gradient, scale_1 = gradients[name], torch.sigmoid(eta_1)
            left_TO = gradient.deltas_TO.float() * beta_O.softmax(-1)
            right_TI = gradient.inputs_TI.float() * alpha_I
            left_TO = scale_1 * torch.cat([left_TO, delta_O.softmax(-1)[None]])
            changes[name] = (left_TO.T, torch.cat([right_TI, gamma_I[None]]))
        return changes
