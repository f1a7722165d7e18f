"""The assumptions of a recipe about a tokenizer, asserted on the checkpoint's own.

In: the checkpoint's tokenizer and its recipe. Out: nothing, or a RecipeError that says what was found. Asserted: every
special token of the template is one token, the rendered template is what the tokenizer's own chat template renders, and
the runtime's token ids are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from rfprm_export.errors import RecipeError
from rfprm_export.families.recipes import ExportRecipe
from rfprm_export.oracle.reference import plain, render
from rfprm_lite.bundle.recipe import Special, Text
from rfprm_lite.text.conversation import prompt_pieces
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Trace

CONVERSATION = (
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "5."},
    {"role": "user", "content": "And 4 more?"},
)


def assert_tokens(tokenizer: PreTrainedTokenizerBase, vocab_size: int, spec: ExportRecipe) -> None:
    """Assert that every special token of the template is one token.

    Args:
        tokenizer: The checkpoint's own.
        vocab_size: Rows of the embedding table; the tokens must lie below.
        spec: The recipe.

    Raises:
        RecipeError: One is not.
    """
    recipe = spec.recipe
    tokens = {piece.token for piece in recipe.template if isinstance(piece, Special)}
    for token in sorted(tokens | ({recipe.separator} if recipe.separator else set())):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] >= vocab_size:
            raise RecipeError(
                f"{recipe.name} needs {token!r} to be one token below {vocab_size}, "
                f"the tokenizer encodes it as {len(ids)}: {tokenizer.convert_ids_to_tokens(ids)}, ids {ids}"
            )


def assert_template(
    tokenizer: PreTrainedTokenizerBase, spec: ExportRecipe, encoder: Encoder, traces: Sequence[tuple[str, Trace]]
) -> None:
    """Assert that the runtime makes the same text and token ids of traces as the authors' code.

    Args:
        tokenizer: The checkpoint's own.
        spec: The recipe.
        encoder: The runtime's.
        traces: Problems with traces; a conversation is tried besides.

    Raises:
        RecipeError: It does not.
    """
    recipe = spec.recipe
    probes: list[tuple[Problem, Trace]] = [*traces, *((CONVERSATION, trace) for _, trace in traces[:1] if recipe.chat)]
    if recipe.chat and not tokenizer.chat_template:
        raise RecipeError(f"{recipe.name} needs a chat template, tokenizer_config.json has none")
    for problem, trace in probes:
        steps = [step.text for step in trace.steps]
        ours = _render(spec, problem, trace)
        theirs = render(tokenizer, spec, problem, steps) if recipe.chat else plain(problem) + trace.text
        if not theirs.startswith(ours):
            raise RecipeError(
                f"{recipe.name} renders {ours!r}, the tokenizer's own chat template {theirs!r}: "
                "the checkpoint follows another recipe, or its template was changed"
            )
        our_ids = encoder.step_sequences(problem, trace)[-1].ids.tolist()
        their_ids = tokenizer(theirs)["input_ids"]
        if their_ids[: len(our_ids)] != our_ids:
            raise RecipeError(f"{recipe.name}: the runtime reads {our_ids}, the checkpoint's tokenizer {their_ids}")


def _render(spec: ExportRecipe, problem: Problem, trace: Trace) -> str:
    """The recipe's text up to the last read-out."""
    separator = spec.recipe.separator
    steps = trace.text if separator is None else "".join(step.text + separator for step in trace.steps)
    text = ""
    for piece in prompt_pieces(problem, spec.recipe):
        if isinstance(piece, Special):
            text += piece.token
        elif isinstance(piece, Text):
            text += piece.text
    return text + steps
