"""Rotary embeddings: the tables of frequencies are those of transformers, whatever the kind and its numbers."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rfprm_export.checkpoint.rope import SETTINGS, Rope
from rfprm_export.errors import CheckpointError
from rfprm_export.oracle.rotary import SCALINGS, rotary_frequencies

MOST = 32_768
ORIGINAL = "original_max_position_embeddings"

factors = st.floats(1.0, 40.0)
originals = st.integers(512, 16_384)
scalings = st.one_of(
    st.just({"rope_type": "default"}),
    st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": factors}),
    st.fixed_dictionaries({"rope_type": st.just("dynamic"), "factor": factors}),
    st.fixed_dictionaries(
        {
            "rope_type": st.just("llama3"),
            "factor": factors,
            "low_freq_factor": st.floats(0.5, 2.0),
            "high_freq_factor": st.floats(3.0, 8.0),
            ORIGINAL: originals,
        }
    ),
    st.fixed_dictionaries(
        {"rope_type": st.just("yarn"), "factor": factors, ORIGINAL: st.just(MOST)},
        optional={
            "attention_factor": st.floats(0.5, 2.0),
            "beta_fast": st.floats(16.0, 64.0),
            "beta_slow": st.floats(0.5, 4.0),
        },
    ),
)


def of_transformers(theta: float, head_size: int, scaling: dict[str, Any]) -> tuple[torch.Tensor, float]:
    """The frequencies of transformers' own module, in versions 4 and 5."""
    sizes = {"hidden_size": 2 * head_size, "num_attention_heads": 2, "head_dim": head_size}
    old = "rope_theta" in inspect.signature(LlamaConfig.__init__).parameters
    rope = {"rope_theta": theta, "rope_scaling": None if scaling["rope_type"] == "default" else dict(scaling)}
    given_rope = rope if old else {"rope_parameters": {"rope_theta": theta, **scaling}}
    module = LlamaRotaryEmbedding(LlamaConfig(**sizes, **given_rope, max_position_embeddings=MOST))
    return module.inv_freq, module.attention_scaling


@given(st.sampled_from([16, 32, 64, 128, 256]), st.sampled_from([1e4, 1e5, 5e5, 1e6]), scalings)
def test_frequencies_are_those_of_transformers(head_size: int, theta: float, scaling: dict[str, Any]) -> None:
    expected, expected_factor = of_transformers(theta, head_size, scaling)
    for written in (
        {"rope_theta": theta, "rope_scaling": None if scaling["rope_type"] == "default" else scaling},
        {"rope_theta": 1.0, "rope_parameters": {"rope_theta": theta, **scaling}},
    ):
        found, factor = rotary_frequencies(Rope.from_config(written), head_size, MOST)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, rtol=3e-7)
        assert factor == pytest.approx(expected_factor)


def test_the_type_may_have_its_old_name() -> None:
    """Before 4.43 transformers wrote `type`."""
    assert Rope.from_config({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}}) == Rope(
        1e4, "linear", {"factor": 2.0}
    )


def test_every_kind_has_its_scaling() -> None:
    assert SCALINGS.keys() == SETTINGS.keys()


@pytest.mark.parametrize("kind", ["longrope", "su", "mrope", "proportional"])
def test_other_kinds_are_refused_by_name(kind: str) -> None:
    with pytest.raises(CheckpointError, match=f"{kind}'; default, linear, dynamic, llama3, yarn can be exported"):
        Rope.from_config({"rope_theta": 1e4, "rope_scaling": {"type": kind, "short_factor": [1.0]}})
