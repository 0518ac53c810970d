"""What the reference says of every answer, asked once before the training: it need not be run again at every step.

Kept in files of some pairs each, as they come, under the fingerprint of the weights and a hash of prompt, pictures and
answer: what was asked of other weights, or of another answer, is not found there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmend.alignment.collate import Batch, Collator, token_log_probs
from vlmend.data.records import PreferencePair
from vlmend.errors import RunError
from vlmend.models.prepared import Row
from vlmend.models.vlm import VLM
from vlmend.ranks import ALONE, Ranks
from vlmend.runs import whole

__all__ = ["References", "asked_of"]

_AT_ONCE = 64  # pairs in a file


class References:
    """The reference's log-probabilities of answers, by what was asked."""

    def __init__(self, known: dict[str, Tensor]) -> None:
        self._known = known

    def __len__(self) -> int:
        return len(self._known)

    def of(self, batch: Batch, device: torch.device) -> list[Tensor]:
        """Of every row of a batch, [N] each.

        Raises:
            RunError: a row was not asked.
        """
        keys = [_key(row) for row in batch.prepared.rows]
        missing = [at for at, key in enumerate(keys) if key not in self._known]
        if missing:
            pair = batch.pairs[missing[0] % len(batch)]
            raise RunError(f"the reference was not asked about pair '{pair.id}'")
        return [self._known[key].to(device) for key in keys]


def asked_of(
    vlm: VLM,
    collator: Collator,
    pairs: Sequence[PreferencePair],
    folder: Path,
    *,
    ranks: Ranks = ALONE,
    batch: int = 8,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> References:
    """Ask the model as it is now about all answers; files that are there already are not asked again.

    Args:
        vlm: the reference.
        collator: makes the batches of the training too.
        pairs: all that will be trained on.
        folder: where the files are.
        ranks: the processes that share the work.
        batch: how many pairs are run at once.
        progress: called with (asked, all) pairs of this process's share.

    Raises:
        RunError: a file holds something else.
    """
    state = hashlib.blake2b("|".join((vlm.fingerprint, *vlm.active_edits)).encode(), digest_size=8).hexdigest()
    chunks = [pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE)]
    paths = [folder / f"reference-{state}-{_digest([one.id for one in some])}.safetensors" for some in chunks]
    mine, done = ranks.share(list(zip(chunks, paths, strict=True))), 0
    for some, path in mine:
        if not path.exists():
            found: dict[str, Tensor] = {}
            for start in range(0, len(some), batch):
                part = collator.batch(some[start : start + batch])
                output = vlm.run(part.prepared)
                for row, log_probs_N in zip(part.prepared.rows, token_log_probs(output), strict=True):
                    found[_key(row)] = log_probs_N.cpu().contiguous()
            with whole(path) as place:
                save_file(found, place)
        done += len(some)
        progress(done, sum(len(one) for one, _ in mine))
    ranks.wait()
    known: dict[str, Tensor] = {}
    for path in paths:
        try:
            known |= load_file(path)
        except Exception as error:
            raise RunError(f"{path} cannot be read ({error}): remove it, and it is made anew") from error
    return References(known)


def _key(row: Row) -> str:
    return _digest([row.prompt, row.content, *map(str, row.target_N.tolist())])


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
