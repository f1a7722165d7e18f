"""OpenVINO with INT8 weights, exported by optimum-intel; the LM head is cut off, the PRM's head is in numpy.

The activations are what OpenVINO's CPU plugin chooses for INT8 weights: on CPUs with AVX512-BF16 it computes in BF16,
with activations quantised in groups. The prefix that all sequences of a call share is computed once if `share`: the
state behind it is kept and put back for each candidate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from optimum.intel import OVModelForCausalLM

from contender import ModelPaths, Rewards
from contenders.numpy_head import NumpyHead
from workloads import Sequence, shared_length

CHUNK = 512


class OpenVinoInt8:
    def __init__(self, share: bool) -> None:
        self._share = share

    def load(self, model: ModelPaths, threads: int) -> None:
        path = Path(model.converted) / "openvino-int8" / "openvino_model.xml"
        if not path.exists():
            exported = OVModelForCausalLM.from_pretrained(
                model.checkpoint, export=True, load_in_8bit=True, compile=False, stateful=True
            )
            exported.save_pretrained(path.parent)
        core = ov.Core()
        graph = core.read_model(path)
        _read_hidden_states(graph)
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._request = core.compile_model(graph, "CPU", config).create_infer_request()
        self._inputs = {name for i in graph.inputs for name in i.names}
        self._head = NumpyHead(model)

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        first = call[0].ids
        shared = min((shared_length(first, other.ids) for other in call[1:]), default=0) if self._share else 0
        self._request.reset_state()
        prefix = self._run(first[:shared], 0)
        kept = [np.array(state.state.data) for state in self._request.query_state()] if shared else []
        rewards: Rewards = []
        for sequence in call:
            self._restore(kept)
            own = self._run(sequence.ids[shared:], shared)
            hidden = np.stack([prefix[r] if r < shared else own[r - shared] for r in sequence.reads])
            rewards.append(self._head.rewards(hidden))
        return rewards, shared + sum(len(s.ids) - shared for s in call)

    def _restore(self, kept: list[np.ndarray]) -> None:
        if not kept:
            self._request.reset_state()
        for state, value in zip(self._request.query_state(), kept, strict=False):
            state.state = ov.Tensor(value)

    def _run(self, ids: list[int], past: int) -> np.ndarray:
        """Hidden states of `ids` on top of the state: [tokens, hidden_size]."""
        found = []
        for at in range(0, len(ids), CHUNK):
            chunk = ids[at : at + CHUNK]
            total = past + at + len(chunk)
            feeds = {
                "input_ids": np.array([chunk], np.int64),
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(past + at, total, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            self._request.infer({name: value for name, value in feeds.items() if name in self._inputs})
            found.append(np.array(self._request.get_output_tensor(0).data[0]))
        return np.concatenate(found) if found else np.empty(0)


def _read_hidden_states(graph: ov.Model) -> None:
    """Put what the LM head reads in the place of the graph's only result, the logits."""
    (logits,) = graph.results
    product = logits.input_value(0).get_node()
    while product.get_type_name() != "MatMul":
        product = product.input_value(0).get_node()
    hidden = ov.opset13.result(product.input_value(0))
    graph.add_results([hidden])
    graph.remove_result(logits)
    graph.validate_nodes_and_infer_types()
