"""What each family's authors do, in plain PyTorch and transformers: checkpoints in their layouts, and their rewards.

Written from their procedures (shared by name in `Family.source`), not from ours: they render, tokenise and find the
positions of rewards in their own ways, some with a pass for every step, and ask transformers' own models. A text is
given to their code as it is; special tokens that it writes are made harmless by renaming the tokenizer's (`hidden`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import tokenizers_of_families as styles
from checkpoints import MATH_SYSTEM, _draw
from rfprm_export.families.options import Options
from tokenizers_of_families import LLAMA, MISTRAL, QWEN, QWEN3, Style

HIDDEN = 64
MATH = MATH_SYSTEM.replace("\\\\", "\\")

Text = tuple[list[int], list[int]]
"""Token ids, and the positions of rewards among them."""
Rewards = Callable[[Path, torch.Tensor], torch.Tensor]
"""A checkpoint and token ids -> the reward at each position."""


@dataclass(frozen=True)
class Authors:
    """Their tokenizer. name: what it calls a special token. before: messages before the last of the user."""

    tokenizer: PreTrainedTokenizerBase
    name: Callable[[str], str] = str
    before: tuple[dict[str, str], ...] = ()

    def after(self, messages: Sequence[dict[str, str]]) -> Authors:
        """The same, in a conversation."""
        return replace(self, before=tuple(messages))

    def ids(self, text: str, *, add: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=add)["input_ids"])

    def id(self, token: str) -> int:
        (found,) = self.ids(self.name(token))
        return found

    def render(self, *messages: tuple[str, str], generate: bool = False) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        system = chat[0]["role"] == "system"
        chat[system:system] = self.before
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generate))


Texts = Callable[[Authors, str, Sequence[str]], list[Text]]
"""How they write a problem and steps: one text, or one for each step."""


def where(ids: Sequence[int], token: int) -> list[int]:
    return [i for i, one in enumerate(ids) if one == token]


def prefixes(steps: Sequence[str]) -> list[str]:
    """The response up to each step, with a blank line between steps."""
    return ["\n\n".join(steps[: i + 1]) for i in range(len(steps))]


def last(ids: list[int]) -> Text:
    return ids, [len(ids) - 1]


# --- how they write a text -----------------------------------------------------------------------------------------


def separated_chat(*system: tuple[str, str]) -> Texts:
    """ReasonFlux-PRM-7B, Qwen2.5-Math-PRM: <extra_0> behind each step, in the assistant's message."""

    def texts(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
        extra = authors.name("<extra_0>")
        answer = extra.join(steps) + extra
        ids = authors.ids(authors.render(*system, ("user", problem), ("assistant", answer)))
        return [(ids, where(ids, authors.id("<extra_0>")))]

    return texts


def concatenated(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """ReasonFlux-PRM-1.5B: problem and response, one after the other."""
    return [last(authors.ids(problem + response)) for response in prefixes(steps)]


def whole_chat(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """Skywork-Reward, AceMath-RM, LLaMA-Factory: the rendered chat, without the BOS that the tokenizer adds again."""
    bos = authors.tokenizer.bos_token or ""
    texts = [authors.render(("user", problem), ("assistant", response)) for response in prefixes(steps)]
    return [last(authors.ids(text.removeprefix(bos), add=True)) for text in texts]


def whole_math_chat(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """Qwen2.5-Math-RM."""
    chats = [[("system", MATH), ("user", problem), ("assistant", response)] for response in prefixes(steps)]
    return [last(authors.ids(authors.render(*chat))) for chat in chats]


def lines(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """Skywork-o1-PRM's prepare_input. Empty lines have a reward there, which is no step's."""
    ids = authors.ids(authors.name("<|endoftext|>") + problem + "\n")
    newline = authors.ids("\n")[-1]
    at: list[int] = []
    for line in "\n\n".join(steps).split("\n"):
        ids += [*(authors.ids(line) if line else []), newline]
        at += [len(ids) - 1] if line.strip() else []
    return [(ids, at)]


def stepwise(separator: str, *, bos: bool = True) -> Texts:
    """TRL's tokenize_row, PURE: everything encoded by itself."""

    def texts(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
        begin = authors.tokenizer.bos_token_id
        ids = [*([begin] if bos and begin is not None else []), *authors.ids(problem)]
        at: list[int] = []
        for step in steps:
            ids += [*authors.ids(step), *authors.ids(authors.name(separator))]
            at.append(len(ids) - 1)
        return [(ids, at)]

    return texts


def plus_turns(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """RLHFlow's prm_evaluate.py: a conversation for each step, read at position -3."""
    texts: list[Text] = []
    conversation: list[tuple[str, str]] = []
    for i, step in enumerate(step.strip() for step in steps):
        conversation += [("user", f"{problem} {step}" if i == 0 else step), ("assistant", "+")]
        ids = authors.ids(authors.render(*conversation))
        texts.append((ids, [len(ids) - 3]))
    return texts


def one_plus_turn(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """RLHFlow's outcome model."""
    texts = [authors.render(("user", f"{problem} {answer}"), ("assistant", "+")) for answer in prefixes(steps)]
    return [(ids, [len(ids) - 3]) for ids in map(authors.ids, texts)]


def shepherd(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """Math-Shepherd's model card."""
    numbered = [step if step.startswith(f"Step {n}: ") else f"Step {n}: {step}" for n, step in enumerate(steps, 1)]
    ids = authors.ids(f"{problem} " + "\n".join(f"{step} ки" for step in numbered), add=True)
    return [(ids, where(ids, authors.ids("ки")[-1]))]


def blank_runs(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """VersaPRM's training data: the question and each step encoded by themselves."""
    ids = authors.ids(problem + " \n\n", add=True)
    at: list[int] = []
    for step in steps:
        ids += authors.ids(step + " \n\n\n\n")
        at.append(len(ids) - 1)
    return [(ids, at)]


FOVER_FIRST = """** Problem **
{problem}

** Task **
Your task is to evaluate the accuracy of each step in the provided solution to the above question. For each step, \
respond with "correct" if the reasoning is logically valid and mathematically sound, or if the step is a general \
statement or transition that does not contain reasoning. Respond with "incorrect" if the step includes any errors or \
flawed logic.

** Sotluion **
{step}"""


def correct_turns(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """FoVer: read at the last token of the header before each answer."""
    conversation: list[tuple[str, str]] = []
    at: list[int] = []
    for i, step in enumerate(steps):
        asked = FOVER_FIRST.format(problem=problem, step=step) if i == 0 else step
        at.append(len(authors.ids(authors.render(*conversation, ("user", asked), generate=True))) - 1)
        conversation += [("user", asked), ("assistant", "correct")]
    return [(authors.ids(authors.render(*conversation)), at)]


MEDPRM = (
    "You are an evaluator assessing the logicality and validity of the reasoning in each step of the given explanation."
    " In order to support the evaluation, the question and the explanation are provided. If the reasoning contains "
    "errors, output - after that step. If the reasoning in a step is logical and valid, output + after that step."
)


def explanation(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """Med-PRM's get_prob: the tokenizer adds BOS to a rendered chat that begins with it."""
    marker = authors.name(" ки")
    solution = " ".join(step + marker for step in steps)
    asked = f"Question: {problem}\n\nExplanation: {solution}"
    ids = authors.ids(authors.render(("system", MEDPRM), ("user", asked), generate=True), add=True)
    return [(ids, where(ids, authors.id(" ки")))]


def marked(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
    """ER-PRM, as compute-optimal-tts runs it."""
    ids = authors.ids(f"{problem} " + "".join(f"{step} ки" for step in steps), add=True)
    return [(ids, where(ids, authors.ids(" ки")[-1]))]


def placeholders(marker: str) -> Texts:
    """OpenRLHF's PRM data: a placeholder behind each step."""

    def texts(authors: Authors, problem: str, steps: Sequence[str]) -> list[Text]:
        marker_ = authors.name(marker)
        ids = authors.ids(f"{problem} " + "\n".join(f"{step} {marker_}" for step in steps), add=True)
        return [(ids, where(ids, authors.id(marker)))]

    return texts


NO_REFERENCE = "There is no reference answer for this question."


def universal(authors: Authors, problem: str, steps: Sequence[str], reference: str = NO_REFERENCE) -> list[Text]:
    """Universal-PRM's model card."""
    asked = f"{problem}\n\n###\n\nThe reference answer is: {reference}"
    query = authors.render(("system", "You are a helpful assistant."), ("user", asked), generate=True)
    end = authors.tokenizer.eos_token_id
    return [last([*authors.ids(query), *authors.ids(f"{steps}\n\n"), end]) for steps in prefixes(steps)]


def financial(authors: Authors, problem: str, steps: Sequence[str], choices: str = "") -> list[Text]:
    """Fin-PRM's training text: all steps but the last are the trajectory, that one the final answer."""
    *thoughts, answer = steps
    step, end = authors.name("<extra_0>"), authors.name("<extra_1>")
    trace = step.join(thoughts) + step
    text = f"##Question\n{problem}\n{choices}\n\n##Thinking Trajectory\n{trace}\n\n##Final Answer\n{answer}{end}"
    ids = authors.ids(text)
    return [(ids, sorted(where(ids, authors.id("<extra_0>")) + where(ids, authors.id("<extra_1>"))))]


# --- how they make a reward of what the model gives ----------------------------------------------------------------


def read_texts(texts: Sequence[Text]) -> list[list[int]]:
    """What the model has read at each reward."""
    return [list(ids[: i + 1]) for ids, at in texts for i in at]


def hidden_states(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return AutoModel.from_pretrained(folder).float().eval()(input_ids=ids).last_hidden_state[0]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}


def mlp(last_step: Callable[[torch.Tensor], torch.Tensor]) -> Rewards:
    """A head of two layers with ReLU between them, in the shards."""

    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        head = tensors(folder)
        inner = (hidden_states(folder, ids) @ head["score.0.weight"].T + head["score.0.bias"]).relu()
        return last_step(inner @ head["score.2.weight"].T + head["score.2.bias"])

    return rewards


def good_class(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1)[:, 1]


def v_head(file: str | None, last_step: Callable[[torch.Tensor], torch.Tensor]) -> Rewards:
    """trl's value head, in the shards or in a file beside them."""

    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        head = tensors(folder) if file is None else torch.load(folder / file, weights_only=True)
        weight, bias = (head[f"v_head.summary.{part}"].float() for part in ("weight", "bias"))
        return last_step(hidden_states(folder, ids) @ weight.T + bias)[:, 0]

    return rewards


def pickled(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    head = torch.load(folder / "reward_head.pt", weights_only=True)
    return (hidden_states(folder, ids) @ head["weight"].T + head["bias"]).sigmoid()[:, 0]


def rows(good: str, bad: str) -> Rewards:
    """Two rows of the language model's logits, softmax, the good one's; each label's first token."""

    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        labels = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in (good, bad)]
        model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
        return model(input_ids=ids).logits[0][:, labels].softmax(-1)[:, 0]

    return rewards


def token_classes(last_step: Callable[[torch.Tensor], torch.Tensor]) -> Rewards:
    def rewards(folder: Path, ids: torch.Tensor) -> torch.Tensor:
        model = AutoModelForTokenClassification.from_pretrained(folder).float().eval()
        return last_step(model(input_ids=ids).logits[0])

    return rewards


def sequence_class(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """One number of the whole text, wherever it is read."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
    return model(input_ids=ids).logits[0].expand(ids.shape[1])


# --- checkpoints -----------------------------------------------------------------------------------------------------

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
