"""Arguments that several commands share, and how each becomes the thing it names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmend.cli.console import progress, working
from vlmend.errors import DataError, EditError, PartsError, RunError, VlmendError
from vlmend.ranks import Ranks
from vlmend.words import counted

if TYPE_CHECKING:
    from vlmend.data.records import EditCase
    from vlmend.editors.base import Editor
    from vlmend.editors.training import Trainable
    from vlmend.models.parts import Parts
    from vlmend.models.vlm import VLM

__all__ = [
    "CasesArgument",
    "DeviceOption",
    "EditorSettingOption",
    "EditorsOption",
    "LimitOption",
    "MaxNewTokensOption",
    "ModelArgument",
    "SkipMissingOption",
    "by_module",
    "check_askable",
    "check_places",
    "folder_option",
    "load_model",
    "make_editor",
    "make_editors",
    "make_training",
    "placed",
    "read_cases",
    "read_settings",
    "typed_device",
    "usable_cases",
    "with_settings",
]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="'demo', a folder with a saved model, or a Hugging Face id.")
]
CasesArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CASES",
        help="A file of edit cases in any format that is read: MMEdit's E-VQA or E-IC, VLKEB's, or one's own JSON "
        "lines, CSV or JSON.",
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Use only the first so many cases.")]
SkipMissingOption = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out what names a picture that is missing or not readable.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where the model runs: cpu, cuda (a card for each of several processes), cuda:1.",
    ),
]
EditorsOption = Annotated[str, typer.Option(metavar="A,B", help="Which editors, by name: `vlmend editors` lists them.")]
EditorSettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="EDITOR.NAME=VALUE",
        help="A setting of one editor, as `vlmend editors EDITOR` lists them; may be repeated.",
    ),
]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]


_LANGUAGE = "language"


def folder_option(what: str) -> Any:
    """An option that names a folder to write to; one that is a file is refused before any work."""
    return typer.Option(help=what, callback=_no_file)


def _no_file(option: typer.CallbackParam, folder: Path | None) -> Path | None:
    from vlmend.runs import check_folder

    if folder is not None:
        try:
            check_folder(folder)
        except RunError as error:
            raise RunError(f"{option.opts[0]} {error}") from error
    return folder


def load_model(name: str, device: str = "cpu", **how: Any) -> VLM:
    """The model of that name where `placed` puts it, loaded as ``how`` says, with a spinner while it loads."""
    place = placed(device)
    with working(f"Loading {name}"):
        import vlmend
        from vlmend.models.heap import keep_freed_memory

        keep_freed_memory()
        return vlmend.load(name, device=place, **how)


def placed(device: str) -> str:
    """Where this process's model is: of several on CUDA each has a card of its own.

    Raises:
        VlmendError: there is no such device.
    """
    if device == "cpu":
        return device
    import torch

    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()):
        raise VlmendError(f"--device takes cpu or cuda, not '{device}'")
    if not torch.cuda.is_available():
        raise VlmendError(f"--device {device}: there is no CUDA device")
    index = int(number or os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        raise VlmendError(f"--device {device}: there is no CUDA device {index}")
    return f"cuda:{index}"


def typed_device(device: str) -> list[str]:
    """The words by which a command is given again that was given a device."""
    return [] if device == "cpu" else ["--device", device]


def check_askable(vlm: VLM, cases: Sequence[EditCase]) -> None:
    """Find a request that the model cannot be asked before anything is made of the cases."""
    with progress("Checking the requests", len(cases)) as advance:
        for case in cases:
            vlm.prepare([case.request])
            advance()


def read_cases(path: Path, limit: int | None = None, *, skip_missing: bool = False) -> list[EditCase]:
    """The cases in a file, at most `limit` of them, all of which can be edited; none at all is a mistake.

    With ``skip_missing`` how many were left out is said on stderr, by the first of several processes.
    """
    cases, without = usable_cases(path, limit, skip_missing=skip_missing)
    if without and Ranks.launched().first:
        typer.echo(f"{path}: {counted(len(without), 'case')} left out for a picture", err=True)
    return cases


def usable_cases(path: Path, limit: int | None, *, skip_missing: bool) -> tuple[list[EditCase], list[str]]:
    """As `read_cases`; and the ids of those that were left out for their pictures, before there were enough.

    Every picture is opened: what cannot be read is found before the work begins.
    """
    from vlmend.data.formats import read
    from vlmend.data.pictures import check_pictures, shown
    from vlmend.editors.base import check_cases

    without: list[str] = []
    if skip_missing:
        cases, without = shown(read(path, check_images=False), limit)
    else:
        cases = read(path)[:limit]
    if not cases:
        raise DataError("no case in it can be used", path=path)
    try:
        check_cases(cases)
    except EditError as error:
        raise DataError(str(error), path=path) from error
    if not skip_missing:
        check_pictures(cases, path)
    return cases, without


def read_settings(given: Iterable[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs; values are read as JSON where they are JSON, else as text."""
    settings: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise VlmendError(f"--set takes NAME=VALUE, not '{pair}'")
        try:
            settings[name] = json.loads(text)
        except ValueError:
            settings[name] = text
    return settings


