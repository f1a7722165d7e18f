"""The engine: one method, prefill.

In: token ids on top of a KV cache, and positions. Out: rewards at those positions. Knows nothing of text, recipes,
steps or plans.

The graph's contract, for a segment of S tokens on top of P cached ones with R positions to read:

    input_ids        int64 [S]
    past_length      int64 []                       P
    read_positions   int64 [R]                      within the segment, 0 <= position < S
    past.i.key, past.i.value                        present.i.key, present.i.value, the same buffers
    rewards          float32 [R], in [0, 1]

Layer i but the last: past and present are one buffer [1, num_kv_heads, capacity, head_size]. The last layer: past is
[P, num_kv_heads * head_size] and present [S, num_kv_heads * head_size], which the engine binds to the two
neighbouring parts of one buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.device import DeviceSpec
from rfprm_lite.errors import BundleFormatError, NumericalError
from rfprm_lite.kv import Allocate, Cache, KVCache, Layout

if TYPE_CHECKING:
    import onnxruntime as ort

C = TypeVar("C", bound=Cache)


class Prefill(Protocol[C]):
    """What a scorer needs of an engine; tests put a fake in its place."""

    def new_cache(self, capacity: int) -> C:
        """An empty cache for up to `capacity` tokens."""

    def prefill(self, cache: C, ids: NDArray[np.int64], reads: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append `ids` to the cache; rewards at `reads`, positions within `ids`."""


class Engine:
    """Runs a bundle's graph. Has no state of its own: several threads may use it, each with its own cache."""

    def __init__(self, session: ort.InferenceSession, layout: Layout, device: DeviceSpec) -> None:
        """Raises BundleFormatError where the session's graph is not of this layout."""
        _check_contract(session, layout)
        self._session = session
        self._layout = layout
        self._device = device
        kinds = ("key", "value")
        inner = range(layout.num_layers - 1)
        self._past = [f"past.{i}.{kind}" for i in inner for kind in kinds]
        self._present = [f"present.{i}.{kind}" for i in inner for kind in kinds]
        self._last_past = [f"past.{layout.num_layers - 1}.{kind}" for kind in kinds]
        self._last_present = [f"present.{layout.num_layers - 1}.{kind}" for kind in kinds]

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for up to `capacity` tokens, on the engine's device."""
        return KVCache(self._layout, capacity, self._allocate())

    def prefill(self, cache: KVCache, ids: NDArray[np.int64], reads: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append the tokens to the cache.

        ids: int64 [S], S >= 1. reads: int64 [R], 0 <= position < S. Returns float32 [R], in [0, 1].
        Raises ValueError where the cache is too small, NumericalError where a reward is no number. After any error the
        cache is as it was.
        """
        past = cache.length
        cache.advance(len(ids))
        try:
            rewards = self._run(cache, past, ids, reads)
            _check_numbers(rewards, past + reads)
        except BaseException:
            cache.trim(past)
            raise
        return rewards

    def _run(self, cache: KVCache, past: int, ids: NDArray[np.int64], reads: NDArray[np.int64]) -> NDArray[np.float32]:
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids, np.int64))
        binding.bind_cpu_input("past_length", np.array(past, np.int64))
        binding.bind_cpu_input("read_positions", np.ascontiguousarray(reads, np.int64))
        for past_name, present_name, buffer in zip(self._past, self._present, cache.inner, strict=True):
            binding.bind_ortvalue_input(past_name, buffer)
            binding.bind_ortvalue_output(present_name, buffer)
        place = (self._device.kind, self._device.index, self._layout.dtype)
        for which in range(2):
            cached, new = self._layout.last_shape(past), self._layout.last_shape(len(ids))
            binding.bind_input(self._last_past[which], *place, cached, cache.last_pointer(which, 0))
            binding.bind_output(self._last_present[which], *place, new, cache.last_pointer(which, past))
        binding.bind_output("rewards", "cpu")
        self._session.run_with_iobinding(binding)
        rewards: NDArray[np.float32] = binding.get_outputs()[-1].numpy()
        return rewards

    def _allocate(self) -> Allocate:
        from onnxruntime import OrtValue

        def allocate(shape: list[int], dtype: np.dtype[np.floating]) -> ort.OrtValue:
            return OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device.kind, self._device.index)

        return allocate


def _check_numbers(rewards: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
    wrong = ~np.isfinite(rewards)
    if wrong.any():
        raise NumericalError(
            f"{wrong.sum()} of {len(rewards)} rewards are no numbers, the first at token {positions[wrong][0]}: the "
            "variant's arithmetic overflowed or its weights are damaged. Take another variant (fp32 can't overflow "
            "where PyTorch does not), or check the bundle with rfprm-export verify"
        )


def _check_contract(session: ort.InferenceSession, layout: Layout) -> None:
    """Raise BundleFormatError unless the graph's KV inputs are what the manifest's dimensions say."""
    kind = {"float32": "tensor(float)", "float16": "tensor(float16)"}[layout.dtype.name]
    inner = (kind, [1, layout.num_kv_heads, layout.head_size])
    last = (kind, [layout.num_kv_heads * layout.head_size])
    expected = {
        f"past.{i}.{part}": inner if i < layout.num_layers - 1 else last
        for i in range(layout.num_layers)
        for part in ("key", "value")
    }
    found = {i.name: (i.type, [n for n in i.shape if isinstance(n, int)]) for i in session.get_inputs()}
    cache = {name: value for name, value in found.items() if name.startswith("past.")}
    if cache != expected:
        wrong = sorted(name for name in cache.keys() | expected if cache.get(name) != expected.get(name))
        raise BundleFormatError(
            f"the graph is not the one that the manifest describes: {wrong[0]} is {cache.get(wrong[0])}, "
            f"the dimensions and kv_dtype say {expected.get(wrong[0])}"
        )
