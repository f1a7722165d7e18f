"""The memory of a process, measured: a call takes what was predicted at most, and many calls no more than a few."""

from __future__ import annotations

import pytest

from process_memory import taken

MEGABYTE = 1_000_000


def test_a_call_takes_what_was_predicted_at_most() -> None:
    """A reward every other token: what the last layer's read-outs take is most of it. Other memory hardly counts."""
    (call,) = taken("demo", [["1"] * 1000])
    assert call.measured > 10 * MEGABYTE
    assert call.measured <= call.predicted
    assert call.predicted < 1.5 * call.measured


@pytest.mark.slow
def test_hundreds_of_calls_take_no_more_than_a_few() -> None:
    calls = [[f"{n} + {n} = {2 * n}" for n in range(i % 7, 30 + 10 * (i % 5))] for i in range(400)]
    after = [call.left for call in taken("demo", calls)]
    assert max(after[200:]) - max(after[:200]) < 2 * MEGABYTE
