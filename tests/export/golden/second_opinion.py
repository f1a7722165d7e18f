"""A second opinion on the demo model's rewards, by way of optimum-onnx. Makes optimum.json.

optimum-onnx pins transformers below 4.58 and so an old huggingface-hub: it gets an environment of its own.

    python3 -m venv .optimum
    .optimum/bin/pip install torch==2.13.0
    .optimum/bin/pip install optimum-onnx==0.1.0 'transformers<4.58' onnxruntime
    .optimum/bin/python tests/export/golden/second_opinion.py examples/train_demo_prm/demo-prm

Nothing of rfprm-lite is used: optimum exports the backbone, the checkpoint's own tokenizer renders the text, numpy
applies the head, rewards are gathered by position.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import transformers
from optimum.exporters.onnx import main_export
from safetensors.numpy import load_file
from transformers import AutoTokenizer

HERE = Path(__file__).parent


def rewards(
    session: onnxruntime.InferenceSession, head: dict[str, np.ndarray], ids: list[int], separator: int
) -> list[float]:
    inputs = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids), dtype=np.int64)[None],
    }
    names = {i.name for i in session.get_inputs()}
    hidden = session.run(["last_hidden_state"], {k: v for k, v in inputs.items() if k in names})[0][0]
    inner = np.maximum(hidden @ head["score.0.weight"].T + head["score.0.bias"], 0)
    logits = (inner @ head["score.2.weight"].T + head["score.2.bias"])[np.array(ids) == separator]
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return [float(p) for p in (exponents / exponents.sum(-1, keepdims=True))[:, 1]]


def main(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    separator = tokenizer.convert_tokens_to_ids("<extra_0>")
    weights = checkpoint / "model.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        main_export(str(checkpoint), output=folder, task="feature-extraction", do_validation=False)
        session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"])
        head = load_file(weights)
        traces = json.loads((HERE / "traces.json").read_text(encoding="utf-8"))
        for trace in traces:
            text = "<extra_0>".join(trace["steps"]) + "<extra_0>"
            messages = [{"role": "user", "content": trace["problem"]}, {"role": "assistant", "content": text}]
            ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
            trace["rewards"] = rewards(session, head, ids, separator)
    made = {
        "command": "python tests/export/golden/second_opinion.py examples/train_demo_prm/demo-prm",
        "versions": {"optimum-onnx": "0.1.0", **{m.__name__: m.__version__ for m in (onnxruntime, transformers, np)}},
        "checkpoint_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "traces": traces,
    }
    (HERE / "optimum.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
