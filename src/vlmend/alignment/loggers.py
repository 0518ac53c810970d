"""Where a training is logged to besides its own run folder: the loggers of transformers, looked at before any work."""

from __future__ import annotations

from collections.abc import Mapping

from transformers.integrations import integration_utils

from vlmend.errors import UnknownNameError, VlmendError

__all__ = ["check_logger"]

_NO_NAMES = ("none", "all")  # transformers takes these too: no logger, and every one whose package is installed

_PACKAGES: Mapping[str, str] = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "flyte": "flytekit"}
"""What a logger's package is called, where that is not the logger's own name."""


def check_logger(name: str) -> None:
    """Make sure that transformers can log to it.

    Raises:
        UnknownNameError: transformers knows no such logger.
        VlmendError: its package is not installed, or not set up.
    """
    if name in _NO_NAMES:
        return
    known = integration_utils.INTEGRATION_TO_CALLBACK
    if name not in known:
        raise UnknownNameError("logger (--report-to)", name, (*_NO_NAMES, *known))
    try:
        known[name]()
    except Exception as error:  # each says by an exception of its own that it lacks something
        package = _PACKAGES.get(name, name)
        raise VlmendError(f"--report-to {name} needs its package: pip install {package} ({error})") from error
