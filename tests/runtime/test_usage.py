"""Token counts: each token is computed, reused or skipped, and counts add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite.plan.usage import Usage

counts = st.integers(0, 99)
usages = st.builds(
    lambda computed, reused, skipped: Usage(computed + reused + skipped, computed, skipped), *[counts] * 3
)


@given(counts, counts, counts)
def test_a_token_is_computed_reused_or_skipped(computed: int, reused: int, skipped: int) -> None:
    usage = Usage(computed + reused + skipped, computed, skipped)
    assert usage.reused == reused
    told = {"total": computed + reused + skipped, "computed": computed, "reused": reused, "skipped": skipped}
    assert usage.to_dict() == (told if skipped else {name: told[name] for name in ("total", "computed", "reused")})
    assert Usage(computed + reused, computed) == Usage(computed + reused, computed, 0)


@given(usages, usages)
def test_counts_add_up(one: Usage, other: Usage) -> None:
    for count in ("total", "computed", "reused", "skipped"):
        assert getattr(one + other, count) == getattr(one, count) + getattr(other, count)
