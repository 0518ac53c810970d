"""What a model does at a row: its own answer, and what it holds likely where the known answer stands."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, log_softmax

from vlmend.edits.edit import Edit
from vlmend.evaluation.record import TopIds
from vlmend.models.prepared import Prepared, Row
from vlmend.models.vlm import VLM

__all__ = ["Baseline", "Observed", "observe"]

_TOP = 10
_ROOM = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What a model does at one row.

    Attributes:
        text: its own answer.
        top: at each of the known answer's positions the ids of the ten likeliest tokens.
        log_probs_NV: there, all tokens' log-probabilities; ``None`` where nobody asked for them.
    """

    text: str
    top: TopIds
    log_probs_NV: Tensor | None = None

    @property
    def likeliest(self) -> tuple[int, ...]:
        """The likeliest token at each of the answer's positions."""
        return tuple(ids[0] for ids in self.top)


def observe(
    vlm: VLM,
    prepared: Prepared,
    edit: Edit | None = None,
    *,
    max_new_tokens: int = 32,
    distributions: Collection[int] = (),
) -> list[Observed]:
    """What the model does at every row, with an edit in force or as it is.

    Args:
        vlm: the model.
        prepared: the rows.
        edit: in force for all of them.
        max_new_tokens: bound on the free answers.
        distributions: the rows whose log-probabilities are kept too.
    """
    with vlm.using(edit):
        forced = _forced(vlm, prepared, distributions)
        texts = vlm.generate(prepared, max_new_tokens=max_new_tokens)
    return [replace(one, text=text) for one, text in zip(forced, texts, strict=True)]


def _forced(vlm: VLM, prepared: Prepared, distributions: Collection[int]) -> list[Observed]:
    """The teacher-forced part of an observation."""
    seen: list[Observed] = []
    for index, row in enumerate(vlm.run(prepared).rows):
        logits_NV = row.logits_NV[: row.answer_length]
        top = logits_NV.topk(min(_TOP, logits_NV.shape[-1]), dim=-1).indices.tolist()
        log_probs = log_softmax(logits_NV, -1).cpu() if index in distributions else None
        seen.append(Observed("", tuple(tuple(ids) for ids in top), log_probs))
    return seen


@dataclass
class Baseline:
    """What one model does before an edit, by content of the row; given to several evaluations it is shared.

    Rows are observed together with the others of their group and known as part of it, so that an evaluation that was
    cut short and goes on ends with the same numbers to the last bit.

    Attributes:
        fingerprint: of the model.
        known: what it does.
        room: how many bytes of log-probabilities are kept; those beyond are computed anew when they are needed.
    """

    fingerprint: str
    known: dict[str, Observed] = field(default_factory=dict[str, Observed])
    room: int = _ROOM

    def of(
        self, vlm: VLM, prepared: Prepared, *, max_new_tokens: int, distributions: Collection[int] = ()
    ) -> list[Observed]:
        """What the model does at every row of a group: each distinct one once, and not at all where it is known."""
        keys = _keys(prepared.rows, f"{max_new_tokens} {vlm.active_edits}")
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        distinct = sorted(first.values())
        asked = {keys[row] for row in distributions}
        wide = [place for place, row in enumerate(distinct) if keys[row] in asked]
        group = prepared.take(distinct)
        if not first.keys() <= self.known.keys():
            observed = observe(vlm, group, max_new_tokens=max_new_tokens, distributions=wide)
            now = {keys[row]: one for row, one in zip(distinct, observed, strict=True)}
            self.known.update({key: self._kept(one) for key, one in now.items()})
        elif any(self.known[key].log_probs_NV is None for key in asked):
            again = _forced(vlm, group, wide)
            now = {
                keys[row]: replace(one, text=self.known[keys[row]].text)
                for row, one in zip(distinct, again, strict=True)
            }
        else:
            now = self.known
        return [now[key] for key in keys]

    def _kept(self, observed: Observed) -> Observed:
        size = 0 if observed.log_probs_NV is None else observed.log_probs_NV.nbytes
        if size > self.room:
            return replace(observed, log_probs_NV=None)
        self.room -= size
        return observed


def _keys(rows: Sequence[Row], state: str) -> list[str]:
    """For each row a hash of all that its outputs depend on but the base model, and of the rows beside it."""
    contents = [_content(row) for row in rows]
    group = hashlib.blake2b("".join([state, *contents]).encode(), digest_size=16).hexdigest()
    return [f"{group} {content}" for content in contents]


def _content(row: Row) -> str:
    digest = hashlib.blake2b(str(row.picture).encode(), digest_size=16)
    for tensor in (row.ids_T, row.target_N):
        digest.update(f" {len(tensor)} ".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
