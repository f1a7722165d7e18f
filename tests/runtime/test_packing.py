"""When a further lane pays: copying is weighed against reading the weights that a run reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import PRM
from rfprm_lite.plan.packing import ALWAYS, COPY_COST, Packing
from rfprm_lite.scoring.wiring import layout_of, packing_of

counts = st.integers(1, 10**12)


@given(counts, st.integers(1, 10**7))
def test_so_many_tokens_are_copied_in_the_time_that_a_run_reads_its_weights(weights: int, token: int) -> None:
    assert Packing.of(weights, token).run_tokens * COPY_COST * token == pytest.approx(weights)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 100))
def test_a_copy_pays_while_it_costs_no_more_than_the_runs_that_it_saves(weights: int, copied: int, saved: int) -> None:
    packing = Packing(run_tokens=weights)
    assert packing.pays(copied, saved) == (copied <= weights * saved)
    assert packing.pays(weights * saved, saved)
    assert not packing.pays(weights * saved + 1, saved)
    assert ALWAYS.pays(copied, 1)


def test_of_a_bundle_the_weights_count_without_the_embedding(prm: PRM) -> None:
    """A run reads a few rows of that table alone."""
    sizes, variant = prm.manifest.dimensions, prm.variant
    read = sum(file.bytes for file in variant.files) - sizes.vocab_size * sizes.hidden_size  # int8: a byte each
    token = layout_of(prm.manifest, variant).token_bytes
    assert token == 2 * sizes.num_layers * sizes.num_kv_heads * sizes.head_size * 4
    assert packing_of(prm.manifest, variant).run_tokens * COPY_COST * token == pytest.approx(read)
