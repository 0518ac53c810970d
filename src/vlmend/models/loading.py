"""`load`: a model by the name of a bundled one, a folder, or a hub id; `wrap`: one that is in memory."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging as transformers_logging

from vlmend.errors import ModelError, ModelNotFoundError
from vlmend.models.backends import do_without_broken_torchvision
from vlmend.models.bundled import BUNDLED, bundled_folder
from vlmend.models.hub import is_hub_id, reason
from vlmend.models.parts import find_parts
from vlmend.models.processors import load_processor
from vlmend.models.prompts import Prompter
from vlmend.models.traits import probe
from vlmend.models.verify import verify
from vlmend.models.vlm import VLM

__all__ = ["load", "quiet", "wrap"]

_CHATTY = ("huggingface_hub", "diffusers")


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    trust_remote_code: bool = False,
) -> VLM:
    """Load a vision-language model with its processor, find its parts and verify them.

    Args:
        name: a bundled model ("demo"), a folder, or a hub id.
        device: where to put it.
        dtype: of its weights in memory; "auto" for that of its files.
        trust_remote_code: run code that comes with a checkpoint.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelError: it is no image-text-to-text model, or its files are incomplete or damaged.
        PartsError: its parts could not be found or verified.
    """
    do_without_broken_torchvision()
    name = str(name)
    source = _source(name)
    config = _config(name, source, trust_remote_code)
    with quiet():
        try:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                source, config=config, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
            )
            processor = load_processor(source, config, trust_remote_code=trust_remote_code)
        except Exception as error:
            raise ModelError(f"'{name}' cannot be loaded: {reason(error)}") from error
    model, info = loaded
    if info["missing_keys"]:
        raise ModelError(f"'{name}' lacks weights: {', '.join(sorted(info['missing_keys'])[:5])}")
    return wrap(model.to(device), processor, name=name)


def wrap(model: Any, processor: Any, *, name: str = "model") -> VLM:
    """A transformers model that is in memory already, with its processor.

    Args:
        model: an image-text-to-text model, where it is; it is put into evaluation mode and its weights are frozen.
        processor: the one that goes with it, with a tokenizer inside.
        name: what it is called in results.

    Raises:
        PartsError: its parts could not be found or verified.
    """
    do_without_broken_torchvision()
    model.requires_grad_(False).eval()
    parts = find_parts(model)
    with quiet():
        traits = probe(processor, parts.image_token)
    vlm = VLM(name, model, processor, parts, Prompter(processor, traits))
    verify(vlm)
    return vlm


def _source(name: str) -> str:
    """The folder or hub id behind a name."""
    if name in BUNDLED:
        folder = bundled_folder(name)
        if folder is None:
            raise ModelNotFoundError(f"the bundled model '{name}' is not installed with this copy of vlmend")
        return str(folder)
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelNotFoundError(f"the folder {name} holds no model: it has no config.json")
        return name
    if Path(name).exists() or not is_hub_id(name):
        known = ", ".join(BUNDLED)
        raise ModelNotFoundError(f"no model '{name}': it is no bundled model ({known}), no folder and no hub id")
    return name


def _config(name: str, source: str, trust_remote_code: bool) -> Any:
    try:
        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:
        kind = ModelError if Path(source).is_dir() else ModelNotFoundError
        raise kind(f"'{name}' cannot be loaded: {reason(error)}") from error
    if type(config) not in AutoModelForImageTextToText._model_mapping and not trust_remote_code:  # pyright: ignore
        raise ModelError(f"'{name}' is a {config.model_type} model, which does not answer questions about pictures")
    return config


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Without transformers' progress bars and advice, and without what is said of the hub."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    others = {logger: logger.level for logger in map(logging.getLogger, _CHATTY)}
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        for logger, before in others.items():
            logger.setLevel(before)
        if shown:
            transformers_logging.enable_progress_bar()