def make_editor(name: str, settings: Mapping[str, Any], owner: str = "") -> Editor:
    """A registered editor with settings that were typed in, as `with_settings`; unknown names are a mistake."""
    from vlmend.editors.base import editor_class
    from vlmend.editors.settings import check_names

    kind, whose = editor_class(name), f"editor '{name}'"
    check_names(kind, settings, whose)
    return with_settings(settings, kind, whose, owner=owner)


def make_editors(names: str, settings: Sequence[str]) -> list[Editor]:
    """The editors of a comma-separated list, each with its own settings, each once."""
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted:
        raise VlmendError("--editors names no editor")
    split: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for key, value in read_settings(settings).items():
        editor, _, name = key.partition(".")
        if editor not in split or not name:
            advice = "" if name else f"; write {_typed(f'{wanted[0]}.{key}', value)}"
            raise VlmendError(f"--set takes EDITOR.NAME=VALUE with an editor of this bench, not '{key}'{advice}")
        split[editor][name] = value
    return [make_editor(name, split[name], f"{name}.") for name in wanted]


def by_module(editors: Sequence[Any], modules: str) -> list[Any]:
    """The editors, each that can edit other modules ("connector", "vision", a role or a path) once for each place that
    is asked for; "language" is where it edits of itself."""
    from vlmend.editors.base import Labelled
    from vlmend.models.parts import ROLES

    places = _places(modules)
    found: list[Any] = []
    for editor in editors:
        if not (places and any(field.name == "modules" for field in fields(editor))):
            found.append(editor)
            continue
        if _LANGUAGE in places and (elsewhere := [one for one in editor.modules if one not in ROLES]):
            raise VlmendError(f"--modules language: '{editor.name}.modules' is set to '{elsewhere[0]}'; leave one out")
        for place in places:
            there: Any = editor if place == _LANGUAGE else replace(editor, modules=(place,))
            found.append(Labelled(there, f"{editor.name} {place}"))
    return found


def check_places(parts: Parts, modules: str) -> None:
    """Refuse a place that a model does not have."""
    try:
        parts.modules("all", [place for place in _places(modules) if place != _LANGUAGE])
    except PartsError as error:
        raise VlmendError(f"--modules takes {_LANGUAGE}, or other modules by role or path: {error}") from error


def _places(modules: str) -> list[str]:
    return list(dict.fromkeys(place.strip() for place in modules.split(",") if place.strip()))


def make_training(name: str, settings: Mapping[str, Any]) -> Trainable:
    """The training of an editor with settings that were typed in; unknown names and wrong types are a mistake."""
    from vlmend.editors.settings import check_names
    from vlmend.editors.training import trainable_class

    kind, whose = trainable_class(name), f"the training of '{name}'"
    check_names(kind, settings, whose)
    return with_settings(settings, kind, whose)


def with_settings(
    settings: Mapping[str, Any],
    kind: type[Any],
    whose: str,
    *,
    owner: str = "",
    beside: Mapping[str, Any] | None = None,
) -> Any:
    """A dataclass with fields that were typed in.

    Args:
        settings: what was typed after ``--set``.
        kind: the dataclass.
        whose: the fields are, in words.
        owner: what stood before their names.
        beside: fields that were given otherwise.

    Raises:
        VlmendError: a value is of the wrong type, or one that the field cannot have; says how it was typed.
    """
    from pydantic import TypeAdapter, ValidationError

    from vlmend.editors.settings import problem_of

    try:
        return TypeAdapter[Any](kind).validate_python({**settings, **(beside or {})})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name not in settings:
            raise VlmendError(f"setting '{name}' of {whose}: {first['msg']}") from error
        value = settings[name]
        problem = problem_of(error, value)
        if first["type"] == "tuple_type":
            listed = json.dumps(value.split(",") if isinstance(value, str) else [value])
            problem = f"a list was expected, not {value!r}; it is written as JSON: '{owner}{name}={listed}'"
        raise VlmendError(f"--set {_typed(owner + name, value)}: setting '{name}' of {whose}: {problem}") from error


def _typed(name: str, value: Any) -> str:
    """A setting as it is typed."""
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"
