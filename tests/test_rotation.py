"""Rotation: the network computes what it did, whatever was measured, and its inner values are evened out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import LAYOUTS
from conftest import Exported
from rfprm_export.calibration import LayerStatistics
from rfprm_export.checkpoint import Checkpoint
from rfprm_export.floating import RotatedArithmetic
from rfprm_export.head import load_head
from rfprm_export.passes import rotated
from rfprm_export.probes import PROBES
from rfprm_export.recipes import choose
from rfprm_export.rotation import MIXED, dealt, hadamard, mixed_channels, random_orthogonal
from rfprm_export.variants import FP32
from rfprm_export.write import write_variant
from rfprm_lite import PRM
from rfprm_lite.bundle import Bundle
from rfprm_lite.device import DeviceSpec

Get = Callable[[str], Exported]


@pytest.mark.parametrize("recipe", LAYOUTS)
def test_it_changes_no_reward_in_fp32(exported: Get, recipe: str, tmp_path: Path) -> None:
    made = exported(recipe)
    checkpoint = Checkpoint.open(made.checkpoint)
    a, spec = checkpoint.architecture, choose(recipe, checkpoint.architecture.name)
    draw = np.random.default_rng(0)
    statistics = [
        LayerStatistics(draw.uniform(0, 9, a.intermediate_size).astype(np.float32), 0, {}) for _ in range(a.num_layers)
    ]
    variant = replace(FP32, arithmetic=RotatedArithmetic)
    passes = rotated(a, statistics, spec.head.names[0][0])
    files = write_variant(tmp_path, variant, checkpoint, spec, load_head(checkpoint, spec), passes)
    (tmp_path / "tokenizer.json").write_bytes((made.bundle / "tokenizer.json").read_bytes())
    entry = made.prm.manifest.variant("fp32")
    assert (tmp_path / files[1].path).read_bytes() != (made.bundle / entry.files[1].path).read_bytes()
    prm = PRM(Bundle(tmp_path, made.prm.manifest, entry), DeviceSpec("cpu"), threads=2)
    for probe, rewards in zip(PROBES, made.reference.step_rewards(PROBES), strict=True):
        np.testing.assert_allclose(prm.score(*probe).step_rewards, rewards, atol=1e-4)


@given(st.integers(1, 400))
def test_matrices_are_orthogonal(size: int) -> None:
    for matrix in (hadamard(size), random_orthogonal(size)):
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-5)
    np.testing.assert_array_equal(hadamard(size), hadamard(size).T)
    assert size % mixed_channels(size) == 0
    assert mixed_channels(size) <= MIXED


@given(st.integers(0, 5).map(lambda n: 2**n), st.integers(1, 9), st.randoms(use_true_random=False))
def test_channels_are_dealt_out_by_their_size(size: int, groups: int, random) -> None:  # type: ignore[no-untyped-def]
    squares = np.array([random.random() for _ in range(size * groups)], np.float32)
    order = dealt(squares, size)
    assert sorted(order.tolist()) == list(range(size * groups))
    ranks = np.argsort(np.argsort(-squares, kind="stable"))[order].reshape(groups, size)
    # Of each round of as many channels as there are groups, every group has one.
    np.testing.assert_array_equal(np.sort(ranks // groups, axis=1), np.tile(np.arange(size), (groups, 1)))


def test_outliers_are_evened_out() -> None:
    """One channel a thousand times the others: what an 8-bit scale a row makes of it."""
    values = np.random.default_rng(0).standard_normal((50, 256)).astype(np.float32)
    values[:, 7] *= 1000
    squares = (values**2).mean(0)
    order = dealt(squares, 32)
    mixed = (values[:, order].reshape(50, -1, 32) @ hadamard(32)).reshape(50, 256)
    np.testing.assert_allclose((mixed**2).sum(1), (values**2).sum(1), rtol=1e-4)
    assert np.abs(mixed).max() < np.abs(values).max() / 4
