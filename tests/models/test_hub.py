"""Why a model cannot be had is said in few whole words."""

from __future__ import annotations

import logging

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from vlmend.errors import ModelError
from vlmend.models.hub import check_place, reason
from vlmend.models.loading import quiet


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no\n  weights"), "no weights"),
        (ValueError(), "ValueError"),
        (ValueError("The file is cut. " + "See the manual of it " * 20), "The file is cut."),
        (ValueError("word " * 60), " ".join(["word"] * 32) + "…"),
        (
            caused(OSError("Check your internet connection"), LocalEntryNotFoundError("")),
            "it is not in the local cache, and the hub is not reached",
        ),
    ],
)
def test_a_reason_ends_where_a_sentence_does(error, said):
    assert reason(error) == said


@pytest.mark.parametrize(("name", "hub", "fits"), [
    ("owner/name", True, True), ("owner/name", False, False), ("name", True, False), ("./name", True, False),
    ("a/b/c", True, False), (".", False, True),
])  # fmt: skip
def test_a_place_is_a_folder_or_a_hub_id(name, hub, fits):
    if fits:
        check_place(name, ModelError, hub=hub)
        return
    with pytest.raises(ModelError, match="is no folder, and a hub id" if hub else "is no folder$"):
        check_place(name, ModelError, hub=hub)


def test_the_hub_is_not_heard(caplog):
    logger = logging.getLogger("huggingface_hub.utils")
    with caplog.at_level(logging.WARNING), quiet():
        logger.warning("Retrying")
    assert not caplog.records
