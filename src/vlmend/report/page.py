"""What every page is made with: templates and styles from the folder `templates`, and nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape

__all__ = ["asset", "page"]


def page(template: str, **names: Any) -> str:
    """A template filled in; whatever is put there is text, never markup, and a name that is missing is an error."""
    return _environment().get_template(template).render(**names)


def asset(name: str) -> str:
    """The text of a template or style."""
    return resources.files("vlmend.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(asset),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
