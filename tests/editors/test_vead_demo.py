"""The adapter that comes with the package, on errors of the shipped model that neither it nor its checks have seen."""

from __future__ import annotations

import vlmend
from vlmend.cli.demo import demo_cases
from vlmend.editors.shelf import SHIPPED, Trained


def test_it_mends_what_it_was_not_trained_on_and_leaves_the_rest() -> None:
    vlm, cases = vlmend.load("demo"), demo_cases(12)
    trained = Trained.load(SHIPPED / "vead-demo-llava")
    assert trained.base == vlm.fingerprint
    assert sum(tensor.numel() for tensor in trained.tensors.values()) * 4 < 2**21
    proof = vlmend.evaluate(vlm, vlmend.editor("vead"), cases)
    after = {kind: one.free_exact.after.mean for kind, one in proof.summary.items()}
    assert min(after["reliability"], after["text_generality"], after["image_generality"]) >= 0.4
    assert proof.summary["reliability"].free_exact.before.mean == 0.0
    assert after["text_locality"] == after["no_image_locality"] == 1.0
    assert after["image_locality"] >= 0.9
    assert all(record.kl < 1e-6 for record in proof.records if record.image is None and record.kl is not None)
