"""The table of recipes that the exporter knows, and which of them a checkpoint asks for.

A recipe is data. Beside what the runtime needs stands what the exporter must find in a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfprm_export.errors import RecipeError
from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle.recipe import Chat, Head, Recipe, Slot, Special, Text

QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN_MATH_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


START, END = Special("<|im_start|>"), Special("<|im_end|>")


def _chatml(system: str) -> Chat:
    """ChatML: the steps stand in the assistant's turn."""
    message = (START, Slot("role"), Text("\n"), Slot("content"), END, Text("\n"))
    return Chat(message, system, opening=(START, Text("assistant\n")))


QWEN, QWEN_MATH = _chatml(QWEN_SYSTEM), _chatml(QWEN_MATH_SYSTEM)


@dataclass(frozen=True, slots=True)
class HeadTensors:
    """Where a checkpoint keeps its head.

    Attributes:
        file: A PyTorch pickle beside the shards, or None for the shards.
        names: Weight and bias of each linear layer, in order.
    """

    file: str | None
    names: tuple[tuple[str, str], ...]

    @property
    def first_weight(self) -> str:
        """The tensor that multiplies the final norm's output."""
        return self.names[0][0]


@dataclass(frozen=True, slots=True)
class ExportRecipe:
    """A recipe, and what it asserts on a checkpoint.

    Attributes:
        recipe: What the runtime needs.
        architecture: The config's architectures[0].
        head: Where the head is.
        system: The system message that the authors pass; None where they pass none, so that the template's own default
            counts.
    """

    recipe: Recipe
    architecture: str
    head: HeadTensors
    system: str | None = None


_SCORE = HeadTensors(None, (("score.0.weight", "score.0.bias"), ("score.2.weight", "score.2.bias")))

RECIPES = (
    ExportRecipe(
        Recipe(
            name="reasonflux-prm-7b",
            template=tuple(QWEN.template),
            separator="<extra_0>",
            head=Head("mlp", outputs=2, activation="softmax", positive=1),
            aggregate=Aggregate("mean+final", alpha=1.0, final="last"),
            max_tokens=None,
            source="Gen-Verse/ReasonFlux ReasonFlux_PRM/README.md; arXiv 2506.18896",
            chat=QWEN,
        ),
        architecture="Qwen2ForProcessRewardModel",
        head=_SCORE,
    ),
    ExportRecipe(
        Recipe(
            name="reasonflux-prm-1.5b",
            template=(Slot("problem"), Slot("steps")),
            separator=None,
            head=Head("linear", outputs=1, activation="sigmoid"),
            aggregate=Aggregate("last"),
            max_tokens=2048,
            source="Gen-Verse/ReasonFlux ReasonFlux_PRM/README.md and utils/rm_utils.py; arXiv 2506.18896",
        ),
        architecture="Qwen2ForCausalLM",
        head=HeadTensors("reward_head.pt", (("weight", "bias"),)),
    ),
    ExportRecipe(
        Recipe(
            name="qwen2.5-math-prm",
            template=tuple(QWEN_MATH.template),
            separator="<extra_0>",
            head=Head("mlp", outputs=2, activation="softmax", positive=1),
            aggregate=Aggregate("product"),
            max_tokens=None,
            source="Qwen/Qwen2.5-Math-PRM-7B model card; arXiv 2501.07301",
            chat=QWEN_MATH,
        ),
        architecture="Qwen2ForProcessRewardModel",
        head=_SCORE,
        system=QWEN_MATH_SYSTEM,
    ),
)


def choose(name: str | None, architecture: str) -> ExportRecipe:
    """Choose the recipe called `name`, or the only one for `architecture`.

    Raises:
        RecipeError: There is none, or there are several.
    """
    names = ", ".join(r.recipe.name for r in RECIPES)
    if name is not None:
        recipe = next((r for r in RECIPES if r.recipe.name == name), None)
        if recipe is None:
            raise RecipeError(f"no recipe is called {name!r}: there are {names}")
        if recipe.architecture != architecture:
            raise RecipeError(f"recipe {name} is for {recipe.architecture}, the checkpoint is a {architecture}")
        return recipe
    fitting = [r for r in RECIPES if r.architecture == architecture]
    if not fitting:
        raise RecipeError(f"no recipe is for a {architecture}: there are {names}")
    if len(fitting) > 1:
        choices = " or ".join(f"--recipe {r.recipe.name}" for r in fitting)
        raise RecipeError(
            f"a {architecture} may follow several recipes, which differ in the system prompt and the aggregate, and "
            f"the checkpoint does not say which was meant: name one, {choices}"
        )
    return fitting[0]
