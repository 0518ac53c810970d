"""An operation that lets a second, small model answer what is in the scope of its edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional

from vlmend.edits.named import under
from vlmend.edits.ops import Op, alike, kept, outlived
from vlmend.edits.recall import Keys
from vlmend.edits.scope import keys_for, leads
from vlmend.edits.speaker import Fact, say
from vlmend.errors import EditError
from vlmend.models.mixing import Mixing, Query

__all__ = ["CounterfactualOp", "Route", "mixture"]

Route = Literal["hard", "soft"]


@dataclass(frozen=True, eq=False)
class CounterfactualOp(Op):
    """Answers a query by a counterfactual model (`vlmend.edits.speaker`), as far as it is in an edit's scope.

    Of all its edits the one counts in whose scope s (`vlmend.edits.scope`) the query is most. Then, with p of the model
    and p' of the counterfactual one (SERAC, Mitchell et al., ICML 2022, arXiv 2206.06520, section 3.2, as "hard"; the
    mixture that MMEdit's code has, arXiv 2310.08475, as "soft"):

        hard:  the logits of p' if s >= bar, else those of p, bit for bit
        soft:  log((1 - s) p + s p')

    Attributes:
        assets: the trained tensors, ``scope.`` and ``speaker.``; shared with other operations, not copied, and not to
            be changed.
        heads: of both.
        keys: of the edits' requests.
        facts: the edits, one for each key.
        bar: the least s that is in scope.
        route: "hard" or "soft".

    Raises:
        EditError: keys and facts differ in number, or there is no such route.
    """

    kind: ClassVar[str] = "counterfactual"

    assets: Mapping[str, Tensor]
    heads: int
    keys: Keys
    facts: tuple[Fact, ...]
    bar: float
    route: Route = "hard"

    def __post_init__(self) -> None:
        counts = (len(self.keys.asked_NC), len(self.keys.seen_NC), len(self.facts))
        if len(set(counts)) > 1:
            raise EditError(f"{counts[2]} facts have {counts[0]} and {counts[1]} keys")
        if self.route not in get_args(Route):
            raise EditError(f"no route '{self.route}'; there are: {', '.join(get_args(Route))}")
        object.__setattr__(self, "assets", {name: tensor.detach().cpu() for name, tensor in self.assets.items()})
        object.__setattr__(self, "keys", Keys(kept(self.keys.asked_NC), kept(self.keys.seen_NC)))

    def check(self, layers: int, width: int) -> None:
        """Refuse a model of another width.

        Raises:
            EditError: says which.
        """
        if (mine := len(self.assets["scope.see_norm.weight"])) != width:
            raise EditError(f"the edit reads pictures of width {mine}, the model's have {width}")

    @torch.no_grad()
    def mixing(self, query: Query) -> Mixing:
        """How a query is taken."""
        if not self.facts:
            return Mixing(0.0, None)
        assets = {name: tensor.to(query.table_VD.device) for name, tensor in self.assets.items()}
        scope = under("scope.", assets)
        stored = Keys(*(one.to(query.table_VD.device) for one in (self.keys.asked_NC, self.keys.seen_NC)))
        lead_E = leads(keys_for([query], scope, self.heads), stored, scope)[0]
        best = int(lead_E.argmax())
        score = float(torch.sigmoid(lead_E[best]))
        if self.route == "hard" and score < self.bar:
            return Mixing(score, None)
        told = partial(self._told, self.facts[best], query, under("speaker.", assets))
        return Mixing(score, told if self.route == "hard" else partial(_mixture, lead_E[best], told))

    @torch.no_grad()
    def _told(
        self, fact: Fact, query: Query, speaker: Mapping[str, Tensor], said_N: Tensor, logits_KV: Tensor
    ) -> Tensor:
        """The counterfactual model's logits in place of others, [K, V]."""
        return say([(fact, query, said_N)], speaker, self.heads)[0][-len(logits_KV) :]

    def joined(self, other: Op) -> Op | None:
        """One operation of both's edits, if it is the same counterfactual model that knows them; of two with the same
        key the later one."""
        if not isinstance(other, CounterfactualOp) or not alike(self.assets, other.assets):
            return None
        if (self.heads, self.bar, self.route) != (other.heads, other.bar, other.route):
            return None
        own = outlived(*((keys.asked_NC, keys.seen_NC) for keys in (self.keys, other.keys)))
        return replace(self, keys=self.keys[own] + other.keys, facts=(*(self.facts[at] for at in own), *other.facts))

    def fields(self) -> dict[str, Any]:
        facts = [{"question": one.words_K.tolist(), "answer": one.answer_N.tolist()} for one in self.facts]
        return {"heads": self.heads, "bar": self.bar, "route": self.route, "facts": facts}

    def tensors(self) -> dict[str, Tensor]:
        return {"asked": self.keys.asked_NC, "seen": self.keys.seen_NC} | {
            f"assets/{name}": tensor for name, tensor in self.assets.items()
        }

    @classmethod
    def rebuilt(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], inner: Sequence[Op]) -> Self:
        facts = tuple(
            Fact(*(torch.tensor(one[name], dtype=torch.long) for name in ("question", "answer")))
            for one in fields["facts"]
        )
        keys = Keys(tensors["asked"], tensors["seen"])
        assets = under("assets/", tensors)
        return cls(assets, int(fields["heads"]), keys, facts, float(fields["bar"]), fields["route"])


def _mixture(lead: Tensor, told: Callable[[Tensor, Tensor], Tensor], said_N: Tensor, logits_KV: Tensor) -> Tensor:
    return mixture(lead, logits_KV.log_softmax(-1), told(said_N, logits_KV).log_softmax(-1))


def mixture(lead: Tensor, before: Tensor, told: Tensor) -> Tensor:
    """log((1 - s) p + s p') of log-probabilities, with s = sigmoid(lead)."""
    return torch.logaddexp(functional.logsigmoid(-lead) + before, functional.logsigmoid(lead) + told)
