"""The weights of `serac`, scope classifier and counterfactual model, by the names that their functions know them by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlmend.editors.vead_memory_training import KeyReader

__all__ = ["Network"]

_INNER = 4  # times the width, inside a layer


class _Layer(nn.Module):
    """One layer of `vlmend.edits.decoder`; it begins as one that adds nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, _INNER * width), nn.Linear(_INNER * width, width)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


class _Decoder(nn.Module):
    """Some layers ("0", "1", ...) and the norm behind them."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        for layer in range(layers):
            self.add_module(str(layer), _Layer(width))


class _Entering(nn.Module):
    """How words and pictures enter.

    Args:
        words: width of the model's embeddings.
        visual: width of what enters its token stream of a picture.
        width: M.
        unit: root mean square of the embeddings' entries.
    """

    unit: Tensor

    def __init__(self, words: int, visual: int, width: int, unit: float) -> None:
        super().__init__()
        self.register_buffer("unit", torch.tensor(unit))
        self.enter = nn.Linear(words, width)
        self.see_norm, self.see = nn.LayerNorm(visual), nn.Linear(visual, width)


class _Scope(_Entering):
    """What `vlmend.edits.scope` is given."""

    def __init__(self, words: int, visual: int, width: int, unit: float, size: int, layers: int) -> None:
        super().__init__(words, visual, width, unit)
        self.nothing = nn.Parameter(torch.randn(width))
        self.words = _Decoder(width, layers)
        self.reader = KeyReader(width, width, size)
        self.sharpness, self.middle = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(0.5))


class _Speaker(_Entering):
    """What `vlmend.edits.speaker` is given; words leave as they enter, at first."""

    def __init__(self, words: int, visual: int, width: int, unit: float, layers: int) -> None:
        super().__init__(words, visual, width, unit)
        self.begin = nn.Parameter(torch.randn(width))
        self.pieces = nn.Parameter(torch.randn(5, width))
        self.leave = nn.Linear(width, words)
        with torch.no_grad():
            self.leave.weight.copy_(self.enter.weight.T / words**0.5)
            self.leave.bias.zero_()
        decoder = _Decoder(width, layers)
        for name, module in decoder.named_children():  # its tensors are the speaker's own
            self.add_module(name, module)


class Network(nn.Module):
    """All that is saved.

    Args:
        words: width of the model's embeddings.
        visual: width of what enters its token stream of a picture.
        width: of both, M.
        size: of a key's two vectors.
        layers: of the scope's decoder, and of the counterfactual model.
        unit: root mean square of the embeddings' entries.
    """

    bar: Tensor

    def __init__(self, words: int, visual: int, width: int, size: int, layers: tuple[int, int], unit: float) -> None:
        super().__init__()
        self.scope = _Scope(words, visual, width, unit, size, layers[0])
        self.speaker = _Speaker(words, visual, width, unit, layers[1])
        self.register_buffer("bar", torch.tensor(0.5))
