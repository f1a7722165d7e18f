"""The assumptions of a recipe about a tokenizer, asserted on the checkpoint's own.

In: the checkpoint's tokenizer and its recipe. Out: nothing, or a RecipeError that says what was found. Asserted: every
special token of the recipe is one token, the text is what the tokenizer's own chat template renders where the family
says so, the tokens at the read-outs are those expected, and the runtime's ids are those of the checkpoint's tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rfprm_export.errors import RecipeError
from rfprm_export.families.family import ExportRecipe, Family, Part
from rfprm_export.oracle.template import Message, render, text_of
from rfprm_lite.bundle.pieces import Cut, slot_names, specials
from rfprm_lite.errors import BundleFormatError, ContextLengthError, InputError
from rfprm_lite.question import Question
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.text.writing import step_drafts
from rfprm_lite.trace import Problem, Trace

CONVERSATION = (
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "5."},
    {"role": "user", "content": "And 4 more?"},
)


def assert_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int, spec: ExportRecipe) -> None:
    """Assert that every special token of the recipe is one token.

    Args:
        tokenizer: The checkpoint's own.
        vocab_size: Rows of the embedding table; the tokens must lie below.
        spec: The recipe.

    Raises:
        RecipeError: One is not.
    """
    recipe = spec.recipe
    for token in sorted(set(specials(recipe.pieces))):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] >= vocab_size:
            raise RecipeError(
                f"{recipe.name} needs {token!r} to be one token below {vocab_size}, "
                f"the tokenizer encodes it as {len(ids)}: {tokenizer.convert_ids_to_tokens(ids)}, ids {ids}"
            )


def assert_template(
    tokenizer: PreTrainedTokenizerBase,
    family: Family,
    spec: ExportRecipe,
    encoder: Encoder,
    traces: Sequence[tuple[str, Trace]],
) -> None:
    """Assert that the runtime makes the text and token ids of traces that the checkpoint's tokenizer makes.

    Args:
        tokenizer: The checkpoint's own.
        family: Whether its own chat template must write the same.
        spec: The recipe.
        encoder: The runtime's.
        traces: Problems with traces; a conversation is tried besides.

    Raises:
        RecipeError: It does not.
    """
    recipe = spec.recipe
    # Where the family writes the special tokens itself, the authors let the tokenizer add none.
    adds = not any(isinstance(piece, Part) for piece in (*family.opening, *family.step))
    probes: list[tuple[Problem, Trace]] = [*traces, *((CONVERSATION, trace) for _, trace in traces[:1] if recipe.chat)]
    for problem, trace in probes:
        try:
            *_, draft = step_drafts(recipe, problem, trace)
            ours = encoder.encode(draft).ids.tolist()
        except ContextLengthError:
            continue
        except (InputError, BundleFormatError) as error:
            raise RecipeError(f"{recipe.name} does not fit the tokenizer: {error}") from error
        if family.asserted:
            _assert_text(tokenizer, family, text_of(draft), problem, trace)
        if Cut() not in draft:
            theirs = tokenizer(text_of(draft), add_special_tokens=adds)["input_ids"]
            if theirs != ours:
                raise RecipeError(f"{recipe.name}: {_first_difference(tokenizer, ours, theirs)}")


def _first_difference(tokenizer: PreTrainedTokenizerBase, ours: Sequence[int], theirs: Sequence[int]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    here = slice(max(0, at - 2), at + 6)
    found = [f"{list(ids[here])} {tokenizer.convert_ids_to_tokens(list(ids[here]))}" for ids in (ours, theirs)]
    return (
        f"from token {here.start} of an example on, the runtime reads {found[0]}, and the checkpoint's own tokenizer "
        f"{found[1]}: its tokenizer.json is not what transformers makes of it"
    )


def _assert_text(tokenizer: PreTrainedTokenizerBase, family: Family, ours: str, problem: Problem, trace: Trace) -> None:
    if not tokenizer.chat_template:
        raise RecipeError(f"{family.name} needs a chat template, tokenizer_config.json has none")
    theirs = render(tokenizer, [*_messages(family, problem), {"role": "assistant", "content": _answer(family, trace)}])
    if not theirs.startswith(ours):
        raise RecipeError(
            f"{family.name} renders {ours!r}, the tokenizer's own chat template {theirs!r}: "
            "the checkpoint follows another recipe, or its template was changed"
        )


def _messages(family: Family, problem: Problem) -> list[Message]:
    if isinstance(problem, Question):
        raise TypeError("the probes are texts and conversations")
    if isinstance(problem, str):
        messages: list[Message] = [{"role": "user", "content": problem}]
    else:
        messages = [dict(message) for message in problem]
    if family.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": family.system})
    return messages


def _answer(family: Family, trace: Trace) -> str:
    """The assistant's message as the authors write it: steps with what stands behind each, or the whole text."""
    pieces = [piece for piece in family.step if not isinstance(piece, Part)]
    if slot_names(pieces) != ["step"]:
        return trace.text
    return "".join(step.text + "".join(specials(pieces)) for step in trace.steps)
