"""A family that the exporter does not know takes a TOML file and no code; what is wrong in one is said where it is."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from authors_rewards import hidden_states
from authors_texts import where
from checkpoints import ROOT
from family_cases import CASES, HIDDEN
from rfprm_export.errors import RecipeError
from rfprm_export.families.family import Family
from rfprm_export.families.options import Options, family_from, to_toml
from rfprm_export.families.recipes import FAMILIES
from rfprm_export.families.recognise import Traits, misfit, recognise
from rfprm_export.pipeline import Request, export
from rfprm_lite import PRM

MADE_UP = """
name = "made-up-prm"
source = "this test"
marks = "pred with 3 outputs"
expect = " ки"
opening = [
    {type = "special", token = "<|quad_start|>"},
    {type = "text", text = "Problem: "},
    {type = "slot", name = "problem"},
    {type = "text", text = "\\n"},
]
step = [
    {type = "text", text = "Step: "},
    {type = "slot", name = "step", strip = "both"},
    {type = "text", text = " ки"},
    {type = "read"},
    {type = "text", text = "\\n"},
]

[cleaning]
refuse = [" ки"]

[head]
layers = "linear"
activation = "sigmoid"
weights = [1.0, 0.0, -2.0]
mean = 0.5
std = 2.0
good_above = 0.0

[tensors]
layers = [["pred.weight", "pred.bias"]]

