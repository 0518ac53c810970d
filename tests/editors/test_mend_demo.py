"""The weights of `mend` that come with the package: one for each bundled model, and they mend what they did not see."""

from __future__ import annotations

import pytest

import vlmend
from vlmend.editors.shelf import SHIPPED, Trained
from vlmend.models.bundled import BUNDLED
from vlmend.world.build import cases_of


@pytest.mark.parametrize("model", sorted(set(BUNDLED.values())))
def test_it_mends_errors_of_its_model(model: str) -> None:
    vlm = vlmend.load(model)
    trained = Trained.load(SHIPPED / f"mend-{model}")
    assert (trained.editor, trained.base) == ("mend", vlm.fingerprint)
    cases = cases_of(vlm, "renamed", "eval", 8, seed=5)
    proof = vlmend.evaluate(vlm, vlmend.editor("mend"), cases)
    assert proof.summary["reliability"].free_exact.before.mean == 0.0
    assert proof.summary["reliability"].free_exact.after.mean >= 0.75
    assert proof.summary["text_locality"].free_exact.after.mean >= 0.75
