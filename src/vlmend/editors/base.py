"""What an editor is, and the registry of them. A new editor is one file here and one line in `EDITORS`."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from vlmend.data.records import EditCase
from vlmend.editors.settings import check_names, check_settings
from vlmend.edits.edit import Edit, EditRequest
from vlmend.edits.ops import Op
from vlmend.errors import EditError, UnknownNameError
from vlmend.models.vlm import VLM

__all__ = [
    "CONTROLS",
    "EDITORS",
    "Editor",
    "Labelled",
    "check_cases",
    "edit_of",
    "editor",
    "editor_class",
    "settings_of",
]

EDITORS = {
    "alphaedit": "vlmend.editors.alphaedit:AlphaEdit",
    "ft": "vlmend.editors.ft:FT",
    "ike": "vlmend.editors.ike:IKE",
    "ke": "vlmend.editors.ke:KE",
    "liveedit": "vlmend.editors.liveedit:LiveEdit",
    "lora": "vlmend.editors.lora:LoRA",
    "lte": "vlmend.editors.lte:LTE",
    "memit": "vlmend.editors.memit:MEMIT",
    "mend": "vlmend.editors.mend:MEND",
    "serac": "vlmend.editors.serac:SERAC",
    "t-patcher": "vlmend.editors.t_patcher:TPatcher",
    "ultraedit": "vlmend.editors.ultraedit:UltraEdit",
    "vead": "vlmend.editors.vead:VEAD",
    "vead-memory": "vlmend.editors.vead_memory:VEADMemory",
    "visual-delta": "vlmend.editors.visual_delta:VisualDelta",
    "visual-exemplar": "vlmend.editors.visual_exemplar:VisualExemplar",
}
"""Name -> where its class is; loaded when it is asked for."""

CONTROLS = {
    "null": "vlmend.evaluation.controls:Null",
    "random": "vlmend.evaluation.controls:Random",
    "parrot": "vlmend.evaluation.controls:Parrot",
    "image-blind": "vlmend.evaluation.controls:ImageBlind",
    "oracle": "vlmend.evaluation.controls:Oracle",
}
"""Editors that mend nothing in earnest: what a table of scores must rank as it should."""

_ALL = EDITORS | CONTROLS


@runtime_checkable
class Editor(Protocol):
    """Makes edits. A method's hyper-parameters are the fields of its frozen dataclass."""

    name: ClassVar[str]

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """One edit that mends all the cases' requests; the model is left bit for bit as it was.

        Raises:
            EditError: there is nothing to edit, or a request has no target.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Labelled:
    """An editor under another name, so that it can be measured beside itself with other settings.

    Attributes:
        editor: the editor.
        name: what it is called.
    """

    editor: Editor
    name: str  # pyright: ignore[reportIncompatibleVariableOverride]

    def fit(self, vlm: VLM, cases: Sequence[EditCase]) -> Edit:
        """The editor's edit."""
        return self.editor.fit(vlm, cases)


def editor_class(name: str) -> type[Any]:
    """The class of a registered editor.

    Raises:
        UnknownNameError: nothing is registered under that name.
    """
    if name not in _ALL:
        raise UnknownNameError("editor", name, _ALL)
    module, attribute = _ALL[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def editor(name: str, **settings: Any) -> Editor:
    """A registered editor with the given hyper-parameters; the others keep their defaults.

    Raises:
        UnknownNameError: no editor of that name, or it has no such hyper-parameter.
        EditError: a hyper-parameter is a number that it cannot be.
    """
    kind = editor_class(name)
    check_names(kind, settings, f"editor '{name}'")
    check_settings(kind, settings, f"editor '{name}'")
    return kind(**settings)


def settings_of(editor: Any) -> dict[str, Any]:
    """An editor's hyper-parameters."""
    own: Any = editor.editor if isinstance(editor, Labelled) else editor
    return dataclasses.asdict(own)


def check_cases(cases: Sequence[EditCase]) -> None:
    """Refuse what cannot be edited.

    Raises:
        EditError: there are no cases, they are no list, or a request has no target.
    """
    given: Any = cases  # in Python anything may come
    if not isinstance(given, Sequence):
        raise EditError(f"a list of cases was expected, not {type(given).__name__}: one case is given as [case]")
    if not cases:
        raise EditError("there are no cases to edit")
    for case in cases:
        if not (case.request.answer or "").strip():
            raise EditError(f"case '{case.id}' has no target: its answer is empty")


def edit_of(
    editor: Editor, vlm: VLM, cases: Sequence[EditCase], ops: Sequence[Op], chosen: Mapping[str, Any] | None = None
) -> Edit:
    """The edit that an editor made for these cases on this model; ``chosen``: what it chose itself, and why."""
    return Edit(
        base=vlm.fingerprint,
        ops=tuple(ops),
        requests=tuple(_request(case) for case in cases),
        method=editor.name,
        settings=_jsonable(settings_of(editor)),
        model=vlm.name,
        fitted_on=vlm.active_edits,
        chosen=dict(chosen or {}),
    )


def _request(case: EditCase) -> EditRequest:
    asked = case.request
    files = tuple(str(picture) if isinstance(picture, Path) else "" for picture in asked.pictures)
    return EditRequest(case.id, asked.question, asked.answer or "", case.rejected, files)


def _jsonable(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