[aggregate]
name = "max"
"""
PROBLEM, STEPS = "What is 2 + 3?", (" 2 + 3 is 5. ", "So 5.", "It is 5.")


def test_a_made_up_family_is_a_toml_file(tmp_path: Path) -> None:
    shapes = {"pred.weight": (3, HIDDEN), "pred.bias": (3,)}
    case = replace(CASES["trl-prm"], shapes=shapes, architecture="Qwen2ForSomething")
    checkpoint = case.make(tmp_path / "checkpoint")
    (tmp_path / "mine.toml").write_text(MADE_UP, encoding="utf-8")
    request = Request(
        str(checkpoint), tmp_path / "bundle", str(tmp_path / "mine.toml"), variants=["fp32", "int8"], most_traces=1
    )
    export(request)
    score = PRM.from_pretrained(tmp_path / "bundle", variant="fp32").score(PROBLEM, steps=STEPS)

    authors = case.authors(checkpoint)
    ids = authors.ids(f"<|quad_start|>Problem: {PROBLEM}\n" + "\n".join(f"Step: {s.strip()} ки" for s in STEPS))
    at = where(ids, authors.ids(" ки")[-1])
    head = {name: tensor.float() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    with torch.inference_mode():
        outputs = hidden_states(checkpoint, torch.tensor([ids]))[at] @ head["pred.weight"].T + head["pred.bias"]
    expected = (outputs.sigmoid() @ torch.tensor([1.0, 0.0, -2.0]) - 0.5) / 2
    np.testing.assert_allclose(score.step_rewards, expected, atol=1e-4)
    assert score.reward == pytest.approx(float(expected.max()), abs=1e-4)
    assert score.scale.range == (-1.25, 0.25)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_of_the_table_is_a_file_as_well(family: Family, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(family), encoding="utf-8")
    assert family_from(str(path)) == family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_says_what_it_is(family: Family) -> None:
    assert family.marks
    assert family.models
    assert family.source
    assert bool(family.tensors.labels or family.tensors.layers or family.needs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("name = ", "nom = "), r"unknown field `nom`"),
        (('"read"', '"reed"'), r"Invalid value 'reed' - at `\$\.step\[3\]\.type`"),
        (('name = "step"', 'name = "steep"'), r"'steep' - at `\$\.step\[1\]\.name`"),
        (('strip = "both"', 'strip = "all"'), r"'all' - at `\$\.step\[1\]\.strip`"),
        (('token = "<|quad_start|>"', "token = 3"), r"Expected `str`, got `int` - at `\$\.opening\[0\]\.token`"),
        (('layers = "linear"', 'layers = "deep"'), r"'deep' - at `\$\.head\.layers`"),
        (("std = 2.0", "std = 0.0"), r"std=0\.0: it is above 0 - at `\$\.head`"),
        (("weights = [1.0, 0.0, -2.0]", "weights = []"), r"at least one output.* - at `\$\.head`"),
        (('name = "max"', 'name = "median"'), r"'median' - at `\$\.aggregate\.name`"),
        (('source = "this test"', ""), r"missing required field `source`"),
        (("[head]", "[head"), r"line \d+"),
        (('    {type = "read"},\n', ""), r"step of made-up-prm needs one slot .*has the slots \['step'\] and 0 reads"),
        (('{type = "slot", name = "problem"}', '{type = "text", text = "?"}'), r"opening of made-up-prm has the slot"),
        (('token = "<|quad_start|>"', 'token = "<|no|>"'), r"needs '<\|no\|>' to be one token"),
        (('expect = " ки"', 'expect = "two tokens"'), r"expects the token 'two tokens' at each read-out"),
        (("weights = [1.0, 0.0, -2.0]", "weights = [1.0, 0.0]"), r"made-up-prm has 2 outputs, pred\.weight .* has 3"),
        (("pred.weight", "head.weight"), r"made-up-prm needs the tensor head\.weight, which the checkpoint lacks"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_said_where_it_is(
    tmp_path_factory: pytest.TempPathFactory, change: tuple[str, str], said: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "made-up"
    if not root.exists():
        shapes = {"pred.weight": (3, HIDDEN), "pred.bias": (3,)}
        replace(CASES["trl-prm"], shapes=shapes).make(root)
    assert change[0] in MADE_UP
    path = tmp_path_factory.mktemp("recipe") / "mine.toml"
    path.write_text(MADE_UP.replace(*change), encoding="utf-8")
    from rfprm_export.pipeline import plan

    with pytest.raises(RecipeError, match=said):
        plan(Request(str(root), path.with_name("bundle"), str(path)))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match=r"none\.toml is missing"):
        family_from("none.toml")
    with pytest.raises(RecipeError, match="no recipe is called 'none': there are reasonflux-prm-7b"):
        family_from("none")


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        (
            "reasonflux-prm-7b",
            Options(separator="x"),
            r"--separator: what stands behind a step of reasonflux-prm-7b is",
        ),
        ("trl-prm", Options(separator=""), r"--separator: it is empty"),
        ("trl-prm", Options(labels=("+", "-")), r"--labels: trl-prm has a head of its own"),
        ("rlhflow-prm", Options(labels=("+",)), r"--labels \+: at least two are needed"),
        ("rlhflow-prm", Options(labels=("+", "")), r"--labels \+,: at least two are needed"),
        ("trl-prm", Options(system="x"), r"--system: trl-prm does not ask"),
        ("trl-prm", Options(aggregate="median"), r"--aggregate: no aggregate is called 'median'"),
        ("trl-prm", Options(activation="relu"), r"--activation relu: it is softmax, sigmoid or none"),
        ("marker-prm", Options(), r"give --separator and --labels"),
        ("marker-prm", Options(separator="x"), r"give --labels"),
    ],
)
def test_an_option_that_means_nothing_is_refused_by_its_name(recipe: str, options: Options, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        options.applied(family_from(recipe))


def test_options_take_the_place_of_what_a_family_has() -> None:
    family = Options(aggregate="last", activation="sigmoid").applied(family_from("trl-prm"))
    assert (family.aggregate.name, family.head.activation) == ("last", "sigmoid")
    assert Options(labels=("Yes", "No", "Maybe")).applied(family_from("rlhflow-prm")).head.weights == (1.0, 0.0, 0.0)


MLP = {"score.0.weight": (8, 8), "score.0.bias": (8,), "score.2.weight": (2, 8), "score.2.bias": (2,)}
BACKBONE = {"model.embed_tokens.weight": (9, 8)}


@pytest.mark.parametrize(
    ("model_type", "shapes", "files", "said"),
    [
        ("qwen2", MLP, (), r"--recipe reasonflux-prm-7b or --recipe qwen2\.5-math-prm"),
        ("qwen2", MLP | {"score.2.weight": (1, 8)}, (), r"--recipe qwen2\.5-math-rm or --recipe universal-prm"),
        ("llama", MLP, (), r"no family fits.*it has score\.0\.bias \[8\], score\.0\.weight \[8, 8\]"),
        ("llama", {"lm_head.weight": (9, 8)}, (), r"could be anything.*rlhflow-prm.*--recipe FILE\.toml"),
        ("llama", {}, (), r"could be anything"),
        ("llama", {"score.weight": (5, 8)}, (), r"no family fits.*score\.weight"),
        ("llama", {"v_head.summary.weight": (1, 8), "v_head.summary.bias": (1,)}, (), r"no family fits"),
        ("qwen2", {"regression_head.weight": (1, 8)}, (), r"it has regression_head\.weight \[1, 8\]"),
    ],
)
def test_what_is_ambiguous_is_refused_with_what_decides(
    model_type: str, shapes: dict[str, tuple[int, ...]], files: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        recognise(Traits(model_type, "XForCausalLM", BACKBONE | shapes, files))


@pytest.mark.parametrize(
    ("model_type", "shapes", "files", "family"),
    [
        ("qwen3", MLP, (), "fin-prm"),
        ("qwen2", {"lm_head.weight": (9, 8)}, ("reward_head.pt",), "reasonflux-prm-1.5b"),
        ("llama", {"lm_head.weight": (9, 8)}, ("value_head.bin",), "value-head-rm"),
        ("gemma2", {"score.weight": (1, 8)}, (), "sequence-classification"),
        ("mistral", {"score.weight": (2, 8), "score.bias": (2,)}, (), "trl-prm"),
        ("mistral", {"score.weight": (1, 8), "score.bias": (1,)}, (), "one-label-prm"),
        ("qwen2", {"v_head.summary.weight": (1, 8), "v_head.summary.bias": (1,)}, (), "skywork-o1-prm"),
    ],
)
def test_tensors_tell_the_family_whatever_the_architecture_is_called(
    model_type: str, shapes: dict[str, tuple[int, ...]], files: tuple[str, ...], family: str
) -> None:
    found = recognise(Traits(model_type, "LlamaForCausalLM", BACKBONE | shapes, files))
    assert found.family.name == family
    assert model_type in found.reason


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("value-head-rm", r"needs one of the files value_head\.safetensors, value_head\.bin beside the shards"),
        ("trl-prm", r"needs the tensor score\.bias, which the checkpoint lacks"),
    ],
)
def test_a_named_family_that_does_not_fit_says_why(recipe: str, said: str) -> None:
    traits = Traits("llama", "X", BACKBONE | {"score.weight": (2, 8)}, ())
    assert re.search(said, str(misfit(family_from(recipe), traits)))


MODEL_TYPES = re.compile(r"\b(qwen\d?|llama|mistral|gemma\d?|internlm\d?)\b")


def test_no_model_type_is_named_outside_the_families() -> None:
    """A string or a name of the code; prose may speak of them."""
    found = []
    for package in (ROOT / "rfprm_lite", ROOT / "export" / "rfprm_export"):
        for path in package.rglob("*.py"):
            if not {"families", "evaluate"} & {*path.parts}:
                found += [f"{path.name}:{line} {text}" for line, text in _words(ast.parse(path.read_text("utf-8")))]
    assert found == []


def _words(tree: ast.Module) -> list[tuple[int, str]]:
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr)
    }
    words = [
        (node.lineno, str(getattr(node, "value", "") if isinstance(node, ast.Constant) else getattr(node, "id", "")))
        for node in ast.walk(tree)
        if isinstance(node, (ast.Constant, ast.Name)) and id(node) not in prose
    ]
    return [(line, text) for line, text in words if MODEL_TYPES.search(text)]
