"""The oracle: the PRM in PyTorch, as its authors run it.

In: a checkpoint and its recipe. Out: step rewards in FP32, by the authors' text, tokenizer and formula (softmax over
the head at every separator, or sigmoid at the last token). Plain transformers classes; no code of the checkpoint.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config, Qwen2Model

from rfprm_export.checkpoint import Checkpoint, read_json
from rfprm_export.head import Tensors
from rfprm_export.recipes import ExportRecipe
from rfprm_lite.trace import Trace


class Reference:
    """The whole model in memory, FP32."""

    def __init__(self, checkpoint: Checkpoint, spec: ExportRecipe, head: Tensors) -> None:
        self._spec = spec
        self._tokenizer = load_tokenizer(checkpoint)
        self._backbone = _load_backbone(checkpoint)
        layers: list[torch.nn.Module] = []
        for weight, bias in spec.head.names:
            linear = torch.nn.Linear(head[weight].shape[1], head[weight].shape[0])
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(head[weight]))
                linear.bias.copy_(torch.from_numpy(head[bias]))
            layers += [torch.nn.ReLU(), linear] if layers else [linear]
        self._head = torch.nn.Sequential(*layers)

    def step_rewards(self, problem: str, trace: Trace) -> NDArray[np.float32]:
        """float32 [num_steps]. Without a separator, one run for each step on the text cut off after it."""
        steps = [step.text for step in trace.steps]
        separator = self._spec.recipe.separator
        if separator is None:
            texts = [*(trace.text[: step.text_end] for step in trace.steps[:-1]), trace.text]
            return np.concatenate([self._rewards_and_ids(problem + text)[0][-1:] for text in texts])
        rewards, ids = self._rewards_and_ids(render(self._tokenizer, self._spec, problem, steps))
        return rewards[np.flatnonzero(ids == self._tokenizer.convert_tokens_to_ids(separator))]

    @torch.inference_mode()
    def _rewards_and_ids(self, text: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        logits = self._head(self._backbone(input_ids=ids, use_cache=False).last_hidden_state)[0]
        head = self._spec.recipe.head
        rewards = logits.softmax(-1)[:, head.positive] if head.activation == "softmax" else logits.sigmoid()[:, 0]
        return rewards.numpy(), ids[0].numpy()


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The checkpoint's own tokenizer, as the authors load it, but without remote code."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    return tokenizer


def render(tokenizer: PreTrainedTokenizerBase, spec: ExportRecipe, problem: str, steps: list[str]) -> str:
    """The text by the tokenizer's own chat template, as in the authors' README."""
    separator = spec.recipe.separator or ""
    messages = [{"role": "user", "content": problem}]
    if spec.system is not None:
        messages.insert(0, {"role": "system", "content": spec.system})
    messages.append({"role": "assistant", "content": separator.join(steps) + separator})
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))


def _load_backbone(checkpoint: Checkpoint) -> Qwen2Model:
    config = read_json(checkpoint.folder / "config.json")
    model: Qwen2Model = Qwen2Model(
        Qwen2Config(**{k: v for k, v in config.items() if k not in ("torch_dtype", "dtype")})
    )
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in checkpoint.architecture.backbone():
            row = 0
            parameter = parameters.pop(name.removeprefix("model."))
            for block in checkpoint.blocks(name):
                parameter[row : row + len(block)].copy_(torch.from_numpy(block))
                row += len(block)
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise RuntimeError("transformers made the reference in another precision than float32")
    if parameters:
        raise RuntimeError(
            f"transformers' Qwen2Model has parameters that the checkpoint does not: {sorted(parameters)}"
        )
    model.train(False)
    return model
