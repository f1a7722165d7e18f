"""INT8: what quantising may cost, and what it may not: a reward never depends on what else is in the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper

from checkpoints import ALL_LAYOUTS
from exporting import Exported
from rfprm_export.families.options import family_from
from rfprm_export.parity import texts
from rfprm_export.parity.probes import PROBES, calibration_traces, pools
from rfprm_export.quantize.integers import SMALLEST, largest_pairs, quantise_rows
from rfprm_export.quantize.round import Range
from rfprm_export.variants import INT8, VARIANTS, Bound
from rfprm_export.write.calibrated import calibrate
from rfprm_export.write.variant import VariantWriter, checkpoint_blocks
from rfprm_lite.bundle.manifest import Parity
from rfprm_lite.text.encoding import Encoder

Get = Callable[[str], Exported]
SEVEN = "reasonflux-prm-7b"


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_rewards_are_near_pytorchs(exported: Get, recipe: str) -> None:
    made = exported(recipe)
    expected = made.reference.step_rewards(PROBES)
    found = [score.step_rewards for score in made.variant("int8").score_many(PROBES)]
    differences = np.abs(np.concatenate(found) - np.concatenate(expected))
    assert differences.mean() < 0.03  # random weights and few features are the worst of inputs
    assert differences.max() > 1e-6  # it is another arithmetic


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_a_reward_does_not_depend_on_what_else_is_in_the_run(exported: Get, recipe: str) -> None:
    int8 = exported(recipe).variant("int8")
    for probe, score in zip(PROBES, int8.score_many(PROBES), strict=True):
        assert int8.score(*probe).step_rewards.tolist() == score.step_rewards.tolist()


@given(arrays(np.float32, (3, 40), elements=st.floats(-1e4, 1e4, width=32)))
@example(np.full((3, 40), 1e-45, np.float32))
@example(np.full((3, 40), SMALLEST))
def test_quantised_rows_are_within_half_a_unit(block: np.ndarray) -> None:
    values, scales = quantise_rows(block)
    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max() <= 127
    assert (np.abs(values * scales[:, None] - block) <= scales[:, None] * 0.501).all()
    assert (np.abs(values).max(1) == np.where(np.abs(block).max(1) > SMALLEST, 127, 0)).all()


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_no_pair_of_products_overflows_16_bits(exported: Get, recipe: str) -> None:
    """Of any u8 activations, in the file that was written; and the manifest says so."""
    made = exported(recipe).variant("int8")
    graph = onnx.load(exported(recipe).bundle / made.variant.files[0].path).graph
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer if i.data_type == onnx.TensorProto.INT8}
    multiplied = [node.input[1] for node in graph.node if "MatMulInteger" in node.op_type]
    assert len(multiplied) >= 4
    for name in multiplied:
        columns = weights[name].T.astype(np.int16)
        first, second = columns[:, 0:-1:2], columns[:, 1::2]
        assert (255 * (np.maximum(first, 0) + np.maximum(second, 0)).max()) <= 32_767, name
        assert (255 * (np.minimum(first, 0) + np.minimum(second, 0)).min()) >= -32_768, name
    assert max(largest_pairs(weights[name].T.astype(int)).max() for name in multiplied) > 100  # the range is used
    assert made.variant.sums_fit_16_bits


def test_pairs_that_overflow_are_never_written(exported: Get, tmp_path: Path) -> None:
    checkpoint = exported(SEVEN).reference.checkpoint

    def careless(rows: np.ndarray, scales: np.ndarray, within: Range) -> np.ndarray:
        return np.full(rows.shape, within.highest, np.int8)

    spec, head = family_from(SEVEN).resolve(None, {}, ()), exported(SEVEN).reference.head
    with VariantWriter(tmp_path, INT8, checkpoint, spec, head) as writer, pytest.raises(ValueError, match="16 bits"):
        writer.fill_layer(0, checkpoint_blocks(checkpoint, head), lambda _weight: careless)


def test_nothing_is_measured_on_what_was_calibrated_on() -> None:
    assert len(calibration_traces()) == 200
    assert [len(pool) for pool in pools()] == [8] * 6
    assert not {problem for problem, _ in calibration_traces()} & {pool[0][0] for pool in pools()}


def test_calibration_takes_as_many_traces_as_memory_is_meant_for(
    exported: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported("reasonflux-prm-7b")
    architecture = made.reference.checkpoint.architecture
    encoder = Encoder.from_file(made.bundle / "tokenizer.json", made.prm.manifest.recipe, 32_768)
    tokens = [len(encoder.step_sequences(*trace)[-1].ids) for trace in calibration_traces()[:5]]
    monkeypatch.setattr(texts, "MOST_TOKENS_A_CHANNEL", 1_000)
    for short, expected in ((0, 5), (1, 4)):
        monkeypatch.setattr(texts, "MOST_BYTES", (sum(tokens) - short) * 4 * architecture.hidden_size)
        chosen = texts.calibration_texts(encoder, architecture)
        assert [len(sequence.ids) for sequence in chosen.sequences] == tokens[:expected]
        rewards = calibrate(made.reference, chosen, [], ranges=False).rewards
        assert [len(of_text) for of_text in rewards] == [len(sequence.read_at) for sequence in chosen.sequences]


def test_a_bound_names_what_is_missed() -> None:
    parity = Parity(0.2, 0.06, float("nan"), None, None, 0, 1, 1, "", None, "", "", "", "")
    assert INT8.bound.missed(parity) == (
        "nan on average, where 1e-02 is allowed; 6.00e-02 at the 99th percentile, where 5e-02 is allowed; "
        "1 rewards compared, where 300 are needed to tell"
    )
    assert Bound(needed=True, maximum=0.2).missed(parity) is None


def test_a_variant_that_misses_its_bound_is_no_default(exported: Get) -> None:
    """INT4 of random weights, the worst of inputs for quantising, is far beyond it."""
    manifest = exported("reasonflux-prm-1.5b").prm.manifest
    for variant in manifest.variants:
        assert variant.missed == VARIANTS[variant.name].bound.missed(variant.parity)  # type: ignore[arg-type]
    assert "on average, where 1e-02 is allowed" in str(manifest.variant("int4").missed)
    assert [v.name for v in manifest.variants if v.missed is None] == [manifest.default_variant("cpu").name] == ["fp32"]
    made_by = manifest.variant("int8").made_by
    assert (
        made_by[0] == "inputs of products balanced with their weights and mixed, values by heads, others by 32 at most"
    )
    assert made_by[1] == "weights rounded with error feedback (GPTQ)"
    assert made_by[2].startswith("calibrated on 7 traces of PRMBench and StrictPRMBench, ")
