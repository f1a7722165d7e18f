"""The engine against itself: however tokens reach it, the same rewards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rfprm_lite.bundle.open import DEMO_FOLDER, open_bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cpu
from rfprm_lite.engine.engine import Engine, KVLanes
from rfprm_lite.engine.session import open_session, session_options
from rfprm_lite.errors import BundleFileError, BundleFormatError, DeviceError, EngineError, StoppedError
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.scoring.wiring import layout_of, open_engine

BUNDLE = open_bundle("demo", LoadOptions())
LAYOUT = layout_of(BUNDLE.manifest, BUNDLE.variant)
ENGINE = open_engine(BUNDLE, threads=2)
LANES = ENGINE.max_lanes
IDS = np.random.default_rng(0).integers(0, 2000, 700)


def poisoned(capacity: int, count: int = 1) -> KVLanes:
    """Caches full of not-a-number: whoever reads past their length is found out."""
    lanes = ENGINE.new_lanes(count, capacity)
    for cache in (*lanes.caches, lanes.idle):
        cache.arrays.inner.fill(np.nan)
        cache.arrays.last.fill(np.nan)
    return lanes


def prefill(lanes: KVLanes, ids: NDArray[np.int64], read_at: list[int], lane: int = 0) -> NDArray[np.float32]:
    return ENGINE.prefill(lanes, [Chunk(lane, ids, np.array(read_at, np.int64))], Cancellation())[0]


def whole(ids: NDArray[np.int64], read_at: list[int]) -> list[float]:
    return [float(reward) for reward in prefill(poisoned(len(ids)), ids, read_at)]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=5), st.integers(0, 50), st.data())
def test_chunks_give_what_one_run_gives_to_the_last_bit(sizes: list[int], spare: int, data: st.DataObject) -> None:
    length = sum(sizes)
    read_at = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=20)))
    lanes = poisoned(length + spare)
    rewards: list[float] = []
    at = 0
    for size in sizes:
        inside = [r - at for r in read_at if at <= r < at + size]
        rewards += prefill(lanes, IDS[at : at + size], inside).tolist()
        at += size
    assert np.isfinite(rewards).all()
    assert rewards == whole(IDS[:length], read_at)


@settings(max_examples=25)
@given(st.data())
def test_what_runs_in_other_lanes_changes_no_bit(data: st.DataObject) -> None:
    """Lanes in any order, some idle in some runs, each with a past of its own."""
    lanes = poisoned(400, LANES)
    texts: list[list[int]] = [[] for _ in range(LANES)]
    for _ in range(data.draw(st.integers(1, 4))):
        used = data.draw(st.permutations(range(LANES)))[: data.draw(st.integers(1, LANES))]
        starts = {lane: data.draw(st.integers(0, 500)) for lane in used}
        sizes = {lane: data.draw(st.integers(1, 70)) for lane in used}
        pieces = {lane: IDS[starts[lane] : starts[lane] + sizes[lane]] for lane in used}
        read_at = {lane: np.array([sizes[lane] - 1] * data.draw(st.integers(0, 1)), np.int64) for lane in used}
        found = ENGINE.prefill(lanes, [Chunk(lane, pieces[lane], read_at[lane]) for lane in used], Cancellation())
        for lane, rewards in zip(used, found, strict=True):
            texts[lane] += pieces[lane].tolist()
            assert rewards.tolist() == whole(np.array(texts[lane]), [len(texts[lane]) - 1])[: len(read_at[lane])]


def test_rolled_back_and_filled_again() -> None:
    lanes = poisoned(300)
    prefill(lanes, IDS[:100], [])
    first = prefill(lanes, IDS[100:200], [5, 99])
    lanes.caches[0].trim(100)
    prefill(lanes, IDS[400:600], [1])
    lanes.caches[0].trim(100)
    assert prefill(lanes, IDS[100:200], [5, 99]).tolist() == first.tolist() == whole(IDS[:200], [105, 199])


def test_kept_and_restored_elsewhere() -> None:
    lanes = poisoned(300, 2)
    prefill(lanes, IDS[:130], [])
    one, two = lanes.caches[0].keep(0, 50).split(20)
    three = lanes.caches[0].keep(50, 130)
    assert (one.length, two.length, three.length) == (20, 30, 80)
    assert three.nbytes == 80 * LAYOUT.token_bytes == three.arrays.inner.nbytes + three.arrays.last.nbytes
    other = lanes.caches[1]
    other.restore(one, 0, 20)
    other.restore(two, 0, 30)
    other.restore(three, 0, 50)
    assert other.length == 100
    assert prefill(lanes, IDS[100:200], [99], lane=1).tolist() == whole(IDS[:200], [199])
    with pytest.raises(ValueError, match="10 to 40.* 30"):
        other.restore(two, 10, 40)
    with pytest.raises(ValueError, match="190 to 201.* 200"):
        other.keep(190, 201)


def test_a_run_without_reads_returns_none() -> None:
    assert prefill(poisoned(10), IDS[:10], []).shape == (0,)


def test_a_read_sees_nothing_behind_it() -> None:
    other = IDS[:60].copy()
    other[31:] = 7
    assert whole(IDS[:60], [30]) == whole(other, [30])


def test_the_cache_refuses_what_does_not_fit() -> None:
    lanes = ENGINE.new_lanes(1, 10)
    prefill(lanes, IDS[:8], [])
    with pytest.raises(ValueError, match=r"8 \+ 3.* 10"):
        prefill(lanes, IDS[:3], [])
    assert lanes.caches[0].length == 8
    with pytest.raises(ValueError, match="8.* 9"):
        lanes.caches[0].trim(9)


def test_a_failed_run_leaves_the_caches_as_they_were() -> None:
    lanes = ENGINE.new_lanes(2, 10)
    prefill(lanes, IDS[:4], [])
    with pytest.raises(EngineError, match="indices element out of data bounds"):
        ENGINE.prefill(
            lanes,
            [Chunk(1, IDS[:3], np.array([2])), Chunk(0, np.array([10**9]), np.array([0]))],
            Cancellation(),
        )
    assert [cache.length for cache in lanes.caches] == [4, 0]


def test_a_stop_ends_a_run_and_the_next_one_works() -> None:
    lanes, cancel = ENGINE.new_lanes(1, 2000), Cancellation()

    def run_for_long() -> None:
        for _ in range(1000):
            ENGINE.prefill(lanes, [Chunk(0, IDS, np.array([699]))], cancel)
            lanes.caches[0].trim(0)

    timer = threading.Timer(0.005, cancel.request)
    timer.start()
    with pytest.raises(StoppedError):
        run_for_long()
    timer.join()
    assert lanes.caches[0].length == 0
    with pytest.raises(StoppedError):
        ENGINE.prefill(lanes, [Chunk(0, IDS[:5], np.array([4]))], cancel)
    assert prefill(lanes, IDS[:50], [49]).tolist() == whole(IDS[:50], [49])


def test_devices() -> None:
    with pytest.raises(DeviceError, match="'tpu'"):
        DeviceSpec.parse("tpu")
    with pytest.raises(DeviceError, match="'cpu:1'"):
        DeviceSpec.parse("cpu:1")
    assert DeviceSpec.parse("cuda:1") == DeviceSpec("cuda", 1)
    with pytest.raises(DeviceError, match="rfprm-lite-gpu"):
        open_session(BUNDLE.graph, DeviceSpec("cuda"), threads=None)
    for wrong in ("cpu:", "cuda:²", "cuda:-1", None):
        with pytest.raises(DeviceError, match="device"):
            DeviceSpec.parse(wrong)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="threads='2'"):
        open_session(BUNDLE.graph, DeviceSpec("cpu"), threads="2")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="threads=0"):
        open_session(BUNDLE.graph, DeviceSpec("cpu"), threads=0)
    with pytest.raises(BundleFileError, match=r"manifest\.json"):
        open_session(DEMO_FOLDER / "manifest.json", DeviceSpec("cpu"), threads=None)


def test_a_graph_with_other_lanes() -> None:
    session = open_session(BUNDLE.graph, DeviceSpec("cpu"), None)
    with pytest.raises(BundleFormatError, match=rf"past\.0\.key\.{LANES} is None, the dimensions, lanes and kv_dtype"):
        Engine(session, LAYOUT, LANES + 1, 2)


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 3}, {"num_layers": 9}, {"num_kv_heads": 7}, {"head_size": 7}, {"dtype": np.dtype("float16")}],
)
def test_a_graph_that_is_not_what_the_manifest_says(change: dict[str, object]) -> None:
    session = open_session(BUNDLE.graph, DeviceSpec("cpu"), None)
    with pytest.raises(BundleFormatError, match=r"the graph is not the one that the manifest describes: past\."):
        Engine(session, replace(LAYOUT, **change), LANES, 2)  # type: ignore[arg-type]


@pytest.fixture
def unread() -> Iterator[None]:
    """What the system says is read once; this test is on another one."""
    cpu._fields.cache_clear()
    yield
    cpu._fields.cache_clear()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("system", "text", "name", "instructions"),
    [
        (
            "linux",
            "model name\t: Xeon\nflags : 1 fpu avx2 avx512_vnni\n\nflags : i8mm",
            "Xeon",
            ["avx2", "avx512_vnni"],
        ),
        ("linux", "Features\t: fp asimd asimddp i8mm\n", "python's", ["asimd", "asimddp", "i8mm"]),
        (
            "darwin",
            (
                "machdep.cpu.brand_string: Apple M2\nhw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_DotProd: 1\n"
                "hw.optional.arm.FEAT_I8MM: 0\n"
            ),
            "Apple M2",
            ["asimd", "asimddp"],
        ),
        (
            "darwin",
            (
                "machdep.cpu.brand_string: Intel(R) Core(TM) i7\nmachdep.cpu.features: FPU FMA\nhw.optional.avx2_0: 1\n"
                "machdep.cpu.leaf7_features: AVX512F AVX512VNNI\n"
            ),
            "Intel(R) Core(TM) i7",
            ["avx2", "fma", "avx512f", "avx512_vnni"],
        ),
        ("darwin", None, "python's", None),
        ("win32", None, "python's", None),
    ],
)
def test_the_cpu_says_what_it_can(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    text: str | None,
    name: str,
    instructions: list[str] | None,
) -> None:
    says = tmp_path / "says"
    if text is not None:
        says.write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.processor", lambda: "python's")
    monkeypatch.setattr(cpu, "CPUINFO", says)
    printing = "import sys; sys.stdout.write(open(sys.argv[1]).read())"
    monkeypatch.setattr(cpu, "SYSCTL", (sys.executable if text else "no such command", "-c", printing, str(says)))
    assert (cpu.model_name(), cpu.instructions()) == (name, instructions)
    assert cpu.int8_products_saturate("AMD64") == ("avx512_vnni" not in (instructions or []))


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
    for saturates, fit, expected in ((True, False, "1"), (True, True, None), (False, False, None)):
        monkeypatch.setattr("rfprm_lite.engine.session.int8_products_saturate", lambda answer=saturates: answer)
        options = session_options(None, sums_fit_16_bits=fit)
        try:
            entry = options.get_session_config_entry("session.x64quantprecision")
        except RuntimeError:  # not set
            entry = None
        assert entry == expected


@pytest.mark.parametrize("num_readouts", [1, 2, 3, 6, 7, 8, 30])
def test_how_many_are_read_out_beside_it_changes_no_bit(num_readouts: int) -> None:
    """Behind more tokens than ONNX Runtime sums over at once."""
    ids = np.random.default_rng(1).integers(0, 2000, 1600)
    for end in range(700, 1601, 100):
        read_at = np.arange(end - num_readouts, end)
        lanes = poisoned(end)
        prefill(lanes, ids[: end - 40], [])
        rewards = prefill(lanes, ids[end - 40 : end], (read_at - (end - 40)).tolist())
        assert rewards[-1] == whole(ids[:end], list(range(end - 64, end)))[-1]
