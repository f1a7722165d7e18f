"""The oracle: the PRM in PyTorch, as its authors run it.

In: a checkpoint and its recipe. Out: step rewards in FP32, by the authors' text, tokenizer and formula (softmax over
the head at every separator, or sigmoid at the last token). Plain transformers classes; no code of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rfprm_export.checkpoint.head import Tensors
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.errors import CheckpointError, RecipeError
from rfprm_export.families.recipes import ExportRecipe
from rfprm_export.oracle.layers import Layers
from rfprm_lite.trace import Problem, Trace

Rewards = NDArray[np.float32]


class Reference:
    """The oracle of one checkpoint. Each pass reads the weights anew.

    Attributes:
        checkpoint: The checkpoint.
        head: The tensors of its head, float32 by name.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: ExportRecipe,
        head: Tensors,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """`tokenizer`: the checkpoint's own, if it was loaded before."""
        self.checkpoint, self.head = checkpoint, head
        self._spec = spec
        self._tokenizer = tokenizer or load_tokenizer(checkpoint.folder)
        self._head = _head(spec, head)

    def step_rewards(self, traces: Sequence[tuple[Problem, Trace]]) -> list[Rewards]:
        """Score traces as the authors do.

        Without a separator each step has a text of its own, cut off after it.

        Returns:
            float32 [num_steps] for each problem and trace.
        """
        texts = [self._texts(problem, trace) for problem, trace in traces]
        ids = [self._tokenizer(text, return_tensors="pt")["input_ids"] for of_trace in texts for text in of_trace]
        rewards = zip(ids, self.rewards(ids), strict=True)
        return [np.concatenate([self._select(*next(rewards)) for _ in of_trace]) for of_trace in texts]

    def _texts(self, problem: Problem, trace: Trace) -> list[str]:
        if self._spec.recipe.separator is None:
            ends = [*(step.text_end for step in trace.steps[:-1]), len(trace.text)]
            return [plain(problem) + trace.text[:end] for end in ends]
        return [render(self._tokenizer, self._spec, problem, [step.text for step in trace.steps])]

    def _select(self, ids: torch.Tensor, rewards: Rewards) -> Rewards:
        """The rewards at a text's read-outs."""
        if self._spec.recipe.separator is None:
            return rewards[-1:]
        separator = self._tokenizer.convert_tokens_to_ids(self._spec.recipe.separator)
        return rewards[np.flatnonzero(ids[0].numpy() == separator)]

    def rewards(self, ids: Sequence[torch.Tensor]) -> list[Rewards]:
        """Score texts at every position: int64 [1, tokens] of each -> float32 [tokens] of each."""
        layers = self.layers(ids)
        for _ in range(self.checkpoint.architecture.num_layers):
            layers.load()
            layers.run()
        return self.head_rewards(layers)

    def layers(self, ids: Sequence[torch.Tensor]) -> Layers:
        """Embed texts, int64 [1, tokens] each, before the first layer."""
        return Layers(self.checkpoint, ids)

    @torch.inference_mode()
    def head_rewards(self, layers: Layers) -> list[Rewards]:
        """Score texts that have passed all layers: float32 [tokens] of each."""
        head, norm = self._spec.recipe.head, layers.norm()
        logits = [self._head(norm(hidden))[0] for hidden in layers.hidden]
        if head.activation == "softmax":
            return [x.softmax(-1)[:, head.positive].numpy() for x in logits]
        return [x.sigmoid()[:, 0].numpy() for x in logits]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the checkpoint's own tokenizer, as the authors do, but without remote code.

    Raises:
        CheckpointError: There is none, or transformers can't load it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises Exception itself
        raise CheckpointError(f"transformers can't load the tokenizer of {folder}: {error}") from error
    return tokenizer


def plain(problem: Problem) -> str:
    """Return the problem of a recipe without a chat template.

    Raises:
        RecipeError: It is a conversation.
    """
    if not isinstance(problem, str):
        raise RecipeError("without a chat template there is no text of a conversation")
    return problem


def render(tokenizer: PreTrainedTokenizerBase, spec: ExportRecipe, problem: Problem, steps: list[str]) -> str:
    """Render the text by the tokenizer's own chat template, as in the authors' README.

    Args:
        tokenizer: The checkpoint's own.
        spec: The recipe.
        problem: A text or a conversation.
        steps: Of the trace.

    Raises:
        RecipeError: The template refuses it.
    """
    separator = spec.recipe.separator or ""
    messages = [{"role": "user", "content": problem}] if isinstance(problem, str) else [dict(m) for m in problem]
    if spec.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": spec.system})
    messages.append({"role": "assistant", "content": separator.join(steps) + separator})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))
    except TemplateError as error:
        raise RecipeError(
            f"{spec.recipe.name}: the tokenizer's chat template refuses a plain trace: {error}"
        ) from error


def _head(spec: ExportRecipe, tensors: Tensors) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for weight, bias in spec.head.names:
        linear = torch.nn.Linear(tensors[weight].shape[1], tensors[weight].shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(tensors[weight]))
            linear.bias.copy_(torch.from_numpy(tensors[bias]))
        layers += [torch.nn.ReLU(), linear] if layers else [linear]
    return torch.nn.Sequential(*layers)
