"""A variant's graph run outside of the runtime: one layer at a time, for models that do not fit into memory as a whole.

In: a bundle's variant and token sequences. Out: the rewards at their read-outs, by the nodes and weights of the very
graph that users run: it is cut between its layers, and all sequences pass through one part before the
next is opened. Nothing is cached and no prefix is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort
from numpy.typing import NDArray

from rfprm_export.graph.network import cut_names
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine.engine import run_inputs
from rfprm_lite.engine.kv import SPARE
from rfprm_lite.engine.session import open_session
from rfprm_lite.errors import NumericalError
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Trace

Values = dict[str, NDArray[np.generic]]


def step_rewards(
    bundle: Bundle, encoder: Encoder, traces: Sequence[tuple[str, Trace]], *, by_layer: bool = True
) -> list[NDArray[np.float32]]:
    """Score traces with a variant, layer by layer.

    Args:
        bundle: With the variant.
        encoder: The runtime's.
        traces: Problems with traces.
        by_layer: Whether to cut the graph at all.

    Returns:
        float32 [num_steps] for each problem and trace.

    Raises:
        NumericalError: A reward is no number.
    """
    sequences = [encoder.step_sequences(problem, trace) for problem, trace in traces]
    scores = iter(rewards(bundle, [sequence for of_trace in sequences for sequence in of_trace], by_layer=by_layer))
    return [np.concatenate([next(scores) for _ in of_trace]) for of_trace in sequences]


def rewards(bundle: Bundle, sequences: Sequence[TokenSequence], *, by_layer: bool = True) -> list[NDArray[np.float32]]:
    """Score sequences with a variant, layer by layer.

    Args:
        bundle: With the variant.
        sequences: Token ids and read-outs.
        by_layer: Whether to cut the graph at all.

    Returns:
        float32 [num_read] of each sequence.

    Raises:
        NumericalError: A reward is no number.
    """
    model = onnx.load(bundle.graph, load_external_data=False)
    extractor = onnx.utils.Extractor(model)
    caches = [value.name for value in model.graph.input if value.name.startswith("past.")]
    always = [value.name for value in model.graph.input if value.name not in caches]
    last = bundle.manifest.dimensions.num_layers - 1
    cuts = [cut_names(0)[:1], *(cut_names(i) for i in range(1, last + 1))] if by_layer else []
    states: list[Values] = [{} for _ in sequences]
    for i, (before, after) in enumerate(pairwise([(), *cuts, ("rewards",)]), start=-1):
        past = [name for name in caches if name.startswith(f"past.{i}.")] if by_layer else caches
        part = extractor.extract_model([*always, *before, *past], list(after))
        _through(part, bundle, states, sequences)
    # A lone read-out is computed twice.
    scores = [state["rewards"].astype(np.float32)[: len(s.read_at)] for state, s in zip(states, sequences, strict=True)]
    if not all(np.isfinite(of_sequence).all() for of_sequence in scores):
        raise NumericalError(f"variant {bundle.variant.name!r} gave a reward that is no number")
    return scores


def _through(part: onnx.ModelProto, bundle: Bundle, states: list[Values], sequences: Sequence[TokenSequence]) -> None:
    """All sequences, in place. The part's session ends with this function: the next part has the memory."""
    with _opened(part, bundle) as session:
        for at, sequence in enumerate(sequences):
            states[at] = _run(session, bundle.variant.lanes, states[at], sequence)


def _run(session: ort.InferenceSession, lanes: int, state: Values, sequence: TokenSequence) -> Values:
    """The part's outputs for a sequence, of which nothing is cached."""
    values: Values = {**state, **run_inputs(lanes, {0: (0, sequence.ids, sequence.read_at)}, least=2)}
    feeds: Values = {}
    for value in session.get_inputs():
        # The last layer's past has no tokens; the others' has room for this run's.
        sizes = {f"capacity.{lane}": len(sequence.ids) + SPARE if lane == 0 else SPARE for lane in range(lanes)}
        shape = [size if isinstance(size, int) else sizes.get(size, 0) for size in value.shape]
        dtype = np.float16 if value.type == "tensor(float16)" else np.float32
        feeds[value.name] = values[value.name] if value.name in values else np.zeros(shape, dtype)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@contextmanager
def _opened(part: onnx.ModelProto, bundle: Bundle) -> Iterator[ort.InferenceSession]:
    """A session of a part, whose weights are in the data file beside the whole graph."""
    path = bundle.graph.with_name(".part.onnx")
    try:
        path.write_bytes(part.SerializeToString())
        yield open_session(path, DeviceSpec("cpu"), None, sums_fit_16_bits=bundle.variant.sums_fit_16_bits)
    finally:
        path.unlink(missing_ok=True)
