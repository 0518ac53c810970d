"""Does a saved edit still do what it was made for? Asked of the model at hand, on the edit's own requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlmend.data.records import Example
from vlmend.edits.edit import Edit, EditRequest
from vlmend.evaluation.text import matches
from vlmend.models.vlm import VLM

__all__ = ["Recheck", "recheck"]


@dataclass(frozen=True, slots=True)
class Recheck:
    """One request, asked again.

    Attributes:
        request: what the edit was made for.
        before, after: the model's own answers without and with the edit; ``None`` where it could not be asked.
        problem: why it could not; ``None`` where it could.
    """

    request: EditRequest
    before: str | None
    after: str | None
    problem: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the answer with the edit is the target."""
        return self.after is not None and matches(self.after, [self.request.target])


def recheck(vlm: VLM, edit: Edit, *, max_new_tokens: int = 32) -> list[Recheck]:
    """Ask every request of an edit, without it and with it.

    A request with a picture that was never a file, or is no longer there, is reported and not asked.

    Raises:
        FingerprintError: the edit was made for other weights.
        EditError: it cannot be applied to this model.
    """
    with vlm.using(edit):
        pass  # refuses what cannot be applied, even where nothing can be asked
    problems = {request: _problem(request) for request in edit.requests}
    asked = [request for request in edit.requests if problems[request] is None]
    prepared = vlm.prepare([Example(one.question, tuple(map(Path, one.images)) or None) for one in asked])
    before = dict(zip(asked, vlm.generate(prepared, max_new_tokens=max_new_tokens), strict=True))
    after = dict(zip(asked, vlm.generate(prepared, edit, max_new_tokens=max_new_tokens), strict=True))
    return [Recheck(one, before.get(one), after.get(one), problems[one]) for one in edit.requests]


def _problem(request: EditRequest) -> str | None:
    if "" in request.images:
        return "its picture was never a file"
    missing = next((image for image in request.images if not Path(image).is_file()), None)
    return missing and f"its picture is missing: {missing}"
