"""Attribution where layers look at pictures that are no tokens: to modules it works, to visual tokens it is refused."""

from __future__ import annotations

import pytest

from conftest import CROSSING, left_alone
from vlmend import VLM, Example
from vlmend.attribution.base import METHODS, attribute
from vlmend.errors import AttributionError, PartsError


@pytest.fixture(params=CROSSING)
def vlm(request, tiny):
    yield from left_alone(tiny(request.param))


@pytest.mark.parametrize("method", sorted({*METHODS} - {"contributions", "decomposition"}))
def test_attribution_to_visual_tokens_is_refused(vlm: VLM, picture, method):
    with pytest.raises(PartsError, match="has no visual tokens") as caught:
        attribute(vlm, Example("what colour is the cup ?", picture(1)), method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["contributions", "decomposition"])
def test_attribution_to_modules(vlm: VLM, picture, method):
    """Shares add up to the logit; without a picture there are layers that are not run, and it says so."""
    found = attribute(vlm, Example("what colour is the cup ?", picture(1)), method)
    assert found.scores.shape == (len(vlm.parts.layers), 2) and found.scores.isfinite().all()
    assert found.completeness is None or found.completeness.error < 1e-3
    with pytest.raises(AttributionError, match="has no part in the answer"):
        attribute(vlm, Example("who wrote the song"), method)
