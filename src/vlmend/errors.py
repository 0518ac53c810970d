"""Every exception that vlmend raises on purpose.

VlmendError
├── DataError               a file of cases is wrong: names the file, the record and the field
│   └── MissingImageError   pictures that records name are not there: lists them
├── ModelError              a model cannot be loaded or used as a vision-language model
│   ├── ModelNotFoundError  no bundled model, folder or hub id of that name
│   ├── PartsError          its parts could not be found or do not behave as they should
│   └── PromptError         an example cannot be turned into this model's input
├── EditError               an edit cannot be made, read or applied
│   ├── FingerprintError    it was made for other weights: names both fingerprints
│   └── EditFormatError     its folder is incomplete or damaged
├── AttributionError        an answer cannot be attributed: no picture, no token, states that are not finite
├── UnknownNameError        no editor (or other registered thing) of that name: lists what there is
├── LaunchError             the processes of a launch are not those that were asked for
├── EndpointError           a served language model cannot be reached, or does not answer as it should
├── RunError                a run folder belongs to other settings or is damaged
└── WriteError              a file cannot be written: names it and says why

The message of each is one clear line for the user; a command line shows it and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = [
    "AttributionError",
    "DataError",
    "EditError",
    "EditFormatError",
    "EndpointError",
    "FingerprintError",
    "LaunchError",
    "MissingImageError",
    "ModelError",
    "ModelNotFoundError",
    "PartsError",
    "PromptError",
    "RunError",
    "UnknownNameError",
    "VlmendError",
    "WriteError",
]

_SHOWN = 5


class VlmendError(Exception):
    """Root of all errors of this package."""


class DataError(VlmendError):
    """A file of cases is wrong.

    Args:
        problem: what is wrong, without place.
        path: the file.
        record: index of the record, from 0; ``None`` if the whole file is meant.
        field: name of the field; ``None`` if the whole record is meant.
    """

    def __init__(self, problem: str, *, path: Path | str, record: int | None = None, field: str | None = None) -> None:
        place = str(path)
        if record is not None:
            place += f", record {record}"
        if field is not None:
            place += f", field '{field}'"
        super().__init__(f"{place}: {problem}")
        self.path = Path(path)
        self.record = record
        self.field = field


class MissingImageError(DataError):
    """Records name pictures that are not there; ``missing`` lists (record, path) of all of them."""

    def __init__(self, missing: Sequence[tuple[int, Path]], *, path: Path | str) -> None:
        shown = ", ".join(f"record {record}: {image}" for record, image in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        count = len({image for _, image in missing})
        noun = "image is" if count == 1 else "images are"
        out = "--skip-missing (in Python skip_missing=True) leaves such records out"
        super().__init__(f"{count} {noun} missing ({shown}{more}); {out}", path=path)
        self.missing = tuple(missing)


class ModelError(VlmendError):
    """A model cannot be loaded or used as a vision-language model."""


class ModelNotFoundError(ModelError):
    """There is no bundled model, folder or hub id of that name."""


class PartsError(ModelError):
    """A model's parts could not be found, or do not behave as they should."""


class PromptError(ModelError):
    """An example cannot be turned into this model's input."""


class EditError(VlmendError):
    """An edit cannot be made, read or applied."""


class FingerprintError(EditError):
    """An edit was made for other weights than those it is applied to."""

    def __init__(self, *, made_for: str, applied_to: str) -> None:
        super().__init__(f"this edit was made for the model with fingerprint {made_for}, not for {applied_to}")
        self.made_for = made_for
        self.applied_to = applied_to


class EditFormatError(EditError):
    """The folder of an edit is incomplete or damaged."""


class AttributionError(VlmendError):
    """An answer cannot be attributed to what it came from."""


class UnknownNameError(VlmendError):
    """Nothing is registered under that name; the message lists what is."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        there = ", ".join(sorted(known))
        super().__init__(f"no {kind} named '{name}'; there {f'are: {there}' if there else 'are none'}")
        self.name = name


class LaunchError(VlmendError):
    """A launcher started other processes than it was asked for."""


class EndpointError(VlmendError):
    """A served language model cannot be reached, or does not answer as it should.

    Args:
        problem: what happened, with the address.
        this_one: it is this one request that it does not answer, and the next may be answered.
        replied: it did reply, but no text.
    """

    def __init__(self, problem: str, *, this_one: bool = False, replied: bool = False) -> None:
        super().__init__(problem)
        self.this_one = this_one
        self.replied = replied


class RunError(VlmendError):
    """A run folder belongs to other settings, or is damaged."""


class WriteError(VlmendError):
    """A file cannot be written; nothing half-written is left.

    Args:
        path: the file.
        error: what the system says.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} cannot be written: {error.strerror or error}")
        self.path = path
