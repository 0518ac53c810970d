"""A folder of pairs: shards as TRL's columns, what was dropped, and a manifest of how all of it was made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vlmend.alignment.pairs import Made, reasons
from vlmend.data.formats import trl
from vlmend.data.formats.notes import values_of
from vlmend.data.formats.pairing import as_pictures
from vlmend.data.formats.saving import write_records
from vlmend.data.records import PreferencePair
from vlmend.errors import UnknownNameError
from vlmend.models.pictures import content_hash, open_picture, save_picture
from vlmend.runs import write_json

__all__ = ["DROPPED", "FORMATS", "MANIFEST", "digest", "write"]

FORMATS: tuple[str, ...] = ("jsonl", "json", "parquet", "arrow")
MANIFEST, DROPPED = "manifest.json", "dropped.jsonl"

_CHUNK = 1 << 20


def digest(path: Path) -> str:
    """A file's SHA-256."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def write(
    folder: Path,
    pairs: Sequence[PreferencePair],
    dropped: Sequence[Made],
    about: Mapping[str, Any],
    *,
    forms: Sequence[str] = ("jsonl",),
    most: int = 10_000,
) -> dict[str, Any]:
    """Write ``pairs-*``, ``dropped.jsonl`` and ``manifest.json``; the same pairs give the same bytes.

    Args:
        folder: where to; shards of an earlier writing there are replaced.
        pairs: in their order.
        dropped: what became no pair.
        about: what else the manifest says.
        forms: of `FORMATS`.
        most: pairs in a shard.

    Returns:
        what the manifest holds.

    Raises:
        UnknownNameError: there is no such format.
        DataError: a picture cannot be read for a column, or the extra that writes it is not installed.
        WriteError: a file cannot be written.
    """
    if unknown := [form for form in forms if form not in FORMATS]:
        raise UnknownNameError("format of pairs", unknown[0], FORMATS)
    files: dict[str, dict[str, Any]] = {}
    if set(forms) & {"jsonl", "json"}:
        pairs = [_on_disk(pair, folder / "images") for pair in pairs]
    for form in forms:
        for number, start in enumerate(range(0, len(pairs), most)):
            path = folder / f"pairs-{number:05d}.{form}"
            some = pairs[start : start + most]
            trl.write(some, path)
            files[path.name] = {"pairs": len(some), "sha256": digest(path)}
    for path in folder.glob("pairs-*"):
        if path.name not in files:
            path.unlink()
    write_records(folder / DROPPED, [made.record() for made in dropped], ())
    files[DROPPED] = {"records": len(dropped), "sha256": digest(folder / DROPPED)}
    manifest = {**about, "pairs": len(pairs), "by": _by_way(pairs, dropped), "files": files}
    write_json(folder / MANIFEST, manifest)
    return manifest


def _on_disk(pair: PreferencePair, folder: Path) -> PreferencePair:
    """The pair with pictures that are in memory as files, named by what they show: a text can but name them."""
    given: list[Any] = list(pair.pictures)
    if all(isinstance(one, Path) for one in given):
        return pair
    return replace(pair, image=as_pictures([one if isinstance(one, Path) else _saved(one, folder) for one in given]))


def _saved(picture: Image.Image, folder: Path) -> Path:
    picture = open_picture(picture)
    path = folder / f"{content_hash(picture)}.png"
    return path if path.exists() else save_picture(picture, path)


def _by_way(pairs: Sequence[PreferencePair], dropped: Sequence[Made]) -> dict[str, Any]:
    """What there is of each way, and why the rest was dropped."""
    names = [*(pair.id.rpartition("/")[2] for pair in pairs), *(made.way for made in dropped)]
    return {
        way: _counts(
            [pair for pair in pairs if pair.id.rpartition("/")[2] == way], [one for one in dropped if one.way == way]
        )
        for way in dict.fromkeys(names)
    }


def _counts(pairs: Sequence[PreferencePair], dropped: Sequence[Made]) -> dict[str, Any]:
    notes = [values_of(pair.notes) for pair in pairs]
    kinds = Counter(kind for one in notes for kind in one.get("differ", ()))
    likely = [one["log_probs"] for one in notes]
    words = [(len(pair.chosen.split()), len(pair.rejected.split())) for pair in pairs]
    return {
        "pairs": len(pairs),
        "dropped": reasons(dropped),
        "differ": dict(kinds.most_common()),
        "words": _means(words),
        "log_probs": _means(likely),
    }


def _means(values: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means of the good and the worse answers."""
    return {
        name: round(sum(one[place] for one in values) / len(values), 4)
        for place, name in enumerate(("chosen", "rejected"))
        if values
    }
