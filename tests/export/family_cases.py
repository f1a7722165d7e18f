"""A case for each family: a checkpoint in its authors' layout, and their own way to its rewards.

How they write texts is in `authors_texts.py`, how they make rewards in `authors_rewards.py`.
A text is given to their code as it is; special tokens that it writes are made harmless by
renaming the tokenizer's (`hidden`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import tokenizers_of_families as styles
from authors_rewards import Rewards, good_class, mlp, pickled, rows, sequence_class, token_classes, v_head
from authors_texts import (
    MATH,
    Authors,
    Text,
    Texts,
    blank_runs,
    concatenated,
    correct_turns,
    explanation,
    financial,
    lines,
    marked,
    one_plus_turn,
    placeholders,
    plus_turns,
    separated_chat,
    shepherd,
    stepwise,
    universal,
    whole_chat,
    whole_math_chat,
)
from checkpoints import _draw
from rfprm_export.families.options import Options
from tokenizers_of_families import LLAMA, MISTRAL, QWEN, QWEN3, Style

HIDDEN = 64

MLP_OF_TWO: dict[str, tuple[int, ...]] = {
    "score.0.weight": (HIDDEN, HIDDEN),
    "score.0.bias": (HIDDEN,),
    "score.2.weight": (2, HIDDEN),
    "score.2.bias": (2,),
}
MLP_OF_ONE = MLP_OF_TWO | {"score.2.weight": (1, HIDDEN), "score.2.bias": (1,)}
V_HEAD = {"v_head.summary.weight": (1, HIDDEN), "v_head.summary.bias": (1,)}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Case:
    """A checkpoint of a family, and what its authors do with it.

    family: The name of the recipe. backbone: The model_type. style: The tokenizer. shapes: Of the head in the shards;
    the language model's head stays where there is none. beside: Of a head in a file beside the shards. named: Whether
    the recipe must be named. chat: The messages of the system that the authors' chat has, where it has a chat.
    """

    family: str
    texts: Texts
    rewards: Rewards
    style: Style = QWEN
    backbone: str = "qwen2"
    architecture: str = "Qwen2ForCausalLM"
    shapes: Shapes = field(default_factory=dict)
    beside: tuple[str, Shapes] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    named: bool = False
    chat: bool = False

    def make(self, folder: Path, seed: int = 0) -> Path:
        """Write a checkpoint with random weights."""
        if self.backbone not in CONFIG_MAPPING:
            pytest.skip(f"transformers {transformers.__version__} has no {self.backbone}")
        folder.mkdir(parents=True)
        size = {
            "hidden_size": HIDDEN,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        }
        vocabulary = self.style.write(folder) + 8  # more rows than tokens, as in the real ones
        config = AutoConfig.for_model(self.backbone, vocab_size=vocabulary, **(size | self.config))
        model = AutoModelForCausalLM.from_config(config)
        config.architectures = [self.architecture]
        config.torch_dtype = "bfloat16"
        random = torch.Generator().manual_seed(seed)
        shapes: Shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if self.shapes:
            del shapes["lm_head.weight"]
        drawn = {name: _draw(name, shape, random) for name, shape in (shapes | self.shapes).items()}
        save_file(drawn, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        if self.beside is not None:
            file, own = self.beside
            torch.save({name: _draw(name, shape, random).float() for name, shape in own.items()}, folder / file)
        return folder

    def authors(self, folder: Path, *, harmless: bool = False) -> Authors:
        """Their tokenizer; harmless: its special tokens renamed, so that no text writes one."""
        if not harmless:
            return Authors(AutoTokenizer.from_pretrained(folder))
        other = folder.with_name(f"{folder.name}-renamed")
        if not other.exists():
            other.mkdir()
            self.style.write(other, styles.hidden)
        names = {token: styles.hidden(token) for token in self.style.specials}
        return Authors(AutoTokenizer.from_pretrained(other), lambda token: names.get(token, token))

    @torch.inference_mode()
    def expected(self, folder: Path, texts: Sequence[Text]) -> list[float]:
        """The rewards of texts, one after another."""
        found: list[float] = []
        for ids, at in texts:
            found += self.rewards(folder, torch.tensor([ids]))[at].tolist()
        return found


CASES = {
    "reasonflux-prm-7b": Case(
        "reasonflux-prm-7b", separated_chat(), mlp(good_class), shapes=MLP_OF_TWO, named=True, chat=True
    ),
    "reasonflux-prm-1.5b": Case(
        "reasonflux-prm-1.5b", concatenated, pickled, beside=("reward_head.pt", {"weight": (1, HIDDEN), "bias": (1,)})
    ),
    "qwen2.5-math-prm": Case(
        "qwen2.5-math-prm", separated_chat(("system", MATH)), mlp(good_class), shapes=MLP_OF_TWO, named=True, chat=True
    ),
    "acemath-rm": Case(
        "sequence-classification",
        whole_chat,
        sequence_class,
        shapes={"score.weight": (1, HIDDEN)},
        config={"num_labels": 1},
        architecture="Qwen2ForSequenceClassification",
        chat=True,
    ),
    "skywork-reward-llama": Case(
        "sequence-classification",
        whole_chat,
        sequence_class,
        style=LLAMA,
        backbone="llama",
        shapes={"score.weight": (1, HIDDEN)},
        config={"num_labels": 1},
        architecture="LlamaForSequenceClassification",
        chat=True,
    ),
    "skywork-reward-qwen3": Case(
        "sequence-classification",
        whole_chat,
        sequence_class,
        style=QWEN3,
        backbone="qwen3",
        shapes={"score.weight": (1, HIDDEN)},
        config={"num_labels": 1},
        architecture="Qwen3ForSequenceClassification",
        chat=True,
    ),
    "skywork-o1-prm": Case(
        "skywork-o1-prm", lines, v_head(None, torch.sigmoid), shapes=V_HEAD, architecture="Qwen2ForPrmModel"
    ),
    "trl-prm": Case(
        "trl-prm",
        stepwise("\n"),
        token_classes(good_class),
        shapes={"score.weight": (2, HIDDEN), "score.bias": (2,)},
        architecture="Qwen2ForTokenClassification",
    ),
    "trl-prm-llama": Case(
        "trl-prm",
        stepwise("<|reserved_special_token_0|>"),
        token_classes(good_class),
        style=LLAMA,
        backbone="llama",
        shapes={"score.weight": (2, HIDDEN), "score.bias": (2,)},
        architecture="LlamaForTokenClassification",
        options=Options(separator="<|reserved_special_token_0|>"),
    ),
    "one-label-prm": Case(
        "one-label-prm",
        stepwise("\n"),
        token_classes(lambda logits: logits.sigmoid()[:, 0]),
        shapes={"score.weight": (1, HIDDEN), "score.bias": (1,)},
        architecture="Qwen2ForTokenClassification",
        config={"num_labels": 1},
        options=Options(separator="\n", activation="sigmoid"),
    ),
    "pure-prm": Case(
        "pure-prm",
        stepwise("\n", bos=False),
        token_classes(lambda logits: logits.softmax(-1) @ torch.tensor([-1.0, 1.0])),
        shapes={"score.weight": (2, HIDDEN), "score.bias": (2,)},
        architecture="Qwen2ForTokenClassification",
        named=True,
    ),
    "rlhflow-prm": Case("rlhflow-prm", plus_turns, rows("+", "-"), style=LLAMA, backbone="llama", named=True),
    "rlhflow-orm": Case("rlhflow-orm", one_plus_turn, rows("+", "-"), style=LLAMA, backbone="llama", named=True),
    "math-shepherd": Case("math-shepherd", shepherd, rows("+", "-"), style=MISTRAL, backbone="mistral", named=True),
    "versaprm": Case("versaprm", blank_runs, rows("+", "-"), style=LLAMA, backbone="llama", named=True),
    "dprm-qwen": Case("versaprm", blank_runs, rows("+", "-"), named=True),
    "foverprm": Case(
        "foverprm", correct_turns, rows("correct", "incorrect"), style=LLAMA, backbone="llama", named=True
    ),
    "foverprm-qwen": Case("foverprm", correct_turns, rows("correct", "incorrect"), named=True),
    "medprm": Case(
        "medprm",
        explanation,
        rows(" +", " -"),
        style=LLAMA.with_specials(" ки").with_template("llama3.1"),
        backbone="llama",
        named=True,
    ),
    "er-prm": Case("er-prm", marked, rows(" +", " -"), style=LLAMA, backbone="llama", named=True),
    "qwen2.5-math-rm": Case(
        "qwen2.5-math-rm",
        whole_math_chat,
        mlp(lambda logits: logits[:, 0]),
        shapes=MLP_OF_ONE,
        architecture="Qwen2ForRewardModel",
        named=True,
        chat=True,
    ),
    "universal-prm": Case(
        "universal-prm",
        universal,
        mlp(lambda logits: logits.sigmoid()[:, 0]),
        shapes=MLP_OF_ONE,
        architecture="Qwen2ForRewardModel",
        named=True,
    ),
    "fin-prm": Case(
        "fin-prm",
        financial,
        mlp(good_class),
        style=QWEN3,
        backbone="qwen3",
        shapes=MLP_OF_TWO,
        architecture="Qwen3ForCausalLM",
    ),
    "value-head-rm": Case(
        "value-head-rm",
        whole_chat,
        v_head("value_head.bin", lambda values: values),
        beside=("value_head.bin", V_HEAD),
        chat=True,
    ),
    "marker-prm": Case(
        "marker-prm",
        placeholders("<|reserved_special_token_1|>"),
        rows("+", "-"),
        style=LLAMA,
        backbone="llama",
        options=Options(separator="<|reserved_special_token_1|>", labels=("+", "-")),
        named=True,
    ),
}
