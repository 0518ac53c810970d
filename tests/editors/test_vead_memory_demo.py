"""The keys that come with the package: a dozen edits at once, of errors that neither they nor their checks have met."""

from __future__ import annotations

import vlmend
from vlmend.cli.demo import demo_cases
from vlmend.editors.shelf import SHIPPED, Trained


def test_a_dozen_edits_at_once_act_where_they_should() -> None:
    vlm, cases = vlmend.load("demo"), demo_cases(12)
    trained = Trained.load(SHIPPED / "vead-memory-demo-llava")
    assert trained.base == vlm.fingerprint
    assert sum(tensor.numel() for tensor in trained.tensors.values()) * 4 < 2**22
    adapter = Trained.load(SHIPPED / "vead-demo-llava")
    assert trained.facts["adapter"] == adapter.facts
    assert all(trained.tensors[f"adapter.{name}"].equal(tensor) for name, tensor in adapter.tensors.items())
    edit = vlmend.editor("vead-memory").fit(vlm, cases)
    proof = vlmend.evaluate(vlm, edit, cases)
    after = {kind: one.free_exact.after.mean for kind, one in proof.summary.items()}
    assert after["reliability"] == 1.0
    assert min(after["text_generality"], after["image_generality"]) >= 0.75
    assert after["text_locality"] == after["no_image_locality"] == 1.0
    assert min(after["image_locality"], after["same_image_locality"], after["same_question_locality"]) >= 0.75
