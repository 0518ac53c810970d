"""Diagnose, edit and prove fixes to vision-language models.

Names are loaded when they are first used, so that ``import vlmend`` costs nothing: torch and transformers
come with the first model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmend.alignment.train import Alignment, align
    from vlmend.attribution.base import attribute
    from vlmend.attribution.result import Attribution
    from vlmend.attribution.target import Target
    from vlmend.data.formats import read
    from vlmend.data.formats.preferences import read_pairs
    from vlmend.data.records import EditCase, Example, PreferencePair, Probe
    from vlmend.editors.base import Editor, editor
    from vlmend.editors.ft import FT
    from vlmend.editors.lora import LoRA
    from vlmend.editors.t_patcher import TPatcher
    from vlmend.editors.vead import VEAD
    from vlmend.editors.vead_memory import VEADMemory
    from vlmend.editors.visual_delta import VisualDelta
    from vlmend.editors.visual_exemplar import VisualExemplar
    from vlmend.edits.edit import Edit
    from vlmend.edits.ops import WeightOp
    from vlmend.errors import VlmendError
    from vlmend.evaluation.editing import Proof, compare, evaluate
    from vlmend.models.loading import load, wrap
    from vlmend.models.vlm import VLM

__version__ = "0.1.0"

__all__ = [
    "FT",
    "VEAD",
    "VLM",
    "Alignment",
    "Attribution",
    "Edit",
    "EditCase",
    "Editor",
    "Example",
    "LoRA",
    "PreferencePair",
    "Probe",
    "Proof",
    "TPatcher",
    "Target",
    "VEADMemory",
    "VisualDelta",
    "VisualExemplar",
    "VlmendError",
    "WeightOp",
    "__version__",
    "align",
    "attribute",
    "compare",
    "editor",
    "evaluate",
    "load",
    "read",
    "read_pairs",
    "wrap",
]

_HOME = {
    "Alignment": "vlmend.alignment.train",
    "Attribution": "vlmend.attribution.result",
    "FT": "vlmend.editors.ft",
    "TPatcher": "vlmend.editors.t_patcher",
    "Target": "vlmend.attribution.target",
    "VEAD": "vlmend.editors.vead",
    "VEADMemory": "vlmend.editors.vead_memory",
    "VLM": "vlmend.models.vlm",
    "Edit": "vlmend.edits.edit",
    "EditCase": "vlmend.data.records",
    "Editor": "vlmend.editors.base",
    "Example": "vlmend.data.records",
    "LoRA": "vlmend.editors.lora",
    "PreferencePair": "vlmend.data.records",
    "Probe": "vlmend.data.records",
    "Proof": "vlmend.evaluation.editing",
    "VisualDelta": "vlmend.editors.visual_delta",
    "VisualExemplar": "vlmend.editors.visual_exemplar",
    "VlmendError": "vlmend.errors",
    "WeightOp": "vlmend.edits.ops",
    "align": "vlmend.alignment.train",
    "compare": "vlmend.evaluation.editing",
    "attribute": "vlmend.attribution.base",
    "editor": "vlmend.editors.base",
    "evaluate": "vlmend.evaluation.editing",
    "load": "vlmend.models.loading",
    "read": "vlmend.data.formats",
    "read_pairs": "vlmend.data.formats.preferences",
    "wrap": "vlmend.models.loading",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'vlmend' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
