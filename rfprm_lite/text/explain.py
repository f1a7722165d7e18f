"""How a bundle scores, for people: what its recipe says, and the text that the model reads for an example.

In: an encoder. Out: lines of text.
"""

from __future__ import annotations

from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.text.rendering import rendering
from rfprm_lite.trace import Trace

PROBLEM = "What is 2 + 3 * 4?"
STEPS = ("3 * 4 = 12.", "2 + 12 = 14.", "The answer is 14.")
WHOLE = "whole"
"""The splitter of outcome models."""


def explained(encoder: Encoder) -> str:
    """What a recipe says, and an example as the model reads it; `⟦1⟧` is where the reward of step 1 stands.

    Args:
        encoder: Of the bundle.

    Raises:
        InputError: If the recipe needs more than a problem and a response: a reference answer, say.
    """
    facts = "".join(f"{name:<14}{value}\n" for name, value in _facts(encoder).items())
    example = rendering(encoder, PROBLEM, _trace(encoder.recipe))
    return f"{facts}\nWhat the model reads of an example; ⟦1⟧ is where the reward of step 1 stands:\n\n{example}"


def _facts(encoder: Encoder) -> dict[str, str]:
    recipe = encoder.recipe
    (low, high), good = recipe.head.range, recipe.head.good_above
    facts = {
        "recipe": recipe.name,
        "source": recipe.source,
        "reward": f"{low:g} to {high:g}" + (f", good above {good:g}" if good is not None else ""),
        "aggregate": str(recipe.aggregate),
        "most tokens": str(encoder.max_tokens),
        "steps": f"split by {recipe.split!r}" if recipe.split != WHOLE else "none: a response is read as one",
        "conversation": f"roles {', '.join(recipe.chat.turns)}" if recipe.chat else "one message of the user",
    }
    if recipe.cleaning.refuse:
        facts["refused"] = f"steps that hold {', '.join(map(repr, recipe.cleaning.refuse))}"
    if recipe.text_tokens:
        facts["text tokens"] = ", ".join(recipe.text_tokens)
    return facts


def _trace(recipe: Recipe) -> Trace:
    """The example, as the recipe takes it: one step, or with a final response of its own."""
    if recipe.split == WHOLE:
        return Trace.from_steps(["\n\n".join(STEPS)])
    return Trace.from_steps(STEPS, thinking=len(STEPS) - 1 if recipe.closing else 0)
