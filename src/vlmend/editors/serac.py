"""serac: edits kept in a memory, a classifier of what is in their scope, and a second, small model that answers there.

Mitchell et al., *Memory-Based Model Editing at Scale*, ICML 2022, arXiv 2206.06520, section 3.2: the edited model is

    f~(x)  =  f(x)  where s(x) < 1/2,  else  h(z, x),    z the edit whose scope x is in most, s(x) its certainty

with f the model as it was, h a counterfactual model. MMEdit (arXiv 2310.08475) takes it to pictures. Its published code
lets the scope classifier read text alone, and the answer in it; makes the projection of pictures into h anew, at
random, for each edit, and never trains it; leaves the pictures' divergence out of training; and always mixes softly.
Here the classifier reads question and picture and is given no answer (`vlmend.edits.scope`); h has one connector that
is trained with it (`vlmend.edits.speaker`); all of the out-of-scope divergence is in the loss (`serac_training`); and
routing is hard, as in the paper, unless ``route`` says "soft" (`vlmend.edits.counterfactual`).

Making an edit trains nothing: its request is read once for its key. Neither weights nor states of the model change; in
force together the edits of all stacked operations are one memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlmend.data.records import EditCase
from vlmend.editors.base import check_cases, edit_of
from vlmend.editors.settings import Number
from vlmend.editors.shelf import Shelved, Trained
from vlmend.edits.counterfactual import CounterfactualOp, Route
from vlmend.edits.edit import Edit
from vlmend.edits.named import under
from vlmend.edits.scope import keys_for
from vlmend.edits.speaker import Fact
from vlmend.errors import EditFormatError
from vlmend.models.vlm import VLM

__all__ = ["SERAC"]


@dataclass(frozen=True, eq=False)
class _Read:
    """Trained weights."""

    assets: Mapping[str, Tensor]
    heads: int
    bar: float


@dataclass(frozen=True)
class SERAC(Shelved[_Read]):
    """SERAC as an editor.

    Attributes:
        weights: folder of a classifier and a counterfactual model that were trained for the model, or of several such
            folders; ``None`` for those that come with the package.
        route: "hard", one model or the other; or "soft", a mixture of what both hold likely.
        bar: how certain it must be that a prompt is in an edit's scope, 0 to 1, where routing is hard; ``None``: as was
            best on the cases held out.
    """

    name: ClassVar[str] = "serac"

    weights: str | None = None
    route: Route = "hard"
    bar: Number | None = None

    @torch.no_grad()
    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """Keep the requests, with keys to find them by; the model is left as it was.

        Raises:
            EditError: there are no cases, a request has no target, there is no such route, or there are no weights for
                the model.
        """
        check_cases(cases)
        read = self.shelved(vlm)
        prepared = vlm.prepare([case.request for case in cases])
        queries = vlm.queries(prepared)
        here = {name: tensor.to(vlm.device) for name, tensor in under("scope.", read.assets).items()}
        keys = keys_for(queries, here, read.heads)
        facts = tuple(Fact(query.words_K, row.target_N) for query, row in zip(queries, prepared.rows, strict=True))
        bar = read.bar if self.bar is None else self.bar
        return edit_of(self, vlm, cases, [CounterfactualOp(read.assets, read.heads, keys, facts, bar, self.route)])

    def read(self, trained: Trained, vlm: VLM) -> _Read:
        try:
            assets = {name: x for name, x in trained.tensors.items() if name.startswith(("scope.", "speaker."))}
            for name in ("scope.see_norm.weight", "speaker.begin"):
                assets[name]
            return _Read(assets, int(trained.facts["heads"]), float(trained.tensors["bar"]))
        except (KeyError, TypeError, ValueError) as error:
            raise EditFormatError(f"the weights for '{trained.editor}' are none of serac's: {error}") from error
