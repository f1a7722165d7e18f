"""The engine against itself: however tokens reach it, the same rewards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rfprm_lite import cpu
from rfprm_lite.bundle import DEMO_FOLDER, HubOptions, open_bundle
from rfprm_lite.device import DeviceSpec, open_session, session_options
from rfprm_lite.engine import Engine
from rfprm_lite.errors import BundleFileError, BundleFormatError, DeviceError
from rfprm_lite.kv import KVCache, Layout

BUNDLE = open_bundle("demo", None, "cpu", HubOptions(), verify=True)
LAYOUT = Layout.of(BUNDLE.manifest.dimensions, "float32")
ENGINE = Engine(open_session(BUNDLE.graph, DeviceSpec("cpu"), threads=2), LAYOUT, DeviceSpec("cpu"))
IDS = np.random.default_rng(0).integers(0, 2000, 700)
NO_READS = np.array([], np.int64)


def poisoned(capacity: int) -> KVCache:
    """A cache full of not-a-number: whoever reads past its length is found out."""
    cache = ENGINE.new_cache(capacity)
    for buffer in (*cache.inner, *cache.last):
        buffer.update_inplace(np.full(buffer.shape(), np.nan, np.float32))
    return cache


def whole(ids: NDArray[np.int64], reads: list[int]) -> NDArray[np.float32]:
    return ENGINE.prefill(poisoned(len(ids)), ids, np.array(reads))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=5), st.integers(0, 50), st.data())
def test_chunks_give_what_one_run_gives(sizes: list[int], spare: int, data: st.DataObject) -> None:
    length = sum(sizes)
    reads = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=20)))
    cache = poisoned(length + spare)
    rewards: list[float] = []
    at = 0
    for size in sizes:
        inside = np.array([r - at for r in reads if at <= r < at + size], np.int64)
        rewards += ENGINE.prefill(cache, IDS[at : at + size], inside).tolist()
        at += size
    assert np.isfinite(rewards).all()
    np.testing.assert_allclose(rewards, whole(IDS[:length], reads), atol=1e-6)


def test_rolled_back_and_filled_again() -> None:
    cache = poisoned(300)
    ENGINE.prefill(cache, IDS[:100], NO_READS)
    first = ENGINE.prefill(cache, IDS[100:200], np.array([5, 99]))
    cache.trim(100)
    ENGINE.prefill(cache, IDS[400:600], np.array([1]))
    cache.trim(100)
    assert ENGINE.prefill(cache, IDS[100:200], np.array([5, 99])).tolist() == first.tolist()
    np.testing.assert_allclose(first, whole(IDS[:200], [105, 199]), atol=1e-6)


def test_a_run_without_reads_returns_none() -> None:
    assert ENGINE.prefill(poisoned(10), IDS[:10], NO_READS).shape == (0,)


def test_a_read_sees_nothing_behind_it() -> None:
    other = IDS[:60].copy()
    other[31:] = 7
    np.testing.assert_allclose(whole(IDS[:60], [30]), whole(other, [30]), atol=1e-7)


def test_the_cache_refuses_what_does_not_fit() -> None:
    cache = ENGINE.new_cache(10)
    ENGINE.prefill(cache, IDS[:8], NO_READS)
    with pytest.raises(ValueError, match=r"8 \+ 3 tokens exceed the cache's capacity of 10"):
        ENGINE.prefill(cache, IDS[:3], NO_READS)
    assert cache.length == 8
    with pytest.raises(ValueError, match="8 tokens back to 9"):
        cache.trim(9)


def test_a_failed_run_leaves_the_cache_as_it_was() -> None:
    cache = ENGINE.new_cache(10)
    ENGINE.prefill(cache, IDS[:4], NO_READS)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        ENGINE.prefill(cache, np.array([10**9]), NO_READS)
    assert cache.length == 4


def test_devices() -> None:
    with pytest.raises(DeviceError, match="'tpu'"):
        DeviceSpec.parse("tpu")
    with pytest.raises(DeviceError, match="'cpu:1'"):
        DeviceSpec.parse("cpu:1")
    assert DeviceSpec.parse("cuda:1") == DeviceSpec("cuda", 1)
    with pytest.raises(DeviceError, match="install rfprm-lite-gpu"):
        open_session(BUNDLE.graph, DeviceSpec("cuda"), threads=None)
    for wrong in ("cpu:", "cuda:²", "cuda:-1", None):
        with pytest.raises(DeviceError, match="no device is called"):
            DeviceSpec.parse(wrong)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="threads='2'"):
        open_session(BUNDLE.graph, DeviceSpec("cpu"), threads="2")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="threads=0"):
        open_session(BUNDLE.graph, DeviceSpec("cpu"), threads=0)
    with pytest.raises(BundleFileError, match=r"can't load .*manifest\.json"):
        open_session(DEMO_FOLDER / "manifest.json", DeviceSpec("cpu"), threads=None)


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 3}, {"num_layers": 9}, {"num_kv_heads": 7}, {"head_size": 7}, {"dtype": np.dtype("float16")}],
)
def test_a_graph_that_is_not_what_the_manifest_says(change: dict[str, object]) -> None:
    with pytest.raises(BundleFormatError, match=r"the graph is not the one that the manifest describes: past\."):
        Engine(open_session(BUNDLE.graph, DeviceSpec("cpu"), None), replace(LAYOUT, **change), DeviceSpec("cpu"))  # type: ignore[arg-type]


def test_the_cpu_says_what_it_can(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor : 0\nflags : fpu avx2 avx512_vnni\n")
    (tmp_path / "arm").write_text("Features\t: fp asimd asimddp i8mm\n")
    assert cpu.instructions(tmp_path / "x86") == ["avx2", "avx512_vnni"]
    assert cpu.instructions(tmp_path / "arm") == ["asimd", "asimddp", "i8mm"]
    assert cpu.instructions(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("machine", "found", "saturates"),
    [
        ("x86_64", ["avx2", "avx512f"], True),
        ("AMD64", ["avx2", "avx512_vnni"], False),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("x86_64", [], True),
        ("aarch64", [], False),
    ],
)
def test_x86_without_vnni_gets_exact_kernels(machine: str, found: list[str], saturates: bool) -> None:
    assert cpu.int8_products_saturate(machine, found) == saturates


def test_the_session_asks_for_exact_kernels_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    for saturates, expected in ((True, "1"), (False, None)):
        monkeypatch.setattr("rfprm_lite.device.int8_products_saturate", lambda answer=saturates: answer)
        options = session_options(None)
        try:
            entry = options.get_session_config_entry("session.x64quantprecision")
        except RuntimeError:  # not set
            entry = None
        assert entry == expected
