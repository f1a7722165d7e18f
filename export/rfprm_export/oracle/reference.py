"""The oracle: the PRM in PyTorch, as its authors run it.

In: a checkpoint and its recipe. Out: step rewards in FP32, by the authors' text, tokenizer and formula (softmax over
the head at every separator, or sigmoid at the last token). Plain transformers classes; no code of the checkpoint.

One layer's weights are in memory at a time, whatever the model's size: a Qwen2Model of a single layer is given the
weights of each in turn, and all traces pass through it before the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config, Qwen2Model

from rfprm_export.checkpoint.head import Tensors
from rfprm_export.checkpoint.tensors import Checkpoint, load_json
from rfprm_export.errors import CheckpointError, RecipeError
from rfprm_export.families.recipes import ExportRecipe
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


class Layers:
    """Texts on their way through the network, with one layer's weights in memory at a time.

    Attributes:
        checkpoint: Whose layers.
        hidden: The residual stream of each text, float32 [1, tokens, hidden_size].
    """

    @torch.inference_mode()
    def __init__(self, checkpoint: Checkpoint, ids: Sequence[torch.Tensor]) -> None:
        self.checkpoint = checkpoint
        self.hidden = _embed(checkpoint, ids)
        self._next = 0
        self._model = _one_layer(checkpoint)
        self._norm = self._model.norm
        self._model.set_submodule("norm", torch.nn.Identity())

    @torch.inference_mode()
    def load(self) -> torch.nn.Module:
        """Load the weights of the next layer; returns the layer."""
        layer: torch.nn.Module = self._model.layers[0]
        for name, parameter in layer.named_parameters():
            _fill(parameter, self.checkpoint, f"model.layers.{self._next}.{name}")
        self._next += 1
        return layer

    @torch.inference_mode()
    def run(self) -> None:
        """Pass all texts through the layer that was loaded."""
        for i, hidden in enumerate(self.hidden):  # one at a time, so that they are not in memory twice
            self.hidden[i] = self._model(inputs_embeds=hidden, use_cache=False).last_hidden_state

    @torch.inference_mode()
    def norm(self) -> torch.nn.Module:
        """Load and return the final norm."""
        _fill(self._norm.weight, self.checkpoint, "model.norm.weight")
        return self._norm


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


def _one_layer(checkpoint: Checkpoint) -> Qwen2Model:
    config = load_json(checkpoint.folder / "config.json")
    # Each version of transformers passes over the other's way to write down rotary embeddings, and takes its default;
    # all understand rope_theta. A precision would make the parameters in that, layer_types count the layers.
    unwanted = ("rope_parameters", "rope_scaling", "torch_dtype", "dtype", "layer_types")
    config = {key: value for key, value in config.items() if key not in unwanted}
    config |= {"rope_theta": checkpoint.architecture.rope_theta, "num_hidden_layers": 1}
    config |= {"vocab_size": 1, "pad_token_id": None, "use_sliding_window": False}
    model: Qwen2Model = Qwen2Model(Qwen2Config(**config))
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise RuntimeError("transformers made the reference in another precision than float32")
    model.train(False)
    return model


def _fill(parameter: torch.nn.Parameter, checkpoint: Checkpoint, name: str) -> None:
    row = 0
    for block in checkpoint.blocks(name):
        parameter[row : row + len(block)].copy_(torch.from_numpy(block))
        row += len(block)
    if row != len(parameter):
        raise RuntimeError(f"{name} has {row} rows, transformers' Qwen2Model wants {len(parameter)}")


def _embed(checkpoint: Checkpoint, texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """[1, tokens, hidden_size] for each text; the table is read once, block by block."""
    ids = torch.cat([text[0] for text in texts]).numpy()
    embedded = np.empty((len(ids), checkpoint.architecture.hidden_size), np.float32)
    row = 0
    for block in checkpoint.blocks("model.embed_tokens.weight"):
        here = (ids >= row) & (ids < row + len(block))
        embedded[here] = block[ids[here] - row]
        row += len(block)
    split = torch.split(torch.from_numpy(embedded)[None], [text.shape[1] for text in texts], dim=1)
    return [text.clone() for text in split]  # each can be let go of by itself
