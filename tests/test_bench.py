"""The benchmark's own arithmetic, and that rfprm-lite is the contender that it says it is."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import DEMO_CHECKPOINT
from contender import ENTRIES, REFERENCE, ModelPaths
from contenders.rfprm import Rfprm
from rfprm_lite.bundle import DEMO_FOLDER
from workloads import QUICK, WORKLOADS

PATHS = ModelPaths(str(DEMO_CHECKPOINT), str(DEMO_FOLDER), "")


@pytest.mark.parametrize("name", QUICK)
def test_sharing_computes_the_distinct_prefixes_and_changes_no_reward(name: str) -> None:
    workload = QUICK[name]()
    found = {}
    for share in (True, False):
        contender = Rfprm("fp32", share)
        contender.load(PATHS, threads=2)
        results = [contender.score(call) for call in workload.calls]
        found[share] = [r for rewards, _ in results for sequence in rewards for r in sequence]
        assert sum(n for _, n in results) == (workload.distinct_prefixes if share else workload.tokens)
    np.testing.assert_allclose(found[True], found[False], atol=1e-6)


def test_the_sizes_that_the_titles_name() -> None:
    w1, w2, w5 = (WORKLOADS[name]() for name in ("W1", "W2", "W5"))
    assert (w1.tokens, w1.distinct_prefixes) == (16 * 384, 256 + 16 * 128)
    assert w2.tokens == w2.distinct_prefixes == 4096
    assert len(w5.calls) == 10
    assert all(len(call) == 32 for call in w5.calls)


def test_real_workloads_read_steps() -> None:
    for name in ("W3", "W4", "W7"):
        workload = WORKLOADS[name]()
        for call in workload.calls:
            for sequence in call:
                assert sequence.reads == sorted(set(sequence.reads))
                assert {sequence.ids[read] for read in sequence.reads} == {151651}  # <extra_0>
                assert sequence.reads[-1] == len(sequence.ids) - 1
        assert workload.distinct_prefixes <= workload.tokens


def test_contenders_have_names_of_their_own() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert REFERENCE in names
