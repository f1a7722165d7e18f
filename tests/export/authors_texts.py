"""How each family's authors write a problem and steps, and where they read rewards: in token ids.

Written from their procedures, not from ours: they render, tokenise and find the positions of rewards in their own ways,
some with a text for every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import (
    PreTrainedTokenizerBase,
)

from checkpoints import MATH_SYSTEM

MATH = MATH_SYSTEM.replace("\\\\", "\\")

Text = tuple[list[int], list[int]]
"""Token ids, and the positions of rewards among them."""


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


def read_texts(texts: Sequence[Text]) -> list[list[int]]:
    """What the model has read at each reward."""
    return [list(ids[: i + 1]) for ids, at in texts for i in at]
