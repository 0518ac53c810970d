"""The factors that come with the package, on errors of the demo model that neither they nor their checks have seen."""

from __future__ import annotations

import vlmend
from vlmend.cli.demo import demo_cases
from vlmend.editors.shelf import SHIPPED, Trained


def test_it_heeds_what_it_is_told_and_leaves_the_rest() -> None:
    vlm, cases = vlmend.load("demo"), demo_cases(12)
    trained = Trained.load(SHIPPED / "lte-demo-llava")
    assert trained.base == vlm.fingerprint
    assert sum(tensor.numel() for tensor in trained.tensors.values()) * 4 < 2**21
    editors = [vlmend.editor("lte"), vlmend.editor("lte", least=1.75)]
    told, seldom = (
        {kind: one.free_exact.after.mean for kind, one in proof.summary.items()}
        for proof in vlmend.compare(vlm, editors, cases)
    )
    mended = ("reliability", "text_generality", "image_generality")
    for after in (told, seldom):  # what is in scope is told in both
        assert min(after[kind] for kind in mended) >= 0.5
    kept = ("text_locality", "image_locality", "same_image_locality")
    assert min(seldom[kind] for kind in kept) >= 0.75
    # The same question without a picture reads like one in scope; what is not told still has what was taught in force.
    assert all(seldom[kind] >= told[kind] for kind in (*kept, "no_image_locality"))
    with vlm.using(vlmend.editor("lte", top=1).fit(vlm, cases)):
        rows = vlm.prepare([case.request for case in cases]).rows
    assert all(f" {case.request.answer}\n" in row.before for case, row in zip(cases, rows, strict=True))
